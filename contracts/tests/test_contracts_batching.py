"""Calls that travel together, over real servers on loopback."""

import asyncio
import logging

import grpc
import pytest
from contract_peers import GET, Orders, Peer, Together, error, reading, ready, serving, serving_without_batches

from souk_contracts import batching, carrier, lanes
from souk_contracts.batch_codec import Call
from souk_contracts.batching import BatchingChannel
from souk_contracts.channel import connect, served_by
from souk_contracts.errors import error_of, refusal_of
from souk_contracts.lanes import Lanes
from souk_contracts.orders.v1 import CancelRequest, GetRequest, Order, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait until another is answered, and for as long as that takes."""
    monkeypatch.setattr(batching, "_AT_ONCE", 1)
    monkeypatch.setattr(batching, "_PATIENCE_S", 60.0)


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
        await asyncio.gather(*peer.ask("f"))
        await asyncio.gather(*peer.ask("g"))
    assert all(batch == [GET] for batch in batches[2:])  # each by itself, whatever it took


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
    servicer, asked = Orders(), list[str]()
    async with serving_without_batches(servicer, asked) as channel:
        peer = Peer(servicer, channel)
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
    servicer, asked = Orders(), list[str]()
    async with serving_without_batches(servicer, asked) as channel:
        peer = Peer(servicer, channel)
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


async def test_calls_that_find_their_channel_closed_are_unavailable_and_not_cancelled(patient: None) -> None:
    async with serving() as peer:
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        waiting = peer.ask("a", "b")
        await asyncio.sleep(0)
        await peer.channel.close()
        async with asyncio.timeout(60):
            await asyncio.wait([first, *waiting])
        assert first.cancelled()  # a call of its own, which gRPC ends
        late, alone = peer.ask("c"), Peer(peer.servicer, peer.channel).ask("d")
        for each in (*waiting, *late, *alone):
            assert (await error(each)).code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.stub.cancel(CancelRequest(order_id="a"))  # which is not gathered
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_list_whose_caller_is_cancelled_is_cancelled() -> None:
    async with serving() as peer:
        carried = asyncio.create_task(carrier.Carrier(peer.channel).carry([reading("wait"), reading("a")], 20.0))
        await peer.servicer.entered.wait()
        carried.cancel()
        await asyncio.wait([carried])
        assert carried.cancelled()


async def test_calls_in_a_batch_whose_channel_is_closed_are_unavailable_and_not_cancelled() -> None:
    async with serving() as peer:
        peer.ask("wait")
        await peer.servicer.entered.wait()
        peer.servicer.entered.clear()
        calls = peer.ask("wait", "a")
        await peer.servicer.entered.wait()
        closing = asyncio.create_task(peer.channel.close())
        for each in calls:
            assert (await error(each)).code() is grpc.StatusCode.UNAVAILABLE
        await closing
        answers = await peer.stub.get_all([GetRequest(order_id=each) for each in "ab"])
        assert [type(answer.result) for answer in answers] == [grpc.aio.AioRpcError] * 2


async def test_a_channel_is_idle_when_its_last_call_has_ended(patient: None) -> None:
    async with serving() as peer:
        channel = BatchingChannel(peer.channel, ("Get",))
        async with asyncio.timeout(30):
            await channel.idle()  # with none
            stub = OrdersStub(channel)
            first = asyncio.ensure_future(stub.get(GetRequest(order_id="wait")))
            await peer.servicer.entered.wait()
            behind = [asyncio.ensure_future(stub.get(GetRequest(order_id=each), timeout_s=20)) for each in "ab"]
            await asyncio.sleep(0)
            idle = asyncio.create_task(channel.idle())
            await asyncio.sleep(0)
            assert not idle.done()
            peer.servicer.go_on.set()
            await idle
            assert [each.done() for each in (first, *behind)] == [True] * 3
            # Nor does it wait for those that nobody waits for any more.
            peer.servicer.entered.clear()
            peer.servicer.go_on.clear()
            hanging = asyncio.ensure_future(stub.get(GetRequest(order_id="wait")))
            await peer.servicer.entered.wait()
            given_up = asyncio.ensure_future(stub.get(GetRequest(order_id="a")))
            await asyncio.sleep(0)
            given_up.cancel()
            peer.servicer.go_on.set()
            await channel.idle()
            assert hanging.done()


async def test_what_fails_unexpectedly_on_the_way_ends_its_calls_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with serving() as peer:
        monkeypatch.setattr(carrier.Carrier, "carry", fail)
        (first,) = peer.ask("wait")
        await peer.servicer.entered.wait()
        for each in peer.ask("a", "b"):
            assert (await error(each)).code() is grpc.StatusCode.UNAVAILABLE
        peer.servicer.go_on.set()
        await first
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a batch ended unexpectedly"]


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
