"""The client's end of batches: calls that are made at the same time leave together, as one call.

Those of one turn of the event loop do, and those that find others under way: they leave when these are answered. A
call that finds none leaves at once. So who is idle waits for nothing, and who is busy pays for one call in place of
many.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Any

import grpc

import souk_contracts.batch.v1  # noqa: F401 (so that the first batch need not wait for it)
from souk_contracts.batch_codec import Call
from souk_contracts.carrier import Carrier, closed, decoded, fitting
from souk_contracts.errors import plain_error
from souk_contracts.tasks import spawn

_AT_ONCE = 2
"""Calls under way that others wait for: with more of them there would be less in each batch."""
_LARGE = 32
"""With so many calls, halves leave after each other: while one is carried out, the other one's answers are used."""
_PATIENCE_S = 0.05
"""For how long a call waits for others to be answered, before it leaves all the same: they may hang."""
_TICK_S = 0.001
"""How exactly the event loop's timers tell the time."""


class BatchedCall(asyncio.Future[Any]):
    """A call on its way in a batch, as far as stubs and their users need it."""

    served_by = ""
    """Who answered, as `orders/1.0.0`; empty as long as nobody has."""
    batch: object = None
    """The same for all calls that left together; None before."""

    def __init__(self, method: str, request: bytes, decode: Callable[[bytes], Any], ends_at: float) -> None:
        super().__init__()
        self.message = Call(method, request)
        self.ends_at = ends_at
        self._decode = decode

    def settle(self, outcome: bytes | grpc.aio.AioRpcError, served_by: str) -> None:
        """Gives its caller the answer, unless it timed out, or its caller has gone."""
        if self.done():
            return
        self.served_by = served_by
        result = decoded(outcome, self._decode) if isinstance(outcome, bytes) else outcome
        if isinstance(result, grpc.aio.AioRpcError):
            self.set_exception(result)
        else:
            self.set_result(result)


class BatchingChannel:
    """A channel for a stub, which gathers the calls of `methods`, such as "Reserve", into batches.

    They should take about as long as each other, since a batch is answered as a whole. Each call raises what it would
    raise alone. A peer that knows no batches gets them one by one.
    """

    def __init__(self, channel: grpc.aio.Channel, methods: Collection[str]) -> None:
        self._channel = channel
        self._methods = methods
        self._carrier = Carrier(channel)
        self._deadlines = _Deadlines()
        self._under_way = 0
        self._waiting: deque[BatchedCall] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._were_several = False
        """Whether the last that left was a batch: then the next call is hardly alone, either."""
        self._is_idle: asyncio.Event | None = None
        """For those who wait until nothing is left."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None,
        response_deserializer: Callable[[bytes], Any],
    ) -> Callable[..., Any]:
        """What stubs make their calls with, as that of a channel: without a serializer, of encoded requests."""
        unary = self._channel.unary_unary(method, request_serializer, response_deserializer)

        def alone(request: Any, *, timeout: float) -> Any:
            try:
                return unary(request, timeout=timeout)
            except grpc.aio.UsageError:
                failed = BatchedCall(method, b"", response_deserializer, 0.0)
                failed.settle(closed(), "")
                return failed

        if method.rpartition("/")[2] not in self._methods:
            return alone

        def call(request: Any, *, timeout: float) -> Any:
            lanes = self._carrier.lanes
            if not lanes.are_known():
                return alone(request, timeout=timeout)
            if not self._under_way and not self._were_several and not self._waiting and not lanes.ready():
                self._under_way += 1
                made = alone(request, timeout=timeout)
                made.add_done_callback(self._ended)
                return made
            encoded = request if request_serializer is None else request_serializer(request)
            waiting = BatchedCall(method, encoded, response_deserializer, monotonic() + timeout)
            self._deadlines.watch(waiting)
            self._waiting.append(waiting)
            if len(self._waiting) == 1:
                asyncio.get_running_loop().call_soon(self._leave)  # with those that come in this turn
            return waiting

        return call

    def stream_stream(self, *arguments: Any) -> Callable[..., Any]:
        """As that of a channel."""
        return self._channel.stream_stream(*arguments)

    async def idle(self) -> None:
        """Returns when no call waits or is under way. Close the channel then; calls that come later end UNAVAILABLE."""
        while self._waiting or self._under_way:
            self._is_idle = self._is_idle or asyncio.Event()
            await self._is_idle.wait()

    def _ended(self, _: object) -> None:
        self._under_way -= 1
        self._leave()

    def _leave(self) -> None:
        """Sends what waits, or sees to it that it is sent in time."""
        if not self._waiting:
            if self._is_idle is not None and not self._under_way:
                self._is_idle.set()
                self._is_idle = None
            return
        if self._under_way < _AT_ONCE:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._send)

    def _send(self) -> None:
        """Sends what waits, or as much of it as goes into one batch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = deque(call for call in self._waiting if not call.done())
        count = fitting(call.message.request for call in self._waiting)
        if count >= _LARGE and self._under_way + 1 < _AT_ONCE:
            count = -(-count // 2)
        batch = [self._waiting.popleft() for _ in range(count)]
        self._were_several = len(batch) > 1
        loop = asyncio.get_running_loop()
        if batch:
            self._under_way += 1
            name = object()
            for call in batch:
                call.batch = name
            spawn(self._carry(batch), "a batch").add_done_callback(self._ended)
        if self._waiting:
            loop.call_soon(self._leave)
        elif not batch:
            self._leave()  # nothing is left

    async def _carry(self, batch: Sequence[BatchedCall]) -> None:
        timeout_s = max(call.ends_at for call in batch) - monotonic()
        try:
            carried = await self._carrier.carry([call.message for call in batch], timeout_s)
            for call, (outcome, served_by) in zip(batch, carried, strict=False):
                call.settle(outcome, served_by)
        finally:
            for call in batch:
                if not call.done():  # none waits for ever, whatever ended this
                    call.settle(plain_error(grpc.StatusCode.UNAVAILABLE, "the batch was given up"), "")
            self._deadlines.forget(batch)


class _Deadlines:
    """Ends calls at their deadlines, with one timer for all of them."""

    def __init__(self) -> None:
        self._watched: set[BatchedCall] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def watch(self, call: BatchedCall) -> None:
        self._watched.add(call)
        if self._timer is None or call.ends_at < self._timer_at:
            self._set_timer(call.ends_at)

    def forget(self, calls: Sequence[BatchedCall]) -> None:
        self._watched.difference_update(calls)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - monotonic(), self._end)

    def _end(self) -> None:
        """Ends those whose time is over, and waits for the next."""
        self._timer = None
        over = monotonic() + _TICK_S
        for call in [call for call in self._watched if call.ends_at <= over]:
            self._watched.discard(call)
            call.settle(plain_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), "")
        if self._watched:
            self._set_timer(min(call.ends_at for call in self._watched))
