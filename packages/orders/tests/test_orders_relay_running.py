"""A relay that runs: what it delivers at once, how lists leave and answers are recorded, and what it outlives."""

import asyncio
import uuid
from collections.abc import Callable, Sequence

import pytest
from relay_ends import (
    LATER_US,
    LEASE_S,
    LONG_S,
    OUT_OF_STOCK,
    PRINT,
    FakeParticipant,
    ObservedOutbox,
    Relays,
    accepted,
    running,
    status,
    steps,
)

from souk_orders.domain import Refusal, Status, StorageUnavailable, Terms
from souk_orders.lobby import Lobby
from souk_orders.relay import OutboxRelay
from souk_orders.routes import CallFailed, Reply
from souk_orders.service import Create, Orders, Refuse
from souk_orders.storage import SqlStorage


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
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=60)
    order_id, refused_id = str(uuid.uuid4()), str(uuid.uuid4())
    await orders.create(order_id, PRINT, terms, LATER_US)
    await orders.refuse(refused_id, PRINT, "c-1", OUT_OF_STOCK)
    assert (await asyncio.wait_for(outbox.settled.get(), 30)).order_id == order_id
    while refused_id not in goods.released:
        await goods.calls.get()
    relay.stop()
    await relay.run()
    assert await relay.run_once() == 0


async def test_what_was_leased_is_delivered_whatever_becomes_of_the_caller(
    relay: OutboxRelay, storage: SqlStorage, outbox: ObservedOutbox, goods: FakeParticipant, terms: Terms
) -> None:
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=60)
    order_id, refused_id = str(uuid.uuid4()), str(uuid.uuid4())
    for call in (
        orders.create(order_id, PRINT, terms, LATER_US),
        orders.refuse(refused_id, PRINT, "c-1", OUT_OF_STOCK),
    ):
        caller = asyncio.create_task(call)
        await asyncio.sleep(0)  # it hands its command over, and waits
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert (await asyncio.wait_for(outbox.settled.get(), 30)).order_id == order_id
    while refused_id not in goods.released:
        await asyncio.wait_for(goods.calls.get(), 30)
    relay.stop()
    await relay.run()


async def test_an_order_that_is_cancelled_is_released_whatever_becomes_of_the_caller(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms
) -> None:
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=60)
    (order_id,) = await accepted(storage, terms)
    async with running(relay):
        caller = asyncio.create_task(orders.cancel(order_id))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        while order_id not in goods.released:
            await asyncio.wait_for(goods.calls.get(), 30)


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
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=60)
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
    orders = Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=60)
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
