"""The streams that batches travel on, over real servers on loopback."""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
from contract_peers import GET, Orders, Together, error, reading, ready, serving

from souk_contracts import lanes
from souk_contracts.channel import connect, peer_of, served_by
from souk_contracts.lanes import Lane, Lanes
from souk_contracts.orders.v1 import GetRequest, Order
from souk_contracts.server import GrpcServer, ServerSettings


@pytest.fixture
def long_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lane's time is over before the test is."""
    monkeypatch.setattr(lanes, "LIFE_S", 60.0)


class Noted(Lane):
    """A lane whose end can be waited for."""

    opened: list["Noted"]

    def __init__(self, stream: Any, metadata: grpc.aio.Metadata) -> None:
        super().__init__(stream, metadata)
        self.opened.append(self)

    async def ended(self) -> None:
        await self._stream.code()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """The lanes that were opened, the oldest first."""
    monkeypatch.setattr(Noted, "opened", [], raising=False)
    monkeypatch.setattr(lanes, "Lane", Noted)
    return Noted.opened


async def test_calls_one_after_another_take_the_lane_that_was_opened_meanwhile(
    batches: list[list[str]], long_lanes: None
) -> None:
    async with serving() as peer:
        await asyncio.gather(*peer.ask("a"))
        assert batches == []
        while not batches:
            call = peer.stub.get(GetRequest(order_id="b"))
            assert (await call).order == Order(id="b")
            assert await served_by(call) == "orders/1.2.3"
        (refused,) = peer.ask("refuse")
        assert (await error(refused)).code() is grpc.StatusCode.NOT_FOUND
    assert batches == [[GET]] * 2


async def test_a_lane_is_closed_when_its_time_is_over_and_the_next_batch_opens_another(
    opened: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LIFE_S", 0.05)
    async with serving() as peer:
        for _ in range(2):
            await asyncio.gather(*peer.ask("a", "b", "c"))
            async with asyncio.timeout(20):
                await asyncio.gather(*(lane.ended() for lane in opened))
    assert len(opened) >= 2


async def test_a_lane_whose_time_is_over_is_closed_once_it_is_answered(
    opened: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    retired = asyncio.Event()
    retire = Lanes._retire

    def note(self: Lanes, lane: Lane) -> None:
        retire(self, lane)
        retired.set()

    monkeypatch.setattr(Lanes, "_retire", note)
    monkeypatch.setattr(lanes, "LIFE_S", 0.05)
    async with serving() as peer:
        carried = asyncio.ensure_future(Lanes(peer.channel).carry([reading("wait")], 20.0))
        await peer.servicer.entered.wait()
        async with asyncio.timeout(20):
            await retired.wait()
            peer.servicer.go_on.set()
            (result,), _ = await carried
            await opened[0].ended()
    assert result.response is not None


async def test_a_lane_that_was_lost_is_left_and_what_was_on_it_fails_as_it_would_alone(
    long_lanes: None,
) -> None:
    servicer = Orders()
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [servicer], ready)
    port = await server.start()
    async with connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        several = Lanes(channel)
        await several.carry([reading("a")], 20.0)
        hanging = asyncio.ensure_future(several.carry([reading("wait")], 20.0))
        await servicer.entered.wait()
        await server.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hanging
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert peer_of(caught.value.trailing_metadata()) == ""
        again = GrpcServer(ServerSettings("orders", "1.2.4", f"127.0.0.1:{port}", drain_s=0.1), [servicer], ready)
        await again.start()
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    _, lane = await several.carry([reading("a")], 20.0)
                    break
        assert lane.peer == "orders/1.2.4"
        await again.drain()


async def test_an_answer_that_lacks_calls_is_a_mistake_of_the_server_s_and_stays_in_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Together()) as peer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Lanes(peer.channel).carry([reading("a"), reading("forget")], 20.0)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert peer_of(caught.value.trailing_metadata()) == "orders/1.2.3"
    assert "a list of calls failed" in caplog.text


async def test_a_list_whose_time_is_over_is_not_sent(long_lanes: None) -> None:
    async with serving() as peer:
        several = Lanes(peer.channel)
        await several.carry([reading("a")], 20.0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await several.carry([reading("b")], 0.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await several.carry([reading("c")], 20.0)
        assert peer.servicer.seen == ["a", "c"]
