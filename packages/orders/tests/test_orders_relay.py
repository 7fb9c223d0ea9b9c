"""The relay between a real storage and participants of the test's own: what is sent, when, and which answers count."""

import asyncio
import logging
import uuid
from collections.abc import Callable

import pytest
from relay_ends import (
    LEASE_S,
    LONG_S,
    OUT_OF_STOCK,
    PRINT,
    TIMEOUT_S,
    FakeParticipant,
    ObservedOutbox,
    Relays,
    accepted,
    status,
    steps,
)
from sqlalchemy import text

from souk_orders import __version__
from souk_orders.book import Participant
from souk_orders.domain import Refusal, Status, Terms
from souk_orders.relay import OutboxRelay
from souk_orders.routes import CallFailed
from souk_orders.service import Cancel, Complete, Lease, Refuse
from souk_orders.storage import SqlStorage


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


async def test_an_order_that_cannot_be_read_is_put_off_and_says_why(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    (order_id,) = await accepted(storage, terms)
    set_lines(storage, order_id, "null")
    for look in range(3):
        assert await relay.run_once() == 0
        with storage._database.begin() as connection:
            rows = connection.execute(text("SELECT due_at_us - created_at_us, attempts, last_error FROM outbox")).all()
        # Thirty seconds after each look: the second one comes too early.
        assert [(wait_us, attempts) for wait_us, attempts, _ in rows] == [
            (30_000_000, 1),
            (30_000_000, 1),
            (60_000_000, 2),
        ][look : look + 1] * 2
        assert all("is damaged: its field lines cannot be read" in error for _, _, error in rows)
        advance(15)


async def test_any_number_of_orders_that_cannot_be_read_stand_in_nobodys_way(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    for order_id in await accepted(storage, terms, count=600):
        set_lines(storage, order_id, "null")
    advance(1)
    (last,) = await accepted(storage, terms)
    await relay.run_once()
    assert await status(storage, last) is Status.CONFIRMED


async def test_a_message_for_a_participant_of_a_newer_version_is_left_to_those_who_know_it(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms, advance: Callable[[float], None]
) -> None:
    ours, cancelled, *others = await accepted(storage, terms, count=4)
    for order_id in (ours, cancelled):
        add_message(storage, order_id, "GIFTS")
    await relay.run_once()
    assert {await status(storage, order_id) for order_id in others} == {Status.CONFIRMED}
    assert ours in [order.order_id for order in goods.confirmed]
    assert await status(storage, ours) is Status.ACCEPTED  # it needs every yes
    await storage.execute([Cancel(cancelled)])
    advance(60)
    await relay.run_once()
    assert cancelled in goods.released
    with storage._database.begin() as connection:
        rows = connection.execute(text("SELECT order_id, participant, kind, leased_until_us, attempts FROM outbox"))
        assert sorted(map(tuple, rows)) == sorted(
            [(ours, "GIFTS", "CONFIRM", 0, 0), (cancelled, "GIFTS", "RELEASE", 0, 0)]
        )


@pytest.mark.parametrize("leased", [True, False])
async def test_a_clock_that_steps_back_an_hour_holds_up_no_message(
    relay: OutboxRelay,
    storage: SqlStorage,
    points: FakeParticipant,
    terms: Terms,
    advance: Callable[[float], None],
    leased: bool,
) -> None:
    new, failed = await accepted(storage, terms, count=2)
    points.says[failed] = CallFailed("UNAVAILABLE")
    advance(1)
    if leased:
        await storage.execute([Lease(to, 10, int(LEASE_S * 1_000_000)) for to in Participant])
    else:
        await relay.run_once()
        (new,) = await accepted(storage, terms)
    points.says.clear()
    advance(-3600)
    await relay.run_once()
    assert {await status(storage, order_id) for order_id in (new, failed)} == {Status.CONFIRMED}


async def test_a_clock_that_is_a_little_ahead_keeps_its_leases(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    await accepted(storage, terms)
    await storage.execute([Lease(to, 10, int(LEASE_S * 1_000_000)) for to in Participant])
    advance(-9)
    assert await relay.run_once() == 0


def add_message(storage: SqlStorage, order_id: str, participant: str) -> None:
    """As a newer version writes it."""
    columns = "kind, created_at_us, due_at_us, leased_until_us, attempts, last_error"
    copy = f"INSERT INTO outbox (order_id, participant, {columns}) SELECT order_id, :to, {columns} FROM outbox"
    with storage._database.begin() as connection:
        of_loyalty = text(f"{copy} WHERE order_id = :key AND participant = 'LOYALTY'")
        connection.execute(of_loyalty, {"key": order_id, "to": participant})


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
