"""The relay between a real storage and participants of the test's own: what is sent, when, and which answers count."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from souk_orders import __version__
from souk_orders.book import Participant
from souk_orders.domain import Order, Refusal, Status, StorageUnavailable, Terms
from souk_orders.lobby import Lobby
from souk_orders.relay import CallFailed, OutboxRelay, Reply
from souk_orders.service import Answered, Cancel, Command, Complete, Create, Orders, Outcome, PutOff, Refuse
from souk_orders.storage import SqlStorage

PRINT = bytes(32)
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {})
TIMEOUT_S = 2.0
LEASE_S = 7.0
LONG_S = 3600.0


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


@pytest.fixture
def goods() -> FakeParticipant:
    return FakeParticipant("reservations/1.2.3")


@pytest.fixture
def points() -> FakeParticipant:
    return FakeParticipant("loyalty/4.5.6")


@pytest.fixture
def outbox(storage: SqlStorage) -> ObservedOutbox:
    return ObservedOutbox(storage)


Relays = Callable[..., OutboxRelay]


@pytest.fixture
def make_relay(outbox: ObservedOutbox, goods: FakeParticipant, points: FakeParticipant) -> Relays:
    """Makes a relay that looks through the outbox by itself once in an hour, and whose jitter is nothing."""

    def make(period_s: float = LONG_S) -> OutboxRelay:
        clients = {Participant.RESERVATIONS: goods, Participant.LOYALTY: points}
        return OutboxRelay(outbox, clients, period_s=period_s, timeout_s=TIMEOUT_S, jitter=lambda: 1.0)

    return make


@pytest.fixture
def relay(make_relay: Relays) -> OutboxRelay:
    return make_relay()


async def accepted(storage: SqlStorage, terms: Terms, count: int = 1) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    await storage.execute([Create(order_id, PRINT, terms, LATER_US) for order_id in ids])
    return ids


async def status(storage: SqlStorage, order_id: str) -> Status:
    return (await storage.order(order_id)).status


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    yield
    relay.stop()
    await task


async def test_two_yeses_confirm_the_order(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    order = await storage.order(order_id)
    assert await relay.run_once() == 2
    assert await status(storage, order_id) is Status.CONFIRMED
    assert goods.confirmed == points.confirmed == [order]
    assert await relay.run_once() == 0


async def test_an_order_without_loyalty_is_confirmed_while_loyalty_is_away(
    relay: OutboxRelay,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    zeros = {"discount_percent": 0, "discount": 0, "points_redeemed": 0, "points_earned": 0}
    (order_id,) = await accepted(storage, terms._replace(**zeros, without_loyalty=True))  # type: ignore[arg-type]  # all are numbers
    points.says[order_id] = CallFailed("UNAVAILABLE")
    await relay.run_once()
    assert await status(storage, order_id) is Status.CONFIRMED
    del points.says[order_id]
    advance(30)
    assert await relay.run_once() == 1
    assert (points.confirmed, points.released) == ([], [order_id] * 2)
    assert await status(storage, order_id) is Status.CONFIRMED


async def test_a_no_cancels_the_order_and_both_are_told_to_release(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    goods.says[order_id] = OUT_OF_STOCK
    await relay.run_once()
    order = await storage.order(order_id)
    assert (order.status, order.status_reason) == (Status.CANCELLED, "OUT_OF_STOCK")
    assert await relay.run_once() == 2
    assert goods.released == points.released == [order_id]
    assert await relay.run_once() == 0


async def steps(storage: SqlStorage, order_id: str) -> list[tuple[str, str, str]]:
    _, history = await storage.order_with_history(order_id)
    return [(entry.step, entry.served_by, entry.detail) for entry in history]


ME = f"orders/{__version__}"


async def test_the_history_tells_each_step_and_who_took_it(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    (order_id,) = await accepted(storage, terms)
    advance(1)
    await relay.run_once()
    advance(1)
    await storage.execute([Complete(order_id), Complete(order_id)])
    first, *between, confirmed, last = await steps(storage, order_id)
    assert (first, confirmed, last) == (("ACCEPTED", ME, ""), ("CONFIRMED", ME, ""), ("COMPLETED", ME, ""))
    assert sorted(between) == [
        ("LOYALTY_CONFIRMED", "loyalty/4.5.6", ""),
        ("RESERVATIONS_CONFIRMED", "reservations/1.2.3", ""),
    ]
    _, history = await storage.order_with_history(order_id)
    assert [entry.at_us - history[0].at_us for entry in history] == [0, 1_000_000, 1_000_000, 1_000_000, 2_000_000]


async def test_the_history_of_an_order_that_could_not_be_confirmed_says_who_declined_and_who_gave_back(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    goods.says[order_id] = OUT_OF_STOCK
    points.says[order_id] = CallFailed("UNAVAILABLE")
    await relay.run_once()
    goods.says.clear()
    points.says.clear()
    points.served_by = ""
    await relay.run_once()
    first, declined, cancelled, *released = await steps(storage, order_id)
    assert first == ("ACCEPTED", ME, "")
    assert declined == ("RESERVATIONS_DECLINED", "reservations/1.2.3", "OUT_OF_STOCK: none of 'tea' is left")
    assert cancelled == ("CANCELLED", ME, "OUT_OF_STOCK")
    assert sorted(released) == [
        ("LOYALTY_RELEASED", "loyalty", ""),
        ("RESERVATIONS_RELEASED", "reservations/1.2.3", ""),
    ]


async def test_what_is_released_twice_stands_twice_in_the_history(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms
) -> None:
    zeros = {"discount_percent": 0, "discount": 0, "points_redeemed": 0, "points_earned": 0}
    (order_id,) = await accepted(storage, terms._replace(**zeros, without_loyalty=True))  # type: ignore[arg-type]  # all are numbers
    await relay.run_once()
    await storage.execute([Cancel(order_id)])
    await relay.run_once()
    taken = [step for step, _, _ in await steps(storage, order_id)]
    assert taken.count("LOYALTY_RELEASED") == 2
    assert ("CANCELLED", ME, "CUSTOMER") in await steps(storage, order_id)


async def test_those_that_wait_are_told_of_each_order_that_an_answer_settles(
    outbox: ObservedOutbox, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    told: list[str] = []
    clients = {Participant.RESERVATIONS: goods, Participant.LOYALTY: points}
    relay = OutboxRelay(outbox, clients, period_s=LONG_S, timeout_s=TIMEOUT_S, settled=told.append)
    confirmed, cancelled, pending = await accepted(storage, terms, count=3)
    goods.says[cancelled] = OUT_OF_STOCK
    goods.says[pending] = CallFailed("UNAVAILABLE")
    await relay.run_once()
    assert sorted(told) == sorted([confirmed, cancelled])


async def test_a_refused_order_is_released_by_both(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant
) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK)])
    assert await relay.run_once() == 2
    assert goods.released == points.released == [order_id]
    assert await relay.run_once() == 0


async def test_a_failed_call_is_repeated_ever_later_and_at_least_every_half_minute(
    relay: OutboxRelay,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    (order_id,) = await accepted(storage, terms)
    points.says[order_id] = CallFailed("DEADLINE_EXCEEDED: too slow")
    await relay.run_once()
    for delay_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30):
        advance(delay_s - 0.001)
        assert await relay.run_once() == 0
        advance(0.001)
        assert await relay.run_once() == 1
    assert await status(storage, order_id) is Status.ACCEPTED
    del points.says[order_id]
    advance(30)
    await relay.run_once()
    assert await status(storage, order_id) is Status.CONFIRMED


async def test_jitter_shortens_a_delay_by_up_to_a_half(
    outbox: ObservedOutbox,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    relay = OutboxRelay(outbox, {Participant.LOYALTY: points}, period_s=LONG_S, timeout_s=TIMEOUT_S, jitter=lambda: 0.0)
    (order_id,) = await accepted(storage, terms)
    points.says[order_id] = CallFailed("UNAVAILABLE")
    await relay.run_once()
    advance(0.05)
    assert await relay.run_once() == 1


@pytest.mark.parametrize("late", [None, OUT_OF_STOCK, CallFailed("DEADLINE_EXCEEDED")])
async def test_an_answer_that_comes_after_a_cancel_does_not_count(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms, late: Refusal | Exception | None
) -> None:
    (order_id,) = await accepted(storage, terms)
    goods.held_back[order_id] = asyncio.Event()
    if late is not None:
        goods.says[order_id] = late
    sending = asyncio.create_task(relay.run_once())
    await goods.calls.get()
    await storage.execute([Cancel(order_id)])
    goods.held_back[order_id].set()
    await sending
    order = await storage.order(order_id)
    assert (order.status, order.status_reason) == (Status.CANCELLED, "CUSTOMER")
    goods.says.clear()
    assert await relay.run_once() == 2
    assert goods.released == [order_id]


async def test_a_lease_that_runs_out_is_taken_over_and_both_answers_may_come(
    make_relay: Relays,
    storage: SqlStorage,
    outbox: ObservedOutbox,
    goods: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    stuck, other = make_relay(), make_relay()
    (order_id,) = await accepted(storage, terms)
    hanging = goods.held_back[order_id] = asyncio.Event()
    sending = asyncio.create_task(stuck.run_once())
    assert await asyncio.wait_for(outbox.taken.get(), 30) == [order_id]  # loyalty's, which does not wait for ever
    assert (await steps(storage, order_id))[-1][0] == "LOYALTY_CONFIRMED"
    advance(LEASE_S - 0.001)
    assert await other.run_once() == 0
    advance(0.001)
    del goods.held_back[order_id]
    assert await other.run_once() == 1
    assert await status(storage, order_id) is Status.CONFIRMED
    hanging.set()
    await sending
    assert await status(storage, order_id) is Status.CONFIRMED
    assert await other.run_once() == 0


async def test_relays_that_work_at_the_same_time_send_each_message_once(
    make_relay: Relays, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    ids = await accepted(storage, terms, count=50)
    sent = await asyncio.gather(*(make_relay().run_once() for _ in range(4)))
    assert sum(sent) == 100
    for participant in (goods, points):
        assert sorted(order.order_id for order in participant.confirmed) == sorted(ids)


@pytest.mark.parametrize("poison", [CallFailed("INVALID_ARGUMENT: sku"), ValueError("no such thing")])
async def test_a_poisoned_message_does_not_hold_up_the_others_and_is_never_dropped(
    relay: OutboxRelay,
    storage: SqlStorage,
    goods: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
    poison: Exception,
) -> None:
    first, *others = await accepted(storage, terms, count=10)
    goods.says[first] = poison
    for _ in range(20):
        await relay.run_once()
        advance(30)
    assert {await status(storage, order_id) for order_id in others} == {Status.CONFIRMED}
    assert await status(storage, first) is Status.ACCEPTED
    assert [order.order_id for order in goods.confirmed].count(first) >= 20  # once more where its list fails as a whole
    del goods.says[first]
    await relay.run_once()
    assert await status(storage, first) is Status.CONFIRMED


@pytest.mark.parametrize("spoilt", ["[[1]]", "null", '[["tea", "Tea"]]'])
async def test_an_order_that_cannot_be_read_does_not_hold_up_the_others_and_goes_on_when_it_is_mended(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None], spoilt: str
) -> None:
    first, *others = await accepted(storage, terms, count=5)
    lines = set_lines(storage, first, spoilt)
    await relay.run_once()
    assert {await status(storage, order_id) for order_id in others} == {Status.CONFIRMED}
    (more,) = await accepted(storage, terms)  # nothing is left of what went wrong
    await relay.run_once()
    assert await status(storage, more) is Status.CONFIRMED
    set_lines(storage, first, lines)
    advance(30)
    await relay.run_once()
    assert await status(storage, first) is Status.CONFIRMED


def set_lines(storage: SqlStorage, order_id: str, lines: str) -> str:
    """By hand; gives what stood there."""
    with storage._database.begin() as connection:
        key = {"key": order_id}
        before = connection.execute(
            text("SELECT CAST(lines AS TEXT) FROM orders WHERE order_id = :key"), key
        ).scalar_one()
        cast = "CAST(:lines AS JSON)" if connection.dialect.name == "postgresql" else ":lines"
        connection.execute(text(f"UPDATE orders SET lines = {cast} WHERE order_id = :key"), {**key, "lines": lines})
    return str(before)


async def test_many_failures_are_told_in_one_line(
    relay: OutboxRelay,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for order_id in await accepted(storage, terms, count=40):
        points.says[order_id] = CallFailed("UNAVAILABLE: connection refused")
    with caplog.at_level(logging.WARNING):
        await relay.run_once()
    (line,) = caplog.messages
    assert "to LOYALTY failed" in line
    assert "attempt 1: UNAVAILABLE: connection refused" in line


async def test_a_running_relay_that_is_woken_sends_at_once(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, terms: Terms
) -> None:
    async with running(relay):
        for _ in range(3):
            (order_id,) = await accepted(storage, terms)
            relay.wake()
            order = await asyncio.wait_for(outbox.settled.get(), 30)
            assert (order.order_id, order.status) == (order_id, Status.CONFIRMED)


async def test_what_is_new_is_delivered_without_a_look_at_the_outbox(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, goods: FakeParticipant, terms: Terms
) -> None:
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10)
    order_id, refused_id = str(uuid.uuid4()), str(uuid.uuid4())
    await orders.create(order_id, PRINT, terms, LATER_US)
    await orders.refuse(refused_id, PRINT, "c-1", OUT_OF_STOCK)
    assert (await asyncio.wait_for(outbox.settled.get(), 30)).order_id == order_id
    while refused_id not in goods.released:
        await goods.calls.get()
    relay.stop()
    await relay.run()
    assert await relay.run_once() == 0


async def test_what_is_delivered_is_leased_and_taken_over_where_its_relay_has_gone(
    relay: OutboxRelay, make_relay: Relays, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([Create(order_id, PRINT, terms, LATER_US, relay.lease_us())])
    other = make_relay()
    advance(LEASE_S - 0.001)
    assert await other.run_once() == 0
    advance(0.001)
    assert await other.run_once() == 2
    assert await status(storage, order_id) is Status.CONFIRMED


async def test_a_relay_that_has_enough_to_do_leaves_what_is_new_to_the_others(
    relay: OutboxRelay,
    make_relay: Relays,
    storage: SqlStorage,
    outbox: ObservedOutbox,
    goods: FakeParticipant,
    terms: Terms,
) -> None:
    ids = await accepted(storage, terms, count=256)
    goods.held_back = {order_id: asyncio.Event() for order_id in ids}
    async with running(relay):
        for _ in ids:
            await goods.calls.get()
        assert relay.lease_us() == 0
        (new,) = await accepted(storage, terms)
        assert await make_relay().run_once() >= 1  # loyalty's the first one may have found free
        assert (await asyncio.wait_for(outbox.settled.get(), 30)).order_id == new
        for event in goods.held_back.values():
            event.set()
    assert relay.lease_us() == 0  # it is stopped, and takes nothing on


async def test_while_orders_keep_coming_they_are_told_of_in_lists_that_leave_apart(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ids = []
    while loop.time() < began + 0.5:
        ids.append(str(uuid.uuid4()))
        await orders.create(ids[-1], PRINT, terms, LATER_US)
        await asyncio.sleep(0.005)
    took_s = loop.time() - began
    relay.stop()
    await relay.run()
    for participant in (goods, points):
        assert [order_id for sent in participant.lists for order_id in sent] == ids
        assert participant.lists[0] == ids[:1]  # the first waits for nobody
        assert len(participant.lists) <= took_s / 0.05 + 2
    assert {await status(storage, order_id) for order_id in ids} == {Status.CONFIRMED}


async def test_long_lists_leave_before_it_is_time(
    relay: OutboxRelay,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("souk_orders.relay._APART_S", LONG_S)
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10)
    first, *others = ids = [str(uuid.uuid4()) for _ in range(97)]
    await orders.create(first, PRINT, terms, LATER_US)
    assert await points.calls.get() == first
    for order_id in others:
        await orders.create(order_id, PRINT, terms, LATER_US)
    relay.stop()
    await asyncio.wait_for(relay.run(), 30)
    assert [len(sent) for sent in points.lists] == [1, 96]
    assert {await status(storage, order_id) for order_id in ids} == {Status.CONFIRMED}


async def test_the_answers_to_lists_that_left_together_are_recorded_together(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, goods: FakeParticipant, terms: Terms
) -> None:
    _, cancelled, pending = ids = await accepted(storage, terms, count=3)
    goods.says[cancelled] = OUT_OF_STOCK
    goods.says[pending] = CallFailed("UNAVAILABLE")
    await relay.run_once()
    assert [await status(storage, each) for each in ids] == [Status.CONFIRMED, Status.CANCELLED, Status.ACCEPTED]
    assert [sorted(answers) for answers in outbox.recorded] == [sorted(ids * 2)]  # of both participants


async def test_a_participant_that_leaves_out_an_answer_holds_up_neither_the_other_one_nor_what_comes_next(
    make_relay: Relays,
    storage: SqlStorage,
    goods: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(_: object) -> Sequence[Reply]:
        return []

    monkeypatch.setattr("souk_orders.relay._AT_ONCE", 1)
    relay = make_relay()
    (order_id,) = await accepted(storage, terms)
    with monkeypatch.context() as patched:
        patched.setattr(goods, "confirm", nothing)
        await relay.run_once()
    assert (await steps(storage, order_id))[-1][0] == "LOYALTY_CONFIRMED"
    advance(LEASE_S)
    assert await relay.run_once() == 1
    assert await status(storage, order_id) is Status.CONFIRMED


async def test_an_answer_that_spoils_what_is_recorded_with_it_is_recorded_alone(
    relay: OutboxRelay,
    storage: SqlStorage,
    outbox: ObservedOutbox,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    spoilt, *others = await accepted(storage, terms, count=5)
    outbox.spoilt_by[spoilt] = ValueError("no such thing")
    await relay.run_once()
    assert {await status(storage, order_id) for order_id in others} == {Status.CONFIRMED}
    assert await status(storage, spoilt) is Status.ACCEPTED
    del outbox.spoilt_by[spoilt]
    advance(LEASE_S)
    assert await relay.run_once() == 2
    assert await status(storage, spoilt) is Status.CONFIRMED


async def test_a_database_that_fails_is_not_asked_again_for_each_answer(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, terms: Terms
) -> None:
    spoilt, *_ = await accepted(storage, terms, count=5)
    outbox.spoilt_by[spoilt] = StorageUnavailable()
    await relay.run_once()
    assert [len(answers) for answers in outbox.recorded] == [10]


async def test_confirms_and_releases_that_wait_together_are_sent_alike(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    refused_id = str(uuid.uuid4())
    await storage.execute([Refuse(refused_id, PRINT, "c-1", OUT_OF_STOCK)])
    assert await relay.run_once() == 4
    assert ([order.order_id for order in goods.confirmed], goods.released) == ([order_id], [refused_id])
    assert await status(storage, order_id) is Status.CONFIRMED


async def test_a_running_relay_finds_what_nobody_woke_it_for(
    make_relay: Relays, storage: SqlStorage, outbox: ObservedOutbox, terms: Terms
) -> None:
    async with running(make_relay(period_s=0.01)):
        await accepted(storage, terms)
        assert (await asyncio.wait_for(outbox.settled.get(), 30)).status is Status.CONFIRMED


async def test_a_no_wakes_the_relay_for_the_releases(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    points.says[order_id] = Refusal("INSUFFICIENT_POINTS", "", {})
    goods.held_back[order_id] = asyncio.Event()
    async with running(relay):
        await points.calls.get()
        await asyncio.wait_for(points.calls.get(), 30)
        assert points.released == [order_id]
        goods.held_back[order_id].set()


async def test_a_call_that_hangs_does_not_hold_up_what_falls_due_after_it(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, goods: FakeParticipant, terms: Terms
) -> None:
    (hanging,) = await accepted(storage, terms)
    goods.held_back[hanging] = asyncio.Event()
    async with running(relay):
        await goods.calls.get()
        (later,) = await accepted(storage, terms)
        relay.wake()
        assert (await asyncio.wait_for(outbox.settled.get(), 30)).order_id == later
        assert await status(storage, hanging) is Status.ACCEPTED
        goods.held_back[hanging].set()
    assert await status(storage, hanging) is Status.CONFIRMED


async def test_a_backlog_is_worked_off_without_another_wake(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, terms: Terms
) -> None:
    ids = await accepted(storage, terms, count=600)
    async with running(relay):
        settled = [await asyncio.wait_for(outbox.settled.get(), 30) for _ in ids]
    assert {order.order_id for order in settled} == set(ids)


async def test_a_relay_that_is_stopped_records_the_answers_to_what_it_sent(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms
) -> None:
    (order_id,) = await accepted(storage, terms)
    goods.held_back[order_id] = asyncio.Event()
    task = asyncio.create_task(relay.run())
    await goods.calls.get()
    relay.stop()
    (too_late,) = await accepted(storage, terms)
    goods.held_back[order_id].set()
    await asyncio.wait_for(task, 30)
    assert await status(storage, order_id) is Status.CONFIRMED
    assert await status(storage, too_late) is Status.ACCEPTED


@pytest.mark.parametrize("failure", [StorageUnavailable(), ValueError("a bug")])
async def test_a_relay_outlives_a_database_that_fails(
    make_relay: Relays, storage: SqlStorage, outbox: ObservedOutbox, terms: Terms, failure: Exception
) -> None:
    await accepted(storage, terms)
    outbox.failures = [failure] * 3
    async with running(make_relay(period_s=0.01)):
        assert (await asyncio.wait_for(outbox.settled.get(), 30)).status is Status.CONFIRMED


async def test_an_answer_that_could_not_be_recorded_is_asked_for_again(
    relay: OutboxRelay,
    storage: SqlStorage,
    outbox: ObservedOutbox,
    goods: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
) -> None:
    (order_id,) = await accepted(storage, terms)
    goods.held_back[order_id] = asyncio.Event()
    sending = asyncio.create_task(relay.run_once())
    assert await asyncio.wait_for(outbox.taken.get(), 30) == [order_id]  # loyalty's
    outbox.failures = [StorageUnavailable()]
    goods.held_back[order_id].set()
    await sending
    assert await status(storage, order_id) is Status.ACCEPTED
    advance(LEASE_S)
    assert await relay.run_once() == 1
    assert await status(storage, order_id) is Status.CONFIRMED
