"""Lists of calls: as a batch to a peer that knows batches, one by one to any other."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError

from souk_contracts.batch_codec import Call, Result
from souk_contracts.channel import Caller, peer_of
from souk_contracts.errors import error_of, plain_error, plain_status
from souk_contracts.lanes import Lanes, NoBatches
from souk_contracts.limits import MAX_BYTES, MAX_CALLS

Request = TypeVar("Request")
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)

Carried = tuple[bytes | grpc.aio.AioRpcError, str]
"""A call's encoded response, or the error that it would raise alone; and who answered, as `orders/1.0.0`."""

_UNREADABLE = plain_status(grpc.StatusCode.INTERNAL, "the answer cannot be decoded, or has no result for this call")


class Answer(NamedTuple, Generic[Response_co]):
    """What a call of a list came to."""

    result: Response_co | Exception
    """What it would have returned or raised alone."""
    served_by: str
    """Who answered, as `orders/1.0.0`; empty where nobody did, or does not say."""


class Carrier:
    """Makes calls over a channel, those of a list together."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel
        self._single: dict[str, Callable[..., Any]] = {}
        self.lanes = Lanes(channel)

    async def call_all(
        self,
        method: str,
        encode: Callable[[Request], bytes],
        decode: Callable[[bytes], Response],
        requests: Sequence[Request],
        timeout_s: float,
    ) -> list[Answer[Response]]:
        """Makes a call of a method, given as its path, for each request; whatever goes wrong is the call's result."""
        encoded = [_or_error(encode, request) for request in requests]
        calls = [Call(method, each) for each in encoded if isinstance(each, bytes)]
        batches = await asyncio.gather(*(self.carry(batch, timeout_s) for batch in _batches(calls)))
        carried = chain.from_iterable(batches)
        return [_answer(next(carried), decode) if isinstance(each, bytes) else Answer(each, "") for each in encoded]

    async def carry(self, calls: Sequence[Call], timeout_s: float) -> list[Carried]:
        """Makes calls that go into one batch; one alone as the call that it is, unless a lane is open.

        Where the channel is or will be closed, they end UNAVAILABLE: only their caller can cancel them.
        """
        ends_at = monotonic() + timeout_s
        try:
            if not self.lanes.are_known() or (len(calls) == 1 and not self.lanes.ready()):
                return await self._carry_one_by_one(calls, timeout_s)
            try:
                results, lane = await self.lanes.carry(calls, timeout_s)
            except NoBatches:
                return await self._carry_one_by_one(calls, ends_at - monotonic())
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if is_cancelled():
                raise
            return [(closed(), "") for _ in calls]
        except grpc.aio.AioRpcError as error:
            peer = peer_of(error.trailing_metadata())
            return [(_own(error), peer) for _ in calls]
        lacking = [Result(None)] * (len(calls) - len(results))
        return [
            (_error(status, lane.metadata) if response is None else response, lane.peer)
            for response, status in [*results, *lacking]
        ]

    async def _carry_one_by_one(self, calls: Sequence[Call], timeout_s: float) -> list[Carried]:
        if len(calls) == 1:
            return [await self._carry_alone(calls[0], timeout_s)]
        return await asyncio.gather(*(self._carry_alone(call, timeout_s) for call in calls))

    async def _carry_alone(self, call: Call, timeout_s: float) -> Carried:
        if call.method not in self._single:
            self._single[call.method] = self._channel.unary_unary(call.method, bytes, bytes)
        alone = self._single[call.method](call.request, timeout=timeout_s)
        try:
            response: bytes = await alone
        except grpc.aio.AioRpcError as error:
            return error, peer_of(error.trailing_metadata())
        return response, peer_of(await alone.trailing_metadata())


def fitting(requests: Iterable[bytes]) -> int:
    """How many calls, from the first, go into one batch: one at least, however long it is."""
    count = size = 0
    for request in requests:
        size += len(request)
        if count == MAX_CALLS or (count and size > MAX_BYTES):
            break
        count += 1
    return count


def decoded(response: bytes, decode: Callable[[bytes], Response]) -> Response | grpc.aio.AioRpcError:
    """The response; or the error of a call whose response cannot be read."""
    try:
        return decode(response)
    except DecodeError:
        return error_of(_UNREADABLE, grpc.aio.Metadata())


def closed() -> grpc.aio.AioRpcError:
    """The error of a call whose channel is or was closed."""
    return plain_error(grpc.StatusCode.UNAVAILABLE, "the channel was closed")


def is_cancelled() -> bool:
    """Whether a CancelledError is meant for the task that meets it: one of a call may come from its channel's end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _own(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """Who raises an error adds to its traceback, so each call gets one of its own."""
    return grpc.aio.AioRpcError(
        error.code(), error.initial_metadata(), error.trailing_metadata(), error.details(), error.debug_error_string()
    )


def _error(status: bytes, metadata: grpc.aio.Metadata) -> grpc.aio.AioRpcError:
    try:
        return error_of(status or _UNREADABLE, metadata)
    except DecodeError:
        return error_of(_UNREADABLE, metadata)


def _batches(calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
    while calls:
        count = fitting(call.request for call in calls)
        yield calls[:count]
        calls = calls[count:]


def _or_error(encode: Callable[[Request], bytes], request: Request) -> bytes | Exception:
    try:
        return encode(request)
    except Exception as error:  # noqa: BLE001 (it is this call's result)
        return error


def _answer(carried: Carried, decode: Callable[[bytes], Response]) -> Answer[Response]:
    result, peer = carried
    return Answer(result if isinstance(result, Exception) else decoded(result, decode), peer)
