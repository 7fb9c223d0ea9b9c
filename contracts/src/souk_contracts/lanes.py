"""Streams that batches travel on, one after another.

A message on an open stream costs less than half of a call of its own; see docs/adr/0008-batches.md.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc

from souk_contracts.batch_codec import SERVICE_NAME, Call, Result, decode_results, encode_calls
from souk_contracts.channel import Caller, peer_of
from souk_contracts.errors import plain_error
from souk_contracts.tasks import spawn

LIFE_S = 0.5
"""For how long a lane is used: opening one costs. It stays with one replica, and a server that drains waits for it."""
_PATIENCE_S = 0.3
"""How long a replica has to open a lane before another is asked, too: it may hang. Then twice as long, and so on."""
_CLOSE_S = 5.0
"""How long a peer has to see that a lane is closed."""
ALONE_S = 30.0
"""For how long a peer is not asked again that has said that it knows no batches."""

_BATCH = f"/{SERVICE_NAME}/Call"


_ENDED = (grpc.aio.AioRpcError, grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError)


class NoBatches(Exception):
    """The peer knows no batches. Nothing was sent to it."""


class Lane:
    """An open stream, for one batch at a time."""

    def __init__(self, stream: Any, metadata: grpc.aio.Metadata) -> None:
        self._stream = stream
        self.metadata = metadata
        """What the peer said when it was opened."""
        self.peer = peer_of(metadata)
        """Who answers, as `orders/1.0.0`."""
        self.is_over = False
        """Whether its time is."""

    async def carry(self, calls: Sequence[Call]) -> Sequence[Result]:
        """What became of the calls, as far as the answer can be read. Raises AioRpcError, and is lost then."""
        try:
            await self._stream.write(calls)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise _lost() from None  # not always for the cause that grpc names here
        results: list[Result] = []
        while True:
            answer = await self._stream.read()
            if answer is grpc.aio.EOF:
                raise _lost()
            if answer is None:  # it cannot be read, nor is it known whether more of it follows
                self.cancel()
                return results
            results += answer.results
            if not answer.more:
                return results

    def is_open(self) -> bool:
        return not self._stream.done()

    def cancel(self) -> None:
        """Ends it, and what is under way on it."""
        self._stream.cancel()

    async def close(self) -> None:
        """Ends it in good order, if the peer lets it."""
        # It was lost meanwhile, or the peer hangs, or the channel was closed. Which of these errors tells of a loss
        # depends on grpc's version, and on when.
        with suppress(*_ENDED, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._stream.done_writing()
                await self._stream.code()
        self._stream.cancel()


class Lanes:
    """The lanes to a peer: opened when they are needed, and closed soon."""

    def __init__(self, channel: Caller) -> None:
        self._stream = channel.stream_stream(_BATCH, encode_calls, decode_results)
        self._idle: list[Lane] = []
        self._unknown_until = 0.0
        self._asked_at = 0.0
        self._is_preparing = False

    def are_known(self) -> bool:
        """Whether the peer knows batches, as far as it is known."""
        return monotonic() >= self._unknown_until

    def ready(self) -> bool:
        """Whether one is open. Who asks often will find one: it is opened meanwhile."""
        if self._find():
            return True
        asked_at, self._asked_at = self._asked_at, monotonic()
        if self._asked_at - asked_at < LIFE_S and not self._is_preparing:
            self._is_preparing = True
            spawn(self._prepare(), "opening a lane")
        return False

    async def carry(self, calls: Sequence[Call], timeout_s: float) -> tuple[Sequence[Result], Lane]:
        """What became of the calls, and the lane that they took. Raises AioRpcError, NoBatches."""
        if timeout_s <= 0:  # a timer would be too late: they had left by then
            raise plain_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        lane = None
        try:
            async with asyncio.timeout(timeout_s):
                lane = self._idle.pop() if self._find() else await self._open()
                results = await lane.carry(calls)
        except BaseException as error:
            if lane is not None:
                lane.cancel()
            if isinstance(error, TimeoutError):
                raise plain_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            raise
        self._give_back(lane)
        return results, lane

    def _find(self) -> bool:
        """Whether the last one is open: who was lost is left out."""
        while self._idle and not self._idle[-1].is_open():
            self._idle.pop()
        return bool(self._idle)

    async def _open(self) -> Lane:
        """A lane to the replica that answers first: a call can only hang on a lane that was open before."""
        asked = set[asyncio.Task[Lane]]()
        done = set[asyncio.Task[Lane]]()
        patience_s = _PATIENCE_S
        try:
            while not done:
                asked.add(asyncio.get_running_loop().create_task(self._ask()))
                done, _ = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                patience_s *= 2
            opened = [task for task in done if not task.cancelled() and task.exception() is None]
            first = (opened or [*done])[0]
            asked.discard(first)
            return first.result()
        finally:
            for task in asked:
                if not task.done():
                    task.cancel()
                elif not task.cancelled() and task.exception() is None:
                    self._give_back(task.result())

    async def _ask(self) -> Lane:
        stream = self._stream()
        try:
            metadata = await stream.initial_metadata()
            if not peer_of(metadata):  # it does not answer as a server of Souk does: it has refused the stream
                await stream.read()
        except BaseException as error:
            stream.cancel()
            if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._unknown_until = monotonic() + ALONE_S
                raise NoBatches from None
            raise
        lane = Lane(stream, metadata)
        asyncio.get_running_loop().call_later(LIFE_S, self._retire, lane)
        return lane

    async def _prepare(self) -> None:
        try:
            # Who needs a lane will see what is wrong. One that is opened too late is not worth it.
            with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, NoBatches, TimeoutError):
                async with asyncio.timeout(LIFE_S):
                    lane = await self._open()
                self._give_back(lane)
        finally:
            self._is_preparing = False

    def _give_back(self, lane: Lane) -> None:
        if lane.is_over:
            spawn(lane.close(), "closing a lane")
        else:
            self._idle.append(lane)

    def _retire(self, lane: Lane) -> None:
        lane.is_over = True
        if lane in self._idle:
            self._idle.remove(lane)
            spawn(lane.close(), "closing a lane")


def _lost() -> grpc.aio.AioRpcError:
    return plain_error(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
