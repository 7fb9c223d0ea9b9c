"""Marks orders that have ended, and deletes those that ended long ago: at the participants first, then here.

The participants come first for two reasons. A tombstone that outlives its order would refuse a new order with the same
key. And a run that was killed finds the orders again, as long as they are there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from souk_orders.archive import Archive
from souk_orders.book import Participant
from souk_orders.retention import START, SqlRetention

_AT_ONCE = 250
"""Orders, of one call and of one transaction."""

_BETWEEN_BATCHES_S = 0.01
"""A pause for other writers: the lock of a SQLite file is not given to those who waited longest."""


class CannotForget(RuntimeError):
    """A participant did not forget orders; the text is a sentence that says which one, why, and what to do."""


class Forgetful(Protocol):
    """A participant that can forget orders."""

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        """Deletes what it has CLOSED or EXPIRED; returns the ids of what stays, because it is HELD or CONFIRMED.

        An empty list only asks whether the participant has this call. Raises CannotForget.
        """


class ForgettingClient:
    """The port on the stub of either participant, whose messages for this are alike."""

    def __init__(self, name: str, call: Callable[[Any], Awaitable[Any]], request: Callable[..., Any]) -> None:
        """`call` is the stub's method, with a deadline of its own, and `request` the class of what it takes.

        `name` is for people.
        """
        self._name = name
        self._call = call
        self._request = request

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        """See the port."""
        try:
            answer = await self._call(self._request(order_ids=list(order_ids)))
        except grpc.aio.AioRpcError as error:
            raise CannotForget(self._sentence(error)) from error
        kept: Sequence[str] = answer.kept_order_ids
        return kept

    def _sentence(self, error: grpc.aio.AioRpcError) -> str:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return f"{self._name} runs a version that cannot forget orders; update it to 1.2 or later, then prune again"
        return (
            f"{self._name} did not forget the orders ({error.code().name}: "
            f"{(error.details() or '')[:300]}); check that it serves, then prune again"
        )


@dataclass(slots=True)
class Pruned:
    """What was done."""

    marked: int = 0
    """Orders that this run was the first to see ended."""
    deleted: int = 0
    kept: list[tuple[Participant, str]] = field(default_factory=list)
    """Refused or cancelled orders that a participant still has HELD or CONFIRMED."""


class Pruner:
    """One run over all orders. It may be killed at any moment, and run beside the service and beside others."""

    def __init__(
        self, retention: SqlRetention, participants: Mapping[Participant, Forgetful], archive: Archive | None
    ) -> None:
        self.pruned = Pruned()
        """So far, also where `run` raises."""
        self._retention = retention
        self._participants = participants
        self._archive = archive

    async def run(self) -> None:
        """Raises CannotForget, CannotArchive, StorageUnavailable."""
        await self._mark()
        batch = self._retention.due(START, _AT_ONCE)
        if batch:
            # Before anyone forgets anything: an older version of either leaves everything as it is.
            for client in self._participants.values():
                await client.forget([])
        while batch:
            await self._sweep([order_id for _, order_id in batch])
            await asyncio.sleep(_BETWEEN_BATCHES_S)
            # After these, not once more from the start: some of them may have been kept.
            batch = self._retention.due(batch[-1], _AT_ONCE)

    async def _mark(self) -> None:
        after: str | None = ""
        while after is not None:
            marked = await self._retention.mark(after, _AT_ONCE)
            self.pruned.marked += marked.count
            after = marked.last
            await asyncio.sleep(_BETWEEN_BATCHES_S)

    async def _sweep(self, order_ids: Sequence[str]) -> None:
        for participant, client in self._participants.items():
            kept = set(await client.forget(order_ids))
            self.pruned.kept += [(participant, order_id) for order_id in order_ids if order_id in kept]
            order_ids = [order_id for order_id in order_ids if order_id not in kept]
            if not order_ids:
                return
        if self._archive is not None:
            self._archive.append(self._retention.records(order_ids))
        self.pruned.deleted += await self._retention.delete(order_ids)
