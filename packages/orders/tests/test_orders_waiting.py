"""Calls that wait for an order to be settled: who wakes them, and when they go without."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from souk_contracts.orders.v1 import CancelRequest, GetRequest, OrdersStub, OrderStatus
from souk_orders import lobby as lobby_module
from souk_orders.book import Participant
from souk_orders.domain import Order, Terms
from souk_orders.lobby import Lobby
from souk_orders.service import Answered, Create, Lease
from souk_orders.storage import SqlStorage

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
LONG_MS = 10_000


async def accept(storage: SqlStorage, terms: Terms) -> None:
    await storage.execute([Create(ORDER, bytes(32), terms, 10**15)])


async def confirm(storage: SqlStorage) -> None:
    """As the relay of another process does, whom nobody here hears."""
    for participant in Participant:
        (leased,) = await storage.execute([Lease(participant, 10, lease_us=1)])
        assert isinstance(leased, list)
        await storage.execute([Answered(delivery.message, no=None) for delivery in leased])


async def somebody_in(lobby: Lobby) -> None:
    async with asyncio.timeout(30):
        while not lobby._waiting:  # noqa: ASYNC110 (a call says nothing when it arrives)
            await asyncio.sleep(0)


class Looks:
    """Whether an order is settled, as a test has it; tells when somebody has looked."""

    def __init__(self) -> None:
        self.settled = False
        self.count = 0
        self.looked = asyncio.Event()

    async def __call__(self) -> bool:
        self.count += 1
        self.looked.set()
        return self.settled


async def test_a_call_waits_until_another_process_has_settled_the_order(
    stub: OrdersStub, storage: SqlStorage, open_storage: Callable[[], SqlStorage], terms: Terms, lobby: Lobby
) -> None:
    await accept(storage, terms)
    waiting = asyncio.ensure_future(stub.get(GetRequest(order_id=ORDER, wait_ms=LONG_MS), timeout_s=30))
    await somebody_in(lobby)
    await confirm(open_storage())
    answer = await waiting
    assert answer.order is not None
    assert answer.order.status is OrderStatus.CONFIRMED
    assert [entry.step for entry in answer.history][-1] == "CONFIRMED"


async def test_a_cancel_ends_the_waiting_at_once(
    stub: OrdersStub, storage: SqlStorage, terms: Terms, lobby: Lobby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby_module, "_FIRST_LOOK_S", 3600)
    monkeypatch.setattr(lobby_module, "_LONGEST_LOOK_S", 3600)
    await accept(storage, terms)
    waiting = asyncio.ensure_future(stub.get(GetRequest(order_id=ORDER, wait_ms=LONG_MS), timeout_s=30))
    await somebody_in(lobby)
    await stub.cancel(CancelRequest(order_id=ORDER))
    async with asyncio.timeout(LONG_MS / 2000):  # not only when its time is over
        answer = await waiting
    assert answer.order is not None
    assert answer.order.status is OrderStatus.CANCELLED
    assert lobby._waiting == {}


async def test_an_order_that_is_not_settled_in_time_is_shown_as_it_stands(
    stub: OrdersStub, storage: SqlStorage, terms: Terms
) -> None:
    await accept(storage, terms)
    answer = await stub.get(GetRequest(order_id=ORDER, wait_ms=30))
    assert answer.order is not None
    assert answer.order.status is OrderStatus.ACCEPTED
    assert [entry.step for entry in answer.history] == ["ACCEPTED"]


@pytest.mark.parametrize("wait_ms", [-1, 10_001])
async def test_a_call_waits_ten_seconds_at_most(stub: OrdersStub, wait_ms: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.get(GetRequest(order_id=ORDER, wait_ms=wait_ms))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"wait_ms must be from 0 to 10000, but is {wait_ms}"


async def test_nobody_waits_for_an_order_that_is_not_there(stub: OrdersStub, lobby: Lobby) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.get(GetRequest(order_id=ORDER, wait_ms=LONG_MS))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert lobby._waiting == {}


async def test_a_call_that_is_cancelled_waits_no_longer() -> None:
    lobby, looks = Lobby(), Looks()
    waiting = asyncio.create_task(lobby.wait("a", looks, 3600))
    await looks.looked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lobby._waiting == {}


async def test_everyone_who_waits_for_an_order_is_called_and_nobody_else() -> None:
    lobby, ours, other = Lobby(), Looks(), Looks()
    waiting = [asyncio.create_task(lobby.wait("a", ours, 3600)) for _ in range(3)]
    elsewhere = asyncio.create_task(lobby.wait("b", other, 3600))
    await other.looked.wait()
    ours.settled = True
    lobby.call("a")
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    assert not elsewhere.done()
    elsewhere.cancel()


async def test_a_lobby_that_closes_lets_everyone_go_and_nobody_in() -> None:
    lobby, looks = Lobby(), Looks()
    waiting = asyncio.create_task(lobby.wait("a", looks, 3600))
    await looks.looked.wait()
    lobby.close()
    async with asyncio.timeout(30):
        await waiting
        await lobby.wait("a", looks, 3600)
    assert lobby._waiting == {}


async def test_what_is_settled_between_the_look_and_the_waiting_is_heard() -> None:
    lobby = Lobby()
    looks = 0

    async def settled_meanwhile() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            lobby.call("a")
            return False
        return True

    async with asyncio.timeout(30):
        await lobby.wait("a", settled_meanwhile, 3600)
    assert looks == 2


async def test_the_order_that_is_read_is_the_one_that_its_history_tells_of(storage: SqlStorage, terms: Terms) -> None:
    await accept(storage, terms)
    await confirm(storage)
    order, history = await storage.order_with_history(ORDER)
    assert isinstance(order, Order)
    assert [entry.step for entry in history] == [
        "ACCEPTED",
        "RESERVATIONS_CONFIRMED",
        "LOYALTY_CONFIRMED",
        order.status.value,
    ]
