"""What the relay's tests stand it between: participants of their own, and a real storage that is watched."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from souk_orders.domain import Order, Refusal, Status, Terms
from souk_orders.relay import OutboxRelay
from souk_orders.routes import CallFailed, Reply
from souk_orders.service import Answered, Command, Create, Outcome, PutOff
from souk_orders.storage import SqlStorage

PRINT = bytes(32)
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {})
TIMEOUT_S = 2.0
LEASE_S = 7.0
LONG_S = 3600.0

Relays = Callable[..., OutboxRelay]


class FakeParticipant:
    """Says yes to everything, unless a test gives it something else to say or holds it back.

    It fails as a whole where it is to raise what no participant may.
    """

    def __init__(self, served_by: str = "") -> None:
        self.served_by = served_by
        self.confirmed: list[Order] = []
        self.released: list[str] = []
        self.lists: list[list[str]] = []
        self.calls: asyncio.Queue[str] = asyncio.Queue()
        self.says: dict[str, Refusal | Exception] = {}
        self.held_back: dict[str, asyncio.Event] = {}

    async def confirm(self, orders: Sequence[Order]) -> Sequence[Reply | CallFailed]:
        self.confirmed += orders
        return await self._answers([order.order_id for order in orders])

    async def release(self, order_ids: Sequence[str]) -> Sequence[Reply | CallFailed]:
        self.released += order_ids
        return await self._answers(order_ids)

    async def _answers(self, order_ids: Sequence[str]) -> Sequence[Reply | CallFailed]:
        self.lists.append(list(order_ids))
        return await asyncio.gather(*map(self._answer, order_ids))

    async def _answer(self, order_id: str) -> Reply | CallFailed:
        self.calls.put_nowait(order_id)
        answer = self.says.get(order_id)
        if order_id in self.held_back:
            await self.held_back[order_id].wait()
        if isinstance(answer, CallFailed):
            return answer
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer, self.served_by)


class ObservedOutbox:
    """The storage, with a queue of the orders that answers have settled; fails as often as a test wants."""

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self.settled: asyncio.Queue[Order] = asyncio.Queue()
        self.failures: list[Exception] = []
        self.spoilt_by: dict[str, Exception] = {}
        self.recorded: list[list[str]] = []
        self.taken: asyncio.Queue[list[str]] = asyncio.Queue()

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        answers = [command.message.order_id for command in commands if isinstance(command, Answered | PutOff)]
        if answers:
            self.recorded.append(answers)
        if self.failures:
            raise self.failures.pop()
        for order_id in answers:
            if order_id in self.spoilt_by:
                raise self.spoilt_by[order_id]
        outcomes = await self.storage.execute(commands)
        for outcome in outcomes:
            if isinstance(outcome, Order):
                self.settled.put_nowait(outcome)
        if answers:
            self.taken.put_nowait(answers)
        return outcomes


async def accepted(storage: SqlStorage, terms: Terms, count: int = 1) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    await storage.execute([Create(order_id, PRINT, terms, LATER_US) for order_id in ids])
    return ids


async def status(storage: SqlStorage, order_id: str) -> Status:
    return (await storage.order(order_id)).status


async def steps(storage: SqlStorage, order_id: str) -> list[tuple[str, str, str]]:
    _, history = await storage.order_with_history(order_id)
    return [(entry.step, entry.served_by, entry.detail) for entry in history]


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    yield
    relay.stop()
    await task


async def until(condition: Callable[[], bool]) -> None:
    """For what nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
