"""Which orders are begun under load, and what the others are told."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from gateway_services import Shop, gateway
from grpc import StatusCode

from souk_contracts.errors import Refused
from souk_contracts.orders.v1 import Order
from souk_gateway.admission import Admission
from souk_gateway.errors import Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderLineRequest, OrderRequest
from souk_gateway.saga import Decision, Saga

TEA = OrderRequest(customer_id="c-1", lines=(OrderLineRequest("tea", 1),))
ORDER = {"customer_id": "c-1", "lines": [{"sku": "tea", "quantity": 1}], "redeem_points": 0}
REFUSED_AT_ONCE = Refused(
    StatusCode.RESOURCE_EXHAUSTED, "orders.souk", "OVERLOADED", "too much to do", {"pause_ms": "1000"}
)


def is_overloaded(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 503
        and answer.json()["type"] == "/problems/overloaded"
        and 1 <= int(answer.headers["Retry-After"]) <= 31
    )


async def until_taken(client: httpx.AsyncClient, headers: Mapping[str, str]) -> None:
    while (await client.post("/v1/orders", json=ORDER, headers=headers)).status_code != 201:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.05)


async def test_more_orders_than_can_be_finished_in_time_are_not_begun(shop: Shop) -> None:
    gate = shop.reservations.faults.gates["reserve"] = asyncio.Event()
    async with gateway(shop, max_orders_under_way=2) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        under_way = [asyncio.create_task(client.post("/v1/orders", json=ORDER)) for _ in range(2)]
        while shop.reservations.faults.calls.count("reserve") < 2:
            shop.reservations.faults.called.clear()
            await shop.reservations.faults.called.wait()
        for headers in ({}, {"Idempotency-Key": "k"}):
            assert is_overloaded(await client.post("/v1/orders", json=ORDER, headers=headers))
        assert is_overloaded(await client.post("/order?name=Ada"))
        assert (await client.get("/v1/items")).status_code == 200  # which holds nothing
        assert shop.reservations.faults.calls.count("reserve") == 2
        gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*under_way)] == [201, 201]
        assert (await client.post("/v1/orders", json=ORDER)).status_code == 201


async def test_while_orders_asks_for_a_pause_nothing_is_held(shop: Shop) -> None:
    shop.orders.pause_ms = 10**9
    async with gateway(shop) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.post("/v1/orders", json=ORDER)).status_code == 201
        refused = await asyncio.gather(*(client.post("/v1/orders", json=ORDER) for _ in range(20)))
        begun = shop.reservations.faults.calls.count("reserve")
        assert any(map(is_overloaded, refused))
        assert all(map(is_overloaded, refused)) or begun > 1  # on a busy machine a second has passed
        assert begun == 1 + sum(answer.status_code == 201 for answer in refused)
        shop.orders.pause_ms = 0
        await until_taken(client, {})  # the pause ends by itself
        again = await asyncio.gather(*(client.post("/v1/orders", json=ORDER) for _ in range(20)))
        assert {answer.status_code for answer in again} == {201}


@pytest.mark.parametrize("call", ["reserve", "hold", "create"])
async def test_a_service_that_takes_no_more_is_asked_by_one_order_at_a_time(shop: Shop, call: str) -> None:
    faults = {"reserve": shop.reservations.faults, "hold": shop.loyalty.faults, "create": shop.orders.faults}[call]
    faults.fail[call] = REFUSED_AT_ONCE
    async with gateway(shop) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        headers = {"Idempotency-Key": "k"}
        assert is_overloaded(await client.post("/v1/orders", json=ORDER, headers=headers))
        for _ in range(20):
            assert is_overloaded(await client.post("/v1/orders", json=ORDER, headers=headers))
        assert faults.calls.count(call) < 20
        del faults.fail[call]
        await until_taken(client, headers)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeSaga(Saga):
    """Gives what a test wants, and counts what is begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.gives: Decision | Exception = Decision(Order(), replayed=False, pause_ms=0)

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange, besides: str = "") -> Decision:  # noqa: ARG002 (the port has them)
        self.begun += 1
        await asyncio.sleep(0)
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


async def at_once(admission: Admission, count: int) -> int:
    """How many of so many orders that come together are begun."""
    found = await asyncio.gather(
        *(admission.place(TEA, None, Exchange(5)) for _ in range(count)), return_exceptions=True
    )
    return sum(isinstance(each, Decision) for each in found)


async def test_when_a_pause_is_over_one_order_goes_first() -> None:
    clock, saga = Clock(), FakeSaga()
    admission = Admission(saga, max_under_way=10, clock=clock)
    saga.gives = Decision(Order(), replayed=False, pause_ms=250)
    assert await at_once(admission, 5) == 5
    for _ in range(3):
        clock.now_s += 0.2
        assert await at_once(admission, 5) == 0
        clock.now_s += 0.06
        assert await at_once(admission, 5) == 1
    clock.now_s += 0.26
    saga.gives = Decision(Order(), replayed=False, pause_ms=0)
    assert await at_once(admission, 5) == 1
    assert await at_once(admission, 5) == 5


async def spread_s(admission: Admission) -> int:
    """How far a refusal of now spreads its clients."""
    with pytest.raises(Unavailable) as refusal:
        admission.check()
    return refusal.value.spread_s


async def test_the_more_orders_are_refused_the_later_they_come_back() -> None:
    clock, saga = Clock(), FakeSaga()
    admission = Admission(saga, max_under_way=100, clock=clock)
    assert await at_once(admission, 101) == 100
    asked = [asyncio.create_task(admission.place(TEA, None, Exchange(5))) for _ in range(100)]
    await asyncio.sleep(0)
    said = [await spread_s(admission) for _ in range(40)]
    assert said == sorted(said)
    assert (said[0], said[-1]) == (1, 25)
    for _ in range(60):
        last = await spread_s(admission)
    assert last == 30
    await asyncio.gather(*asked)
    clock.now_s += 60  # as if there had been none
    assert await at_once(admission, 101) == 100


async def test_an_order_that_does_not_come_to_orders_says_nothing_of_a_pause() -> None:
    clock, saga = Clock(), FakeSaga()
    admission = Admission(saga, max_under_way=10, clock=clock)
    saga.gives = Unavailable("too much", reason="OVERLOADED", pause_ms=250)
    assert await at_once(admission, 1) == 0
    for gives in (ValueError(), Unavailable("away"), Decision(Order(), replayed=False)):
        saga.gives = gives
        clock.now_s += 0.26
        begun = saga.begun
        await at_once(admission, 5)
        assert saga.begun == begun + 1
    saga.gives = Decision(Order(), replayed=False, pause_ms=-(10**9))
    clock.now_s += 0.26
    assert await at_once(admission, 1) == 1
    assert await at_once(admission, 10) == 10
