"""The streams that batches travel on, over real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio
from contract_peers import GET, Orders, Process, Together, error, reading, ready, serving

from souk_contracts import lanes
from souk_contracts.batch_codec import Call, Result
from souk_contracts.batch_servicer import Batches
from souk_contracts.channel import connect, peer_of, served_by
from souk_contracts.errors import plain_error
from souk_contracts.lanes import Lane, Lanes
from souk_contracts.orders.v1 import GetRequest, GetResponse, Order, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings
from souk_contracts.tasks import spawn

IN_TIME_S = 10.0
"""Within what anything here is done: sooner than a server closes a connection for its age, and the lanes on it."""


@pytest.fixture
def long_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lane's time is over before the test is."""
    monkeypatch.setattr(lanes, "LIFE_S", 60.0)


class Noted(Lane):
    """A lane whose end can be waited for, and which notes what it was given."""

    opened: list["Noted"]

    def __init__(self, stream: Any, metadata: grpc.aio.Metadata) -> None:
        super().__init__(stream, metadata)
        self.carried: list[Sequence[Call]] = []
        self.opened.append(self)

    async def carry(self, calls: Sequence[Call]) -> Sequence[Result]:
        self.carried.append(calls)
        return await super().carry(calls)

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
        async with asyncio.timeout(IN_TIME_S):
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
            async with asyncio.timeout(IN_TIME_S):
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
        several = Lanes(peer.channel)
        carried = asyncio.ensure_future(several.carry([reading("wait")], IN_TIME_S))
        await peer.servicer.entered.wait()
        async with asyncio.timeout(IN_TIME_S):
            await retired.wait()
            peer.servicer.go_on.set()
            (result,), _ = await carried
            await opened[0].ended()
    assert result.response is not None


async def test_what_is_on_a_lane_that_is_lost_fails_as_it_would_alone_and_the_next_takes_another(
    opened: list[Noted], long_lanes: None
) -> None:
    servicer = Orders()
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [servicer], ready)
    port = await server.start()
    async with connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        several = Lanes(channel)
        hanging = asyncio.ensure_future(several.carry([reading("wait")], IN_TIME_S))
        await servicer.entered.wait()
        await several.carry([reading("a")], IN_TIME_S)  # on another one, which then is idle
        await server.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hanging
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert peer_of(caught.value.trailing_metadata()) == ""
        await asyncio.gather(*(lane.ended() for lane in opened))
        again = GrpcServer(ServerSettings("orders", "1.2.4", f"127.0.0.1:{port}", drain_s=0.1), [servicer], ready)
        await again.start()
        await channel.channel_ready()
        _, lane = await several.carry([reading("a")], IN_TIME_S)
        assert lane.peer == "orders/1.2.4"
        await again.drain()


async def test_a_lane_that_ends_in_good_order_but_without_an_answer_is_lost() -> None:
    class Leaving(Batches):
        async def _serve(self, _: object, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
            await context.send_initial_metadata(self._served_by)
            await context.read()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Leaving({}, (("souk-service", "orders"), ("souk-version", "1.2.3"))).handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Lanes(channel).carry([reading("a")], IN_TIME_S)
        await server.stop(None)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_answer_that_lacks_calls_is_a_mistake_of_the_server_s_and_stays_in_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Together()) as peer:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Lanes(peer.channel).carry([reading("a"), reading("forget")], IN_TIME_S)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert peer_of(caught.value.trailing_metadata()) == "orders/1.2.3"
    assert "a list of calls failed" in caplog.text


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Process, Process, grpc.aio.Channel]]:
    """Two replicas, each a process of its own, and a channel that is connected with both."""
    first, second = await asyncio.gather(*(asyncio.to_thread(Process, name) for name in ("first", "second")))
    target = f"ipv4:///127.0.0.1:{first.port},127.0.0.1:{second.port}"
    try:
        async with connect(target, user_agent="test/1") as channel:
            stub, seen = OrdersStub(channel), set[str]()
            async with asyncio.timeout(60):
                while seen != {"first", "second"}:
                    answer = await stub.get(GetRequest(order_id="a"))
                    assert answer.order is not None
                    seen.add(answer.order.customer_id)
            yield first, second, channel
    finally:
        first.end()
        second.end()


async def test_a_batch_does_not_wait_for_a_replica_that_hangs_while_another_one_serves(
    pair: tuple[Process, Process, grpc.aio.Channel],
) -> None:
    first, _, channel = pair
    first.hang()
    for _ in range(6):  # every other one would go to the replica that hangs
        (result, _), lane = await Lanes(channel).carry([reading("a"), reading("b")], IN_TIME_S)
        assert result.response is not None
        assert GetResponse.parse(result.response).order == Order(id="a", customer_id="second")
        assert lane.peer == "orders/1.2.3"
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if "_ask" in repr(task.get_coro())]  # nor do those go on waiting


async def test_where_every_replica_hangs_a_batch_ends_at_its_deadline_and_another_is_answered_later(
    pair: tuple[Process, Process, grpc.aio.Channel],
) -> None:
    *both, channel = pair
    several = Lanes(channel)
    for each in both:
        each.hang()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await several.carry([reading("a")], 1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert several._idle == []
    for each in both:
        each.go_on()
    (result,), _ = await several.carry([reading("a")], IN_TIME_S)
    assert result.response is not None


@pytest.mark.parametrize(
    "told",
    [
        grpc.aio.InternalError("it is gone"),
        grpc.aio.UsageError("Channel is closed."),
        asyncio.InvalidStateError("RPC already finished."),
        plain_error(grpc.StatusCode.UNAVAILABLE, "it is gone"),
    ],
)
@pytest.mark.parametrize("when", ["done_writing", "code"])
async def test_however_grpc_tells_that_a_lane_was_lost_it_is_closed_without_a_word(
    told: Exception, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def tell(_: object) -> None:
        raise told

    async with serving() as peer:
        _, lane = await Lanes(peer.channel).carry([reading("a")], IN_TIME_S)
        with monkeypatch.context() as lost:
            lost.setattr(type(lane._stream), when, tell)
            await spawn(lane.close(), "closing a lane")
        assert not lane.is_open()
        assert not caplog.records


async def test_a_lane_whose_answer_cannot_be_read_is_not_used_again(opened: list[Noted], long_lanes: None) -> None:
    class Careless(Batches):
        async def _serve(self, _: object, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
            await context.send_initial_metadata(self._served_by)
            while await context.read() is not grpc.aio.EOF:
                await context.write(b"\xff")

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Careless({}, (("souk-service", "orders"), ("souk-version", "1.2.3"))).handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        several = Lanes(channel)
        for _ in range(2):
            assert (await several.carry([reading("a")], IN_TIME_S))[0] == []
        await server.stop(None)
    assert len(opened) == 2


class Late(Lanes):
    """Lanes whose first two openings end at the same moment, or of which the first fails then."""

    def __init__(self, channel: grpc.aio.Channel, *, fails: bool = False) -> None:
        super().__init__(channel)
        self._asked = 0
        self._fails = fails
        self._both = asyncio.Event()

    async def _ask(self) -> Lane:
        self._asked += 1
        is_first = self._asked == 1
        lane = await super()._ask()
        if not is_first:
            self._both.set()
        await self._both.wait()
        if is_first and self._fails:
            lane.cancel()
            raise grpc.aio.UsageError
        return lane


async def test_of_two_lanes_that_open_at_the_same_time_the_second_is_kept_for_the_next_batch(
    opened: list[Noted], long_lanes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_PATIENCE_S", 0.01)
    async with serving() as peer:
        several = Late(peer.channel)
        await several.carry([reading("a")], IN_TIME_S)
        assert {*several._idle} == {*opened}
        assert len(opened) == 2


async def test_a_lane_that_opens_counts_more_than_one_that_fails_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "_PATIENCE_S", 0.01)
    async with serving() as peer:
        (result,), _ = await Late(peer.channel, fails=True).carry([reading("a")], IN_TIME_S)
    assert result.response is not None


async def test_a_list_whose_time_is_over_is_not_sent(opened: list[Noted], long_lanes: None) -> None:
    async with serving() as peer:
        several = Lanes(peer.channel)
        await several.carry([reading("a")], IN_TIME_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await several.carry([reading("b")], 0.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await several.carry([reading("c")], IN_TIME_S)
        assert peer.servicer.seen == ["a", "c"]
    assert [lane.carried for lane in opened] == [[[reading("a")], [reading("c")]]]
