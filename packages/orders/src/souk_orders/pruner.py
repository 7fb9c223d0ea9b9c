"""Marks what is over, and sweeps what has been over for long: at the participants first, then here.

In that order, since a tombstone without its order would shut the door to whoever uses the key anew, and since the
order, as long as it is there, is what a killed run is taken up by.
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
"""For others who wait to write: the lock of a SQLite file is not handed on in turn."""


class CannotForget(RuntimeError):
    """A participant does not do as it is told; the text is a sentence that says which, why, and what to do."""


class Forgetful(Protocol):
    """A participant that can forget orders."""

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        """Takes away what it has CLOSED or EXPIRED; gives the ids of what it has HELD or CONFIRMED, which stays.

        Without any ids it says whether it can. Raises CannotForget.
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
            return (
                f"{self._name} is of a version that cannot forget orders; bring it to 1.2 or later, and run this again"
            )
        return (
            f"{self._name} did not forget what it was told to ({error.code().name}: "
            f"{error.details()}); see that it serves, and run this again"
        )


@dataclass(slots=True)
class Pruned:
    """What was done."""

    marked: int = 0
    """Orders that were seen to be over for the first time."""
    deleted: int = 0
    kept: list[tuple[Participant, str]] = field(default_factory=list)
    """Those that a participant has HELD or CONFIRMED, though they came to nothing."""


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
