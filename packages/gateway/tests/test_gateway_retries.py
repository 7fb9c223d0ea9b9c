"""Retries: which calls are made again, how often, and what they cost a service that is away."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from gateway_services import Shop
from grpc import StatusCode

from souk_contracts.channel import connect
from souk_contracts.errors import Refused
from souk_contracts.loyalty.v1 import HoldRequest
from souk_contracts.reservations.v1 import ListItemsRequest, RestockItemRequest
from souk_gateway.breakers import Breaker
from souk_gateway.clients import LoyaltyClient, ReservationsClient
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.retries import Retries

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
async def channel(shop: Shop) -> AsyncIterator[grpc.aio.Channel]:
    """To reservations."""
    async with connect(f"localhost:{shop.ports['reservations']}", user_agent="test/1.0") as opened:
        await opened.channel_ready()
        yield opened


def client_of(channel: grpc.aio.Channel, breaker: Breaker | None = None) -> ReservationsClient:
    return ReservationsClient(channel, breaker, Retries(lambda: 0.0))


@pytest.mark.parametrize(
    "failure",
    [
        AWAY,
        Refused(StatusCode.RESOURCE_EXHAUSTED, "reservations.souk", "TOO_MANY_AT_ONCE", "in a moment"),
    ],
)
async def test_a_failure_that_may_pass_is_asked_again(channel: grpc.aio.Channel, shop: Shop, failure: Refused) -> None:
    shop.reservations.faults.fail_first["list_items"] = [failure, failure]
    exchange = Exchange(5)
    page = await client_of(channel).list_items(LIST, exchange)
    assert [item.sku for item in page.items] == ["demo", "tea"]
    assert shop.reservations.faults.calls == ["list_items"] * 3
    assert exchange.served_by().split()[1:] == ["reservations/1.2.3"]


async def test_what_keeps_failing_is_told_as_it_was_said(channel: grpc.aio.Channel, shop: Shop) -> None:
    shop.reservations.faults.fail["list_items"] = AWAY
    with pytest.raises(Unavailable) as caught:
        await client_of(channel).list_items(LIST, Exchange(5))
    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    assert shop.reservations.faults.calls == ["list_items"] * 3


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), NotImplementedError()])
async def test_a_failure_that_does_not_pass_is_not_asked_again(
    channel: grpc.aio.Channel, shop: Shop, failure: Exception
) -> None:
    shop.reservations.faults.fail["list_items"] = failure
    with pytest.raises(Unavailable):
        await client_of(channel).list_items(LIST, Exchange(5))
    assert shop.reservations.faults.calls == ["list_items"]


async def test_a_refusal_is_not_asked_again_and_is_an_answer(channel: grpc.aio.Channel, shop: Shop) -> None:
    breaker = Breaker("reservations")
    client = client_of(channel, breaker)
    for _ in range(20):
        with pytest.raises(Rejected):
            await client.get_item("nothing", Exchange(5))
    assert shop.reservations.faults.calls == ["get_item"] * 20
    assert not breaker.is_open()


async def test_a_restock_is_never_repeated(channel: grpc.aio.Channel, shop: Shop) -> None:
    shop.reservations.faults.fail_first["restock_item"] = [AWAY]
    with pytest.raises(Unavailable):
        await client_of(channel).restock_item(RestockItemRequest(sku="tea", quantity=1), Exchange(5))
    assert shop.reservations.faults.calls == ["restock_item"]


async def test_an_attempt_that_hangs_leaves_time_for_another(channel: grpc.aio.Channel, shop: Shop) -> None:
    opened = asyncio.Event()

    async def hang_once() -> None:
        await shop.reservations.faults.called.wait()
        del shop.reservations.faults.gates["list_items"]

    shop.reservations.faults.gates["list_items"] = opened
    freed = asyncio.create_task(hang_once())
    page = await client_of(channel).list_items(LIST, Exchange(10))
    assert [item.sku for item in page.items] == ["demo", "tea"]
    assert shop.reservations.faults.calls == ["list_items"] * 2
    await freed


async def test_a_service_that_does_not_answer_is_left_alone(channel: grpc.aio.Channel, shop: Shop) -> None:
    shop.reservations.faults.fail["list_items"] = AWAY
    client = client_of(channel, Breaker("reservations", clock=lambda: 0.0))
    for _ in range(20):
        with pytest.raises(Unavailable):
            await client.list_items(LIST, Exchange(5))
    assert len(shop.reservations.faults.calls) == 10


async def test_a_service_that_was_given_no_time_has_not_failed(channel: grpc.aio.Channel, shop: Shop) -> None:
    shop.reservations.faults.gates["list_items"] = asyncio.Event()
    breaker = Breaker("reservations")
    client = client_of(channel, breaker)
    for _ in range(20):
        with pytest.raises(Unavailable, match="in time"):
            await client.list_items(LIST, Exchange(0.01))
    assert not breaker.is_open()


async def test_a_probe_whose_request_is_cancelled_makes_way_for_another(channel: grpc.aio.Channel, shop: Shop) -> None:
    breaker = Breaker("reservations", clock=iter(range(1000)).__next__)
    for _ in range(10):
        breaker.failed()
    client = client_of(channel, breaker)
    shop.reservations.faults.gates["list_items"] = asyncio.Event()
    probe = asyncio.create_task(client.list_items(LIST, Exchange(30)))
    await shop.reservations.faults.called.wait()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    del shop.reservations.faults.gates["list_items"]
    assert (await client.list_items(LIST, Exchange(5))).items


async def test_loyalty_that_is_left_alone_is_away(shop: Shop) -> None:
    shop.loyalty.faults.fail["hold"] = AWAY
    async with connect(f"localhost:{shop.ports['loyalty']}", user_agent="test/1.0") as channel:
        await channel.channel_ready()
        client = LoyaltyClient(channel, Breaker("loyalty", clock=lambda: 0.0), Retries(lambda: 0.0))
        for _ in range(4):
            assert not client.is_away()
            with pytest.raises(Unavailable):
                await client.hold(HoldRequest(), Exchange(5))
        assert client.is_away()
