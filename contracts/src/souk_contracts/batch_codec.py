"""Batches on the wire, for both ends.

On protobuf's own messages: a dataclass for each call and each result would cost as much again as the rest of their way.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import message_factory

from souk_contracts.limits import MAX_CALLS, PART_BYTES, TooMany

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


class Results(NamedTuple):
    """What became of the calls of a batch, or of the first of them."""

    results: list[Result]
    more: bool
    """Whether the next message has more of them."""


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
    """Those of a souk.batch.v1.CallRequest. Raises DecodeError, also where there are more than MAX_CALLS."""
    items = _message("CallRequest").FromString(encoded).items
    if len(items) > MAX_CALLS:
        raise TooMany(f"it has {len(items)} calls; send at most {MAX_CALLS}")
    return [Call(item.method, item.request) for item in items]


def encode_results(results: Sequence[Result]) -> Iterator[bytes]:
    """One souk.batch.v1.CallResponse after another, none much longer than PART_BYTES unless one result alone is."""
    part: list[dict[str, bytes]] = []
    size = 0
    for response, status in results:
        length = len(status) if response is None else len(response)
        if part and size + length > PART_BYTES:
            yield _message("CallResponse")(results=part, more=True).SerializeToString()
            part, size = [], 0
        part.append({"status": status} if response is None else {"response": response})
        size += length
    yield _message("CallResponse")(results=part).SerializeToString()


def decode_results(encoded: bytes) -> Results:
    """Those of a souk.batch.v1.CallResponse, also one that says neither yes nor no. Raises DecodeError."""
    message = _message("CallResponse").FromString(encoded)
    results = [
        Result(result.response) if result.HasField("response") else Result(None, result.status)
        for result in message.results
    ]
    return Results(results, message.more)
