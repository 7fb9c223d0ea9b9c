"""Batches on the wire, for both ends.

On protobuf's own messages: a dataclass for each call and each result would cost as much again as the rest of their way.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import message_factory

SERVICE_NAME = "souk.batch.v1.BatchService"


class Call(NamedTuple):
    """A call of a unary method."""

    method: str
    """Its path."""
    request: bytes


class Result(NamedTuple):
    """What became of a call: a response, or the google.rpc.Status of its failure."""

    response: bytes | None
    status: bytes = b""


@cache
def _message(name: str) -> Any:
    # Imported when it is needed: the stub of that package, as every stub, imports what imports this module.
    from souk_contracts.batch.v1 import codec

    return message_factory.GetMessageClass(codec.DESCRIPTOR.message_types_by_name[name])


def encode_calls(calls: Sequence[Call]) -> bytes:
    """A souk.batch.v1.CallRequest."""
    encoded: bytes = _message("CallRequest")(
        items=[{"method": method, "request": request} for method, request in calls]
    ).SerializeToString()
    return encoded


def decode_calls(encoded: bytes) -> list[Call]:
    """Those of a souk.batch.v1.CallRequest. Raises DecodeError."""
    return [Call(item.method, item.request) for item in _message("CallRequest").FromString(encoded).items]


def encode_results(results: Sequence[Result]) -> bytes:
    """A souk.batch.v1.CallResponse."""
    encoded: bytes = _message("CallResponse")(
        results=[{"status": status} if response is None else {"response": response} for response, status in results]
    ).SerializeToString()
    return encoded


def decode_results(encoded: bytes) -> list[Result]:
    """Those of a souk.batch.v1.CallResponse, also one that says neither yes nor no. Raises DecodeError."""
    return [
        Result(result.response) if result.HasField("response") else Result(None, result.status)
        for result in _message("CallResponse").FromString(encoded).results
    ]
