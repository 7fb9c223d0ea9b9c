"""Retries: which calls are made again, how often, and what they cost a service that is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from gateway_services import Shop
from grpc import ChannelConnectivity, StatusCode

from souk_contracts.errors import Refused
from souk_contracts.loyalty.v1 import HoldRequest, LoyaltyStub
from souk_contracts.orders.v1 import OrdersStub
from souk_contracts.reservations.v1 import (
    Line,
    ListItemsRequest,
    ReservationsStub,
    ReserveRequest,
)
from souk_gateway import clients
from souk_gateway.backends import Backends
from souk_gateway.breakers import Breaker
from souk_gateway.clients import LoyaltyClient, OrdersClient, ReservationsClient
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.retries import Retries
from souk_gateway.targets import Target

LIST = ListItemsRequest()
AWAY = Refused(StatusCode.UNAVAILABLE, "reservations.souk", "STORAGE_UNAVAILABLE", "the database does not answer")


def test_pauses_grow_and_jitter_is_full() -> None:
    assert [Retries(lambda: 1.0).pause_s(attempts, 5) for attempts in (1, 2)] == [0.05, 0.1]
    assert Retries(lambda: 0.0).pause_s(1, 5) == 0


def test_there_are_three_attempts_at_most() -> None:
    assert Retries().pause_s(3, 5) is None


def test_nothing_is_repeated_for_which_no_time_is_left() -> None:
    retries = Retries(lambda: 1.0)
    assert retries.pause_s(1, 0.099) is None
    assert retries.pause_s(1, 0.1) is not None


def test_in_the_long_run_one_call_in_ten_is_repeated() -> None:
    retries = Retries()
    repeated = 0
    for _ in range(1000):
        retries.called()
        repeated += retries.pause_s(1, 5) is not None
    # What was saved up comes first.
    assert 100 <= repeated <= 110


def test_no_more_than_ten_retries_are_saved_up() -> None:
    retries = Retries()
    for _ in range(1000):
        retries.called()
    assert [retries.pause_s(1, 5) is not None for _ in range(12)] == [True] * 10 + [False] * 2


@pytest_asyncio.fixture
async def backends(shop: Shop) -> AsyncIterator[Backends[ReservationsStub]]:
    """Of reservations, with one target, whose retries come at once."""
    opened = Backends("reservations", ReservationsStub)
    async with ready(opened, shop.ports["reservations"]):
        yield opened


@asynccontextmanager
async def ready(backends: Backends[Any], port: int) -> AsyncIterator[None]:
    backends.use((Target(f"127.0.0.1:{port}"),))
    only = backends.all()[0]
    only.retries = Retries(lambda: 0.0)
    await only.channel.channel_ready()
    yield
    await backends.close()


@pytest.mark.parametrize(
    "failure",
    [
        AWAY,
        Refused(StatusCode.RESOURCE_EXHAUSTED, "reservations.souk", "TOO_MANY_AT_ONCE", "in a moment"),
    ],
)
async def test_a_failure_that_may_pass_is_asked_again(
    backends: Backends[ReservationsStub], shop: Shop, failure: Refused
) -> None:
    shop.reservations.faults.fail_first["list_items"] = [failure, failure]
    exchange = Exchange(5)
    page = await ReservationsClient(backends).list_items(LIST, exchange)
    assert [item.sku for item in page.items] == ["demo", "tea"]
    assert shop.reservations.faults.calls == ["list_items"] * 3
    assert exchange.served_by().split()[1:] == ["reservations/1.2.3"]


async def test_what_keeps_failing_is_told_as_it_was_said(backends: Backends[ReservationsStub], shop: Shop) -> None:
    shop.reservations.faults.fail["list_items"] = AWAY
    with pytest.raises(Unavailable) as caught:
        await ReservationsClient(backends).list_items(LIST, Exchange(5))
    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    assert shop.reservations.faults.calls == ["list_items"] * 3


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), NotImplementedError()])
async def test_a_failure_that_does_not_pass_is_not_asked_again(
    backends: Backends[ReservationsStub], shop: Shop, failure: Exception
) -> None:
    shop.reservations.faults.fail["list_items"] = failure
    with pytest.raises(Unavailable):
        await ReservationsClient(backends).list_items(LIST, Exchange(5))
    assert shop.reservations.faults.calls == ["list_items"]


async def test_a_refusal_is_not_asked_again_and_is_an_answer(backends: Backends[ReservationsStub], shop: Shop) -> None:
    client, breaker = ReservationsClient(backends), backends.all()[0].breaker
    for _ in range(20):
        with pytest.raises(Rejected):
            await client.get_item("nothing", Exchange(5))
    assert shop.reservations.faults.calls == ["get_item"] * 20
    assert not breaker.is_open()


async def test_a_restock_without_a_key_is_never_repeated(backends: Backends[ReservationsStub], shop: Shop) -> None:
    shop.reservations.faults.fail_first["restock_item"] = [AWAY]
    with pytest.raises(Unavailable):
        await ReservationsClient(backends).restock_item("tea", 1, None, Exchange(5))
    assert shop.reservations.faults.calls == ["restock_item"]


async def test_an_attempt_that_hangs_leaves_time_for_another(backends: Backends[ReservationsStub], shop: Shop) -> None:
    opened = asyncio.Event()

    async def hang_once() -> None:
        await shop.reservations.faults.called.wait()
        del shop.reservations.faults.gates["list_items"]

    shop.reservations.faults.gates["list_items"] = opened
    freed = asyncio.create_task(hang_once())
    page = await ReservationsClient(backends).list_items(LIST, Exchange(10))
    assert [item.sku for item in page.items] == ["demo", "tea"]
    assert shop.reservations.faults.calls == ["list_items"] * 2
    await freed


async def test_a_service_that_does_not_answer_is_left_alone(backends: Backends[ReservationsStub], shop: Shop) -> None:
    shop.reservations.faults.fail["list_items"] = AWAY
    backends.all()[0].breaker = Breaker("reservations", clock=lambda: 0.0)
    client = ReservationsClient(backends)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await client.list_items(LIST, Exchange(5))
    assert len(shop.reservations.faults.calls) == 10


async def test_calls_that_travelled_together_are_one_failure(backends: Backends[ReservationsStub], shop: Shop) -> None:
    shop.reservations.faults.gates["reserve"] = asyncio.Event()
    client, breaker = ReservationsClient(backends), backends.all()[0].breaker
    for wanted in (False, True):
        for _ in range(1 if not wanted else 20):
            requests = [ReserveRequest(str(number), [Line(sku="tea", quantity=1)]) for number in range(60)]
            answers = await asyncio.gather(
                *(client.reserve(each, Exchange(0.3)) for each in requests), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [Unavailable] * 60
            if breaker.is_open():
                break
        assert breaker.is_open() is wanted
    shop.reservations.faults.gates["reserve"].set()


async def test_a_service_that_was_given_no_time_has_not_failed(
    backends: Backends[ReservationsStub], shop: Shop
) -> None:
    shop.reservations.faults.gates["list_items"] = asyncio.Event()
    client, breaker = ReservationsClient(backends), backends.all()[0].breaker
    for _ in range(20):
        with pytest.raises(Unavailable, match="in time"):
            await client.list_items(LIST, Exchange(0.01))
    assert not breaker.is_open()


async def test_a_probe_whose_request_is_cancelled_makes_way_for_another(
    backends: Backends[ReservationsStub], shop: Shop
) -> None:
    breaker = backends.all()[0].breaker = Breaker("reservations", clock=iter(range(1000)).__next__)
    for _ in range(10):
        breaker.failed()
    client = ReservationsClient(backends)
    shop.reservations.faults.gates["list_items"] = asyncio.Event()
    probe = asyncio.create_task(client.list_items(LIST, Exchange(30)))
    await shop.reservations.faults.called.wait()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    del shop.reservations.faults.gates["list_items"]
    assert (await client.list_items(LIST, Exchange(5))).items


async def test_a_probe_that_cannot_be_written_makes_way_for_another(
    backends: Backends[ReservationsStub], shop: Shop
) -> None:
    breaker = backends.all()[0].breaker = Breaker("reservations", clock=iter(range(1000)).__next__)
    for _ in range(10):
        breaker.failed()
    client = ReservationsClient(backends)
    with pytest.raises(ValueError, match="surrogates"):
        await client.get_item("\udc80", Exchange(5))
    assert (await client.list_items(LIST, Exchange(5))).items


async def test_a_call_whose_channel_is_closed_is_unavailable_and_not_cancelled(
    backends: Backends[ReservationsStub], shop: Shop
) -> None:
    shop.reservations.faults.gates["restock_item"] = asyncio.Event()
    client = ReservationsClient(backends)
    call = asyncio.create_task(client.restock_item("tea", 1, None, Exchange(30)))
    await shop.reservations.faults.called.wait()
    await backends.all()[0].channel.close()
    with pytest.raises(Unavailable):
        await call
    with pytest.raises(Unavailable):
        await client.list_items(LIST, Exchange(5))
    shop.reservations.faults.gates["restock_item"].set()


async def test_loyalty_that_is_left_alone_is_away(shop: Shop) -> None:
    shop.loyalty.faults.fail["hold"] = AWAY
    backends = Backends("loyalty", LoyaltyStub)
    async with ready(backends, shop.ports["loyalty"]):
        backends.all()[0].breaker = Breaker("loyalty", clock=lambda: 0.0)
        client = LoyaltyClient(backends)
        for _ in range(4):
            assert not await client.is_away(Exchange(5))
            with pytest.raises(Unavailable):
                await client.hold(HoldRequest(), Exchange(5))
        assert await client.is_away(Exchange(5))


async def test_when_a_pause_has_ended_one_request_finds_out_and_all_others_stay_away(shop: Shop) -> None:
    now_s = 0.0
    backends = Backends("orders", OrdersStub)
    async with ready(backends, shop.ports["orders"]):
        breaker = backends.all()[0].breaker = Breaker("orders", clock=lambda: now_s)
        for _ in range(10):
            breaker.failed()
        client = OrdersClient(backends)
        assert await client.is_away(Exchange(5))
        now_s = 2.0
        asked = [asyncio.ensure_future(client.is_away(Exchange(5))) for _ in range(20)]
        assert sorted(await asyncio.gather(*asked)) == [False] + [True] * 19
        assert not await client.is_away(Exchange(5))
        assert shop.orders.faults.calls == []


async def test_a_service_that_does_not_answer_the_question_is_left_alone_for_another_pause(shop: Shop) -> None:
    now_s = 0.0
    backends = Backends("orders", OrdersStub)
    async with ready(backends, shop.ports["orders"]):
        backend = backends.all()[0]
        breaker = backend.breaker = Breaker("orders", clock=lambda: now_s)
        for _ in range(10):
            breaker.failed()
        await shop.close("orders")
        now_s = 2.0
        client = OrdersClient(backends)
        assert await client.is_away(Exchange(5))
        await shop.open("orders", shop.orders)
        while backend.channel.get_state(try_to_connect=True) is not ChannelConnectivity.READY:
            await backend.channel.wait_for_state_change(backend.channel.get_state())
        now_s = 4.0
        assert not await client.is_away(Exchange(5))


async def test_a_request_that_is_cancelled_while_it_finds_out_makes_way_for_another(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    backends = Backends("orders", OrdersStub)
    async with ready(backends, shop.ports["orders"]):
        breaker = backends.all()[0].breaker = Breaker("orders", clock=lambda: now_s)
        for _ in range(10):
            breaker.failed()
        now_s, asked = 2.0, asyncio.Event()

        async def hang(channel: object) -> tuple[bool, str]:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        client = OrdersClient(backends)
        with monkeypatch.context() as patch:
            patch.setattr(clients, "health", hang)
            asking = asyncio.ensure_future(client.is_away(Exchange(5)))
            await asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert not await client.is_away(Exchange(5))
