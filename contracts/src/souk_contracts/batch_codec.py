"""Batches on the wire, for both ends.

On protobuf's own messages: a dataclass for each call and each result would cost as much again as the rest of their way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf import message_factory

from souk_contracts.batch.v1 import codec


class Call(NamedTuple):
    """A call of a unary method."""

    method: str
    """Its path."""
    request: bytes


class Result(NamedTuple):
    """What became of a call: a response, or the google.rpc.Status of its failure."""

    response: bytes | None
    status: bytes = b""


_CallRequest: Any = message_factory.GetMessageClass(codec.DESCRIPTOR.message_types_by_name["CallRequest"])
_CallResponse: Any = message_factory.GetMessageClass(codec.DESCRIPTOR.message_types_by_name["CallResponse"])


def encode_calls(calls: Sequence[Call]) -> bytes:
    """A souk.batch.v1.CallRequest."""
    encoded: bytes = _CallRequest(
        items=[{"method": method, "request": request} for method, request in calls]
    ).SerializeToString()
    return encoded


def decode_calls(encoded: bytes) -> list[Call]:
    """Those of a souk.batch.v1.CallRequest. Raises DecodeError."""
    return [Call(item.method, item.request) for item in _CallRequest.FromString(encoded).items]


def encode_results(results: Sequence[Result]) -> bytes:
    """A souk.batch.v1.CallResponse."""
    encoded: bytes = _CallResponse(
        results=[{"status": status} if response is None else {"response": response} for response, status in results]
    ).SerializeToString()
    return encoded


def decode_results(encoded: bytes) -> list[Result]:
    """Those of a souk.batch.v1.CallResponse, also one that says neither yes nor no. Raises DecodeError."""
    return [
        Result(result.response) if result.HasField("response") else Result(None, result.status)
        for result in _CallResponse.FromString(encoded).results
    ]
