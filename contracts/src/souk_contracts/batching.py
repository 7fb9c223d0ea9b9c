"""The client's end of batches: calls that are made at the same time leave together, as one call.

Those of one turn of the event loop do, and those that find others under way: they leave when these are answered. A
call that finds none leaves at once. So who is idle waits for nothing, and who is busy pays for one call in place of
many.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from souk_contracts.batch.v1 import BatchStub, CallRequest, Item, Result
from souk_contracts.channel import peer_of
from souk_contracts.errors import error_of, plain_status

_AT_ONCE = 2
"""Calls under way that others wait for: with more of them there would be less in each batch."""
_PATIENCE_S = 0.05
"""For how long a call waits for others to be answered, before it leaves all the same: they may hang."""
_MAX_CALLS = 128
_MAX_BYTES = 256 * 1024
"""Of all requests in a batch. Their responses may be 13 times as long, and must stay below gRPC's 4 MiB."""
_ALONE_S = 30.0
"""For how long each call leaves alone, once a peer has said that it knows no batches."""

_UNREADABLE = plain_status(grpc.StatusCode.INTERNAL, "the answer cannot be read, or lacks this call")


class BatchedCall:
    """A call on its way in a batch, as far as stubs and their users need it."""

    def __init__(self, method: str, request: bytes, decode: Callable[[bytes], Any], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.item = Item(method=method, request=request)
        self.ends_at = loop.time() + timeout_s
        self.served_by = ""
        """Who answered, as `orders/1.0.0`; empty as long as nobody has."""
        self._decode = decode
        self._answer: asyncio.Future[Any] = loop.create_future()
        self._timer = loop.call_at(self.ends_at, self._time_out)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    def done(self) -> bool:
        return self._answer.done()

    def settle(self, result: Result, metadata: grpc.aio.Metadata, served_by: str) -> None:
        """Gives its caller the answer, which came with this trailing metadata."""
        if self.done():  # it timed out, or its caller has gone
            return
        self._timer.cancel()
        self.served_by = served_by
        try:
            if result.response is None:
                self._answer.set_exception(error_of(result.status or _UNREADABLE, metadata))
            else:
                self._answer.set_result(self._decode(result.response))
        except DecodeError:
            self._answer.set_exception(error_of(_UNREADABLE, metadata))

    def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Gives its caller the batch's error."""
        if self.done():
            return
        self._timer.cancel()
        metadata = error.trailing_metadata()
        self.served_by = peer_of(metadata)
        # One of its own: who raises an error adds to its traceback.
        own = grpc.aio.AioRpcError(error.code(), error.initial_metadata(), metadata, error.details())
        self._answer.set_exception(own)

    def cancel(self) -> None:
        self._timer.cancel()
        self._answer.cancel()

    def _time_out(self) -> None:
        code, nothing = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata()
        self.fail(grpc.aio.AioRpcError(code, nothing, nothing, "Deadline Exceeded"))


class BatchingChannel:
    """A channel for a stub, which gathers the calls of `methods`, such as "Reserve", into batches.

    They should take about as long as each other, since a batch is answered as a whole. Each call raises what it would
    raise alone. A peer that knows no batches gets them one by one. Where calls keep coming, batches leave no less than
    `apart_s` after each other: the longer, the more is in them.
    """

    def __init__(self, channel: grpc.aio.Channel, methods: Collection[str], *, apart_s: float = 0.0) -> None:
        self._channel = channel
        self._apart_s = apart_s
        self._methods = methods
        self._batches = BatchStub(channel)
        self._single: dict[str, Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]] = {}
        self._alone_until = 0.0
        self._under_way = 0
        self._waiting: deque[BatchedCall] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0
        self._were_several = False
        """Whether the last that left was a batch: then the next call is hardly alone, either."""
        self._tasks: set[asyncio.Task[None]] = set()

    def unary_unary(
        self, method: str, request_serializer: Callable[[Any], bytes], response_deserializer: Callable[[bytes], Any]
    ) -> Callable[..., Any]:
        """What stubs make their calls with, as that of a channel."""
        alone = self._channel.unary_unary(method, request_serializer, response_deserializer)
        if method.rpartition("/")[2] not in self._methods:
            return alone
        self._single[method] = self._channel.unary_unary(method)

        def call(request: Any, *, timeout: float) -> Any:
            loop = asyncio.get_running_loop()
            now = loop.time()
            if now < self._alone_until:
                return alone(request, timeout=timeout)
            if not self._under_way and not self._were_several and not self._waiting and now >= self._next_at:
                self._next_at = now + self._apart_s
                self._under_way += 1
                made = alone(request, timeout=timeout)
                made.add_done_callback(self._ended)
                return made
            waiting = BatchedCall(method, request_serializer(request), response_deserializer, timeout)
            self._waiting.append(waiting)
            if len(self._waiting) == 1:
                loop.call_soon(self._leave)  # with those that come in this turn
            return waiting

        return call

    def _may_leave(self, now: float) -> bool:
        return self._under_way < _AT_ONCE and now >= self._next_at

    def _ended(self, _: object) -> None:
        self._under_way -= 1
        self._leave()

    def _leave(self) -> None:
        """Sends what waits, or sees to it that it is sent in time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiting:
            return
        if self._may_leave(now):
            self._send()
        elif self._timer is None:
            delay_s = self._next_at - now if self._under_way < _AT_ONCE else _PATIENCE_S
            self._timer = loop.call_later(delay_s, self._send)

    def _send(self) -> None:
        """Sends what waits, or as much of it as goes into one batch."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[BatchedCall] = []
        size = 0
        while self._waiting and len(batch) < _MAX_CALLS and size < _MAX_BYTES:
            call = self._waiting.popleft()
            if not call.done():
                batch.append(call)
                size += len(call.item.request)
        self._were_several = len(batch) > 1
        if batch:
            self._next_at = loop.time() + self._apart_s
            self._under_way += 1
            task = loop.create_task(self._carry(batch) if self._were_several else self._carry_alone(batch[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(self._ended)
        if self._waiting:
            loop.call_soon(self._leave)

    async def _carry(self, batch: Sequence[BatchedCall]) -> None:
        timeout_s = max(call.ends_at for call in batch) - asyncio.get_running_loop().time()
        request = CallRequest(items=[call.item for call in batch])
        try:
            together = self._batches.call(request, timeout_s=timeout_s)
            results = (await together).results
            metadata = await together.trailing_metadata()
            peer = peer_of(metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                for call in batch:
                    call.fail(error)
                return
            self._alone_until = asyncio.get_running_loop().time() + _ALONE_S
            await asyncio.gather(*map(self._carry_alone, batch))
        except (asyncio.CancelledError, grpc.aio.UsageError):  # the channel was closed
            for call in batch:
                call.cancel()
        else:
            missing = [Result()] * (len(batch) - len(results))
            for call, result in zip(batch, [*results, *missing], strict=False):
                call.settle(result, metadata, peer)

    async def _carry_alone(self, call: BatchedCall) -> None:
        timeout_s = call.ends_at - asyncio.get_running_loop().time()
        try:
            alone = self._single[call.item.method](call.item.request, timeout=timeout_s)
            result = Result(response=await alone)
            metadata = await alone.trailing_metadata()
            call.settle(result, metadata, peer_of(metadata))
        except grpc.aio.AioRpcError as error:
            call.fail(error)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            call.cancel()
