"""When orders are taken no more, since earlier ones wait to be confirmed; and when they are all the same."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio
from relay_ends import LATER_US, LONG_S, PRINT, TIMEOUT_S, FakeParticipant, accepted, until

from souk_contracts.errors import refusal_of
from souk_contracts.orders.v1 import CreateRequest, CreateResponse, OrderLine, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings
from souk_orders import SERVICE, __version__
from souk_orders.book import Participant
from souk_orders.domain import Overloaded, Refusal, Terms
from souk_orders.lobby import Lobby
from souk_orders.relay import OutboxRelay
from souk_orders.routes import CallFailed
from souk_orders.service import Orders
from souk_orders.servicer import OrdersServicer
from souk_orders.storage import SqlStorage
from souk_orders.writer import Clock

TTL_S = 40.0


@pytest.fixture
def relay(storage: SqlStorage, goods: FakeParticipant, points: FakeParticipant, clock: Clock) -> OutboxRelay:
    """Its clock is the storage's."""
    clients = {Participant.RESERVATIONS: goods, Participant.LOYALTY: points}
    return OutboxRelay(storage, clients, period_s=LONG_S, timeout_s=TIMEOUT_S, jitter=lambda: 1.0, clock=clock)


@pytest.fixture
def orders(storage: SqlStorage, relay: OutboxRelay) -> Orders:
    return Orders(storage, relay, Lobby(), hold_margin_s=10, hold_ttl_s=TTL_S)


@pytest_asyncio.fixture
async def stub(orders: Orders, storage: SqlStorage) -> AsyncIterator[OrdersStub]:
    """A client of a real server on loopback."""
    server = GrpcServer(ServerSettings(SERVICE, __version__, "127.0.0.1:0"), [OrdersServicer(orders)], storage.answers)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield OrdersStub(channel, timeout_s=60)
    await server.drain()


@pytest_asyncio.fixture
async def waiting(orders: Orders, relay: OutboxRelay, goods: FakeParticipant, terms: Terms) -> AsyncIterator[str]:
    """An order whose goods are not confirmed until the test ends, or says so."""
    order_id = str(uuid.uuid4())
    goods.held_back[order_id] = asyncio.Event()
    await orders.create(order_id, PRINT, terms, LATER_US)
    await only_goods_wait(relay)
    yield order_id
    goods.held_back[order_id].set()


def request() -> CreateRequest:
    return CreateRequest(
        order_id=str(uuid.uuid4()),
        fingerprint=PRINT,
        customer_id="c-1",
        currency="EUR",
        lines=[OrderLine(sku="mug", name="Mug", quantity=1, unit_price=900)],
        holds_expire_at_us=LATER_US,
        brief=True,
    )


async def only_goods_wait(relay: OutboxRelay, count: int = 1) -> None:
    """Returns once all but so many Confirms to reservations are answered, and that is recorded."""
    routes = [relay._routes[participant] for participant in Participant]
    await until(lambda: [len(route.under_way) for route in routes] == [count, 0])


async def answers(stub: OrdersStub) -> list[CreateResponse | Refusal | None]:
    """To a Create alone, and to two in a list."""
    found: list[CreateResponse | Refusal | None] = []
    for answer in [*await stub.create_all([request(), request()]), *await stub.create_all([request()])]:
        if isinstance(answer.result, grpc.aio.AioRpcError):
            assert answer.result.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            refusal = refusal_of(answer.result)
            assert refusal is not None
            found.append(Refusal(refusal.reason, "", refusal.metadata))
        else:
            assert isinstance(answer.result, CreateResponse)
            found.append(answer.result)
    return found


async def pauses(stub: OrdersStub) -> set[int]:
    found = await answers(stub)
    assert all(isinstance(answer, CreateResponse) for answer in found)
    return {answer.pause_ms for answer in found if isinstance(answer, CreateResponse)}


@pytest.mark.usefixtures("waiting")
async def test_orders_are_taken_until_a_confirm_has_waited_a_quarter_of_the_holds_life(
    stub: OrdersStub, relay: OutboxRelay, advance: Callable[[float], None], storage: SqlStorage
) -> None:
    assert await pauses(stub) == {0}
    advance(TTL_S / 8)
    assert await pauses(stub) == {0}
    advance(0.001)
    assert await pauses(stub) == {250}
    advance(TTL_S / 8 - 0.001)
    assert await pauses(stub) == {250}
    count = len(await storage.orders("", None, (2**63 - 1, ""), 500))
    advance(0.001)
    assert await answers(stub) == [Refusal("OVERLOADED", "", {"pause_ms": "250"})] * 3
    assert len(await storage.orders("", None, (2**63 - 1, ""), 500)) == count
    await only_goods_wait(relay)
    advance(TTL_S * 3 / 4)
    assert await pauses(stub) == {0}  # the hold has ended, whatever is done now


async def test_orders_are_taken_again_as_soon_as_the_confirm_is_answered(
    stub: OrdersStub, waiting: str, goods: FakeParticipant, advance: Callable[[float], None], relay: OutboxRelay
) -> None:
    advance(TTL_S / 2)
    assert Refusal("OVERLOADED", "", {"pause_ms": "250"}) in await answers(stub)
    goods.held_back[waiting].set()
    relay.stop()
    await relay.run()
    assert await pauses(stub) == {0}


@pytest.mark.usefixtures("waiting")
async def test_a_participant_that_does_not_answer_closes_nothing(
    orders: Orders, relay: OutboxRelay, goods: FakeParticipant, terms: Terms, advance: Callable[[float], None]
) -> None:
    away, back = str(uuid.uuid4()), str(uuid.uuid4())
    goods.says[away] = CallFailed("UNAVAILABLE")
    await orders.create(away, PRINT, terms, LATER_US)
    await only_goods_wait(relay)
    assert not relay._routes[Participant.RESERVATIONS].answers
    advance(TTL_S / 2)
    assert orders.admission.pause_ms() == 0
    await orders.create(back, PRINT, terms, LATER_US)
    await until(lambda: relay._routes[Participant.RESERVATIONS].answers)
    assert orders.admission.pause_ms() == 250


async def test_a_message_that_is_put_off_closes_nothing(
    relay: OutboxRelay, storage: SqlStorage, goods: FakeParticipant, terms: Terms, advance: Callable[[float], None]
) -> None:
    order_id, other = await accepted(storage, terms, count=2)
    goods.says[order_id] = CallFailed("INTERNAL")
    await relay.run_once()
    goods.held_back[order_id] = asyncio.Event()
    advance(0.2)
    again = asyncio.create_task(relay.run_once())
    await until(lambda: goods.calls.qsize() == 3)
    advance(TTL_S / 2)
    assert relay.lag_us(int(TTL_S * 1e6)) == 0
    goods.held_back[order_id].set()
    await again
    assert other in [order.order_id for order in goods.confirmed]


async def test_what_no_relay_has_leased_counts_too(
    relay: OutboxRelay, storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    route = relay._routes[Participant.RESERVATIONS]
    route.free = 3
    await accepted(storage, terms, count=3)
    advance(1)
    await accepted(storage, terms, count=2)
    await relay._deliver_due()
    assert route.left_since_us is not None
    advance(1)
    assert relay.lag_us(int(TTL_S * 1e6)) == 2_000_000  # what is left is no older than the last that was leased
    relay.stop()
    await relay.run()
    assert await relay.run_once() == 2
    assert relay.lag_us(int(TTL_S * 1e6)) == 0


async def test_a_relay_that_has_enough_to_do_notes_since_when_it_leaves_messages(
    relay: OutboxRelay, advance: Callable[[float], None]
) -> None:
    for route in relay._routes.values():
        route.free = 0
    assert relay.lease_us() == 0
    advance(3)
    assert relay.lease_us() == 0
    assert relay.lag_us(int(TTL_S * 1e6)) == 3_000_000


async def test_nothing_new_is_begun_while_the_writer_is_far_behind(
    orders: Orders, storage: SqlStorage, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("souk_orders.admission._LONGEST_LAG_S", 1e-9)
    begun, may_end = threading.Event(), threading.Event()

    def carry_out(*_: object) -> list[object]:
        begun.set()
        may_end.wait()
        return []

    with monkeypatch.context() as slow:
        slow.setattr(storage._writer, "_carry_out", carry_out)
        stuck = asyncio.create_task(storage.execute([]))
        await asyncio.to_thread(begun.wait)
    order_id = str(uuid.uuid4())
    with pytest.raises(Overloaded):
        await orders.create(order_id, PRINT, terms, LATER_US)
    may_end.set()
    await stuck
    await until(lambda: storage.lag_s() == 0)
    assert not (await orders.create(order_id, PRINT, terms, LATER_US)).replayed
