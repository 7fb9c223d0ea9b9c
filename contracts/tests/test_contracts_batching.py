"""Calls that travel together, over real servers on loopback."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from souk_contracts import batching, carrier, lanes
from souk_contracts.batch_codec import Call, Result
from souk_contracts.batch_servicer import Batches
from souk_contracts.batching import BatchingChannel
from souk_contracts.channel import connect, peer_of, served_by
from souk_contracts.errors import Refused, error_of, refusal_of
from souk_contracts.lanes import Lane, Lanes
from souk_contracts.orders.v1 import CancelRequest, GetRequest, GetResponse, Order, OrdersServicer, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings

GET = "/souk.orders.v1.OrdersService/Get"


class Orders(OrdersServicer):
    """Answers `get` as the order id asks it to."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.seen: list[str] = []

    async def get(self, request: GetRequest) -> GetResponse:
        self.seen.append(request.order_id)
        match request.order_id:
            case "refuse":
                code = grpc.StatusCode.NOT_FOUND
                raise Refused(code, "orders.souk", "UNKNOWN_ORDER", "no such order", {"order_id": "refuse"})
            case "break":
                raise ZeroDivisionError("a secret")
            case "wait":
                self.entered.set()
                await self.go_on.wait()
        return GetResponse(order=Order(id=request.order_id))


class Together(Orders):
    """Answers several calls of `get` as one."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: list[list[str]] = []

    async def get_all(self, requests: Sequence[GetRequest]) -> list[GetResponse | Exception]:
        if [request.order_id for request in requests] == ["wait"]:
            return [await self.get(requests[0])]
        self.lists.append([request.order_id for request in requests])
        if "forget" in self.lists[-1]:
            return []
        if "break" in self.lists[-1]:
            raise ZeroDivisionError("a secret")
        refused = Refused(grpc.StatusCode.NOT_FOUND, "orders.souk", "UNKNOWN_ORDER", "no such order", {})
        return [
            refused if request.order_id == "refuse" else GetResponse(order=Order(id=request.order_id))
            for request in requests
        ]


class Peer:
    """A server, and a stub that gathers calls of `get` for it."""

    def __init__(self, servicer: Orders, channel: grpc.aio.Channel) -> None:
        self.servicer = servicer
        self.channel = channel
        self.stub = OrdersStub(BatchingChannel(channel, ("Get",)))

    def ask(self, *order_ids: str, timeout_s: float = 20.0) -> "list[asyncio.Future[GetResponse]]":
        return [
            asyncio.ensure_future(self.stub.get(GetRequest(order_id=each), timeout_s=timeout_s)) for each in order_ids
        ]

    async def ask_behind(self, *order_ids: str) -> "list[asyncio.Future[GetResponse]]":
        """Calls that find another one under way, which is answered only now."""
        (first,) = self.ask("wait")
        await self.servicer.entered.wait()
        behind = self.ask(*order_ids)
        await asyncio.sleep(0)  # they are made
        self.servicer.go_on.set()
        await first
        return behind


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait until another is answered, and for as long as that takes."""
    monkeypatch.setattr(batching, "_AT_ONCE", 1)
    monkeypatch.setattr(batching, "_PATIENCE_S", 60.0)


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


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The methods in each batch that a server of the test was sent."""
    seen = []
    call = Batches.call

    async def record(self: Batches, calls: Sequence[Call]) -> Sequence[Result]:
        seen.append([each.method for each in calls])
        return await call(self, calls)

    monkeypatch.setattr(Batches, "call", record)
    return seen


async def ready() -> bool:
    return True


@asynccontextmanager
async def serving(servicer: Orders | None = None) -> AsyncIterator[Peer]:
    servicer = servicer or Orders()
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [servicer], ready)
    async with connect(f"127.0.0.1:{await server.start()}", user_agent="test/1") as channel:
        yield Peer(servicer, channel)
        await server.drain()


@asynccontextmanager
async def serving_without_batches() -> AsyncIterator[tuple[Peer, list[str]]]:
    """A server as it was before there were batches, and the methods that it is asked for."""
    servicer, asked = Orders(), []

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
            asked.append(handler_call_details.method.rpartition("/")[2])
            return servicer.handler().service(handler_call_details)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Peer(servicer, channel), asked
        await server.stop(None)


async def test_a_lone_call_leaves_at_once_and_alone(batches: list[list[str]]) -> None:
    async with serving() as peer:
        call = peer.stub.get(GetRequest(order_id="a"))
        assert (await call).order == Order(id="a")
        assert await served_by(call) == "orders/1.2.3"
    assert batches == []


async def test_calls_that_find_one_under_way_leave_together_when_it_is_answered(
    patient: None, batches: list[list[str]]
) -> None:
    async with serving() as peer:
        answers = await asyncio.gather(*await peer.ask_behind("a", "b", "c"))
        assert [answer.order for answer in answers] == [Order(id="a"), Order(id="b"), Order(id="c")]
    assert batches == [[GET, GET, GET]]


async def test_where_calls_come_together_those_of_one_turn_leave_together(
    patient: None, batches: list[list[str]]
) -> None:
    async with serving() as peer:
        await asyncio.gather(*await peer.ask_behind("a", "b"))
        await asyncio.gather(*peer.ask("c", "d", "e"))
    assert batches == [[GET] * 2, [GET] * 3]


async def test_a_servicer_may_carry_out_a_whole_list_at_once(patient: None, caplog: pytest.LogCaptureFixture) -> None:
    together = Together()
    async with serving(together) as peer:
        before, refused, after = await peer.ask_behind("a", "refuse", "b")
        assert (await before).order == Order(id="a")
        assert (await error(refused)).code() is grpc.StatusCode.NOT_FOUND
        assert (await after).order == Order(id="b")
        assert together.lists == [["a", "refuse", "b"]]
        peer.servicer.entered.clear()
        peer.servicer.go_on.clear()
        good, broken = await peer.ask_behind("c", "break")  # which fails as a whole, and is tried one by one
        assert (await good).order == Order(id="c")
        assert (await error(broken)).code() is grpc.StatusCode.INTERNAL
        assert together.lists[1:] == [["c", "break"], ["c"], ["break"]]
    assert "ZeroDivisionError" in caplog.text


async def test_a_call_in_a_batch_is_refused_as_if_it_were_alone_and_the_others_are_answered(patient: None) -> None:
    async with serving() as peer:
        before, refused, after = await peer.ask_behind("a", "refuse", "b")
        assert ((await before).order, (await after).order) == (Order(id="a"), Order(id="b"))
        in_batch = await error(refused)
        alone = await error(peer.ask("refuse")[0])
        for each in (in_batch, alone):
            refusal = refusal_of(each)
            assert refusal is not None
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ORDER")
            assert refusal.metadata == {"order_id": "refuse"}
        assert (in_batch.code(), in_batch.details()) == (alone.code(), alone.details())


async def test_calls_in_a_batch_name_who_answered_also_a_refusal(patient: None) -> None:
    async with serving() as peer:
        await peer.ask_behind()
        peer.servicer.go_on.clear()
        peer.servicer.entered.clear()
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        calls = [peer.stub.get(GetRequest(order_id=each)) for each in ("a", "refuse")]
        peer.servicer.go_on.set()
        await asyncio.gather(first, *map(asyncio.ensure_future, calls), return_exceptions=True)
        assert [await served_by(call) for call in calls] == ["orders/1.2.3"] * 2


async def test_what_went_wrong_inside_a_call_is_logged_and_told_neither_to_it_nor_to_the_others(
    patient: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as peer:
        broken, other = await peer.ask_behind("break", "a")
        assert (await other).order == Order(id="a")
        failed = await error(broken)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (failed.details() or "")
    assert refusal_of(failed) is None
    assert "a secret" in caplog.text


async def test_what_cannot_be_called_is_said_for_each_call(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as peer:
        await peer.stub.get(GetRequest(order_id="a"))
        calls = [
            Call("/souk.orders.v1.OrdersService/Bake", b""),
            Call("/souk.batch.v1.BatchService/Call", b""),
            Call("/souk.orders.v1.OrdersService/Cancel", bytes(CancelRequest(order_id="a"))),
            Call(GET, b"\xff"),
            Call(GET, b""),
        ]
        (*failed, last), _ = await Lanes(peer.channel).carry(calls, 20.0)
        codes = [error_of(result.status, grpc.aio.Metadata()).code() for result in failed]
        assert codes == [grpc.StatusCode.UNIMPLEMENTED] * 3 + [grpc.StatusCode.INVALID_ARGUMENT]
        assert last.response is not None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_peer_that_knows_no_batches_gets_calls_one_by_one_and_is_not_asked_again(patient: None) -> None:
    async with serving_without_batches() as (peer, asked):
        for _ in range(2):
            peer.servicer.entered.clear()
            peer.servicer.go_on.clear()
            found, refused, other = await peer.ask_behind("a", "refuse", "b")
            assert ((await found).order, (await other).order) == (Order(id="a"), Order(id="b"))
            assert (await error(refused)).code() is grpc.StatusCode.UNKNOWN  # it has no conventions either
        assert asked.count("Call") == 1
        assert asked.count("Get") == 8


async def test_a_peer_that_knows_batches_by_now_is_found_out(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "ALONE_S", 0.0)
    async with serving_without_batches() as (peer, asked):
        for _ in range(2):
            peer.servicer.entered.clear()
            peer.servicer.go_on.clear()
            await asyncio.gather(*await peer.ask_behind("a", "b"))
        assert asked.count("Call") >= 2


async def test_each_call_of_a_batch_has_its_own_deadline(patient: None) -> None:
    async with serving() as peer:
        peer.servicer.go_on.clear()
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        (short,), (longer,) = peer.ask("a", timeout_s=0.05), peer.ask("b")
        assert (await error(short)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        peer.servicer.go_on.set()
        assert (await longer).order == Order(id="b")
        await first
        assert peer.servicer.seen == ["wait", "b"]  # nobody waited for the other one any more


async def test_a_call_ends_at_its_deadline_though_its_batch_hangs(patient: None) -> None:
    async with serving() as peer:
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        (hanging,), (short,), (shorter,) = peer.ask("wait"), peer.ask("a", timeout_s=0.6), peer.ask("b", timeout_s=0.3)
        peer.servicer.go_on.set()
        await first
        peer.servicer.go_on.clear()
        began = asyncio.get_running_loop().time()
        assert (await error(shorter)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not short.done()
        assert (await error(short)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert asyncio.get_running_loop().time() - began < 5
        assert not hanging.done()
        peer.servicer.go_on.set()
        assert (await hanging).order == Order(id="wait")


async def test_calls_leave_though_those_under_way_hang(
    batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_AT_ONCE", 1)
    async with serving() as peer:
        (hanging,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        answers = await asyncio.gather(*peer.ask("a", "b"))
        assert [answer.order for answer in answers] == [Order(id="a"), Order(id="b")]
        assert not hanging.done()
        peer.servicer.go_on.set()
        await hanging
    assert batches == [[GET, GET]]


async def test_when_the_peer_goes_every_call_of_a_batch_fails_as_it_would_alone(patient: None) -> None:
    servicer = Orders()
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [servicer], ready)
    async with connect(f"127.0.0.1:{await server.start()}", user_agent="test/1") as channel:
        peer = Peer(servicer, channel)
        behind = await peer.ask_behind("a")
        await asyncio.gather(*behind)
        servicer.go_on.clear()
        servicer.entered.clear()
        (first,) = peer.ask("wait")
        await servicer.entered.wait()
        waiting = peer.ask("a", "b")
        await asyncio.sleep(0)
        await server.drain()
        assert [(await error(each)).code() for each in (first, *waiting)] == [grpc.StatusCode.UNAVAILABLE] * 3


async def test_a_caller_that_gives_up_does_not_disturb_the_others(patient: None) -> None:
    async with serving() as peer:
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        gone, other = peer.ask("a", "b")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        peer.servicer.go_on.set()
        assert (await other).order == Order(id="b")
        await first
        assert peer.servicer.seen == ["wait", "b"]


async def test_closing_the_channel_ends_the_calls_that_wait(patient: None) -> None:
    async with serving() as peer:
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        waiting = peer.ask("a", "b")
        await asyncio.sleep(0)
        await peer.channel.close()
        async with asyncio.timeout(20):
            await asyncio.wait([first, *waiting])
        assert all(each.cancelled() for each in (first, *waiting))


async def test_a_long_queue_leaves_in_batches_of_a_bounded_size(
    patient: None, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "MAX_CALLS", 2)
    async with serving() as peer:
        await asyncio.gather(*await peer.ask_behind(*"abcdef"))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    batches.clear()
    monkeypatch.setattr(carrier, "MAX_BYTES", 1)
    async with serving() as peer:
        answers = await asyncio.gather(*await peer.ask_behind(*"abc"))
    assert len(answers) == 3
    assert all(len(batch) == 1 for batch in batches)  # each is too much for others to be beside it


async def test_of_many_calls_one_half_leaves_behind_the_other(
    patient: None, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_LARGE", 5)
    async with serving() as peer:
        await asyncio.gather(*await peer.ask_behind("a", "b"))
        monkeypatch.setattr(batching, "_AT_ONCE", 2)
        batches.clear()
        await asyncio.gather(*peer.ask(*"abcd"))
        assert [len(batch) for batch in batches] == [4]
        batches.clear()
        await asyncio.gather(*peer.ask(*"abcde"))
    assert sorted(len(batch) for batch in batches) == [2, 3]


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


def reading(order_id: str) -> Call:
    return Call(GET, bytes(GetRequest(order_id=order_id)))


async def error(call: "asyncio.Future[GetResponse]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value
