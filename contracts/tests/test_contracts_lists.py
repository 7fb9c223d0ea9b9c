"""Lists of calls that a stub makes at once, over real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from contract_peers import ready, serving_without_batches

from souk_contracts import carrier, lanes
from souk_contracts.batch_codec import Call, Result
from souk_contracts.batch_servicer import Batches
from souk_contracts.carrier import Answer
from souk_contracts.channel import connect
from souk_contracts.errors import Refused, refusal_of
from souk_contracts.orders.v1 import GetRequest, GetResponse, Order, OrdersServicer, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings

ME = "orders/1.2.3"
NOT_UNICODE = "\udc80"


class Orders(OrdersServicer):
    """Answers `get` as the order id asks it to, and notes which calls came together."""

    def __init__(self) -> None:
        self.alone: list[str] = []
        self.lists: list[list[str]] = []

    async def get(self, request: GetRequest) -> GetResponse:
        self.alone.append(request.order_id)
        match request.order_id:
            case "refuse":
                raise Refused(grpc.StatusCode.NOT_FOUND, "orders.souk", "UNKNOWN_ORDER", "no such order", {})
            case "wait":
                await asyncio.Event().wait()
        return GetResponse(order=Order(id=request.order_id))

    async def get_all(self, requests: Sequence[GetRequest]) -> Sequence[GetResponse | Exception]:
        self.lists.append([request.order_id for request in requests])
        return await super().get_all(requests)


@asynccontextmanager
async def serving(servicer: Orders) -> AsyncIterator[OrdersStub]:
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [servicer], ready)
    async with connect(f"127.0.0.1:{await server.start()}", user_agent="test/1") as channel:
        yield OrdersStub(channel)
        await server.drain()


async def get_all(stub: OrdersStub, *order_ids: str, timeout_s: float | None = None) -> Sequence[Answer[GetResponse]]:
    return await stub.get_all([GetRequest(order_id=each) for each in order_ids], timeout_s=timeout_s)


def found(order_id: str, served_by: str = ME) -> Answer[GetResponse]:
    return Answer(GetResponse(order=Order(id=order_id)), served_by)


def error(answer: Answer[GetResponse]) -> grpc.aio.AioRpcError:
    assert isinstance(answer.result, grpc.aio.AioRpcError)
    return answer.result


async def test_the_calls_of_a_list_travel_together_and_each_has_its_own_result() -> None:
    servicer = Orders()
    async with serving(servicer) as stub:
        before, refused, after = await get_all(stub, "a", "refuse", "b")
    assert (before, after) == (found("a"), found("b"))
    assert error(refused).code() is grpc.StatusCode.NOT_FOUND
    refusal = refusal_of(error(refused))
    assert refusal is not None
    assert (refusal.reason, refused.served_by) == ("UNKNOWN_ORDER", ME)
    assert servicer.lists == [["a", "refuse", "b"]]


async def test_a_list_of_one_is_the_call_that_it_is_and_one_of_none_is_no_call() -> None:
    servicer = Orders()
    async with serving(servicer) as stub:
        assert await get_all(stub, "a") == [found("a")]
        (refused,) = await get_all(stub, "refuse")
        assert await get_all(stub) == []
    assert (error(refused).code(), refused.served_by) == (grpc.StatusCode.NOT_FOUND, ME)
    assert (servicer.alone, servicer.lists) == (["a", "refuse"], [])


async def test_a_request_that_cannot_be_written_does_not_stop_the_others() -> None:
    async with serving(Orders()) as stub:
        before, broken, after = await get_all(stub, "a", NOT_UNICODE, "b")
    assert (before, after) == (found("a"), found("b"))
    assert isinstance(broken.result, ValueError)
    assert broken.served_by == ""


async def test_a_long_list_leaves_in_batches_of_a_bounded_size_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servicer = Orders()
    monkeypatch.setattr(carrier, "MAX_CALLS", 2)
    async with serving(servicer) as stub:
        assert await get_all(stub, *"abcde") == [found(each) for each in "abcde"]
        assert sorted(servicer.lists) == [["a", "b"], ["c", "d"]]
        assert servicer.alone.count("e") == 1
        servicer.lists.clear()
        monkeypatch.setattr(carrier, "MAX_BYTES", 1)
        assert await get_all(stub, *"abc") == [found(each) for each in "abc"]
    assert all(len(each) == 1 for each in servicer.lists)  # each is too much for others to be beside it


async def test_what_cannot_be_read_of_an_answer_or_is_lacking_is_said_for_its_call() -> None:
    class Careless(Batches):
        async def call(self, calls: Sequence[Call]) -> Sequence[Result]:
            assert len(calls) == 5
            return [Result(b"\xff"), Result(None, b"\xff"), Result(None), Result(b"")]

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Careless({}, (("souk-service", "orders"), ("souk-version", "1.2.3"))).handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        *unreadable, good, lacking = await get_all(OrdersStub(channel), *"abcde")
        await server.stop(None)
    assert [error(answer).code() for answer in (*unreadable, lacking)] == [grpc.StatusCode.INTERNAL] * 4
    assert good == Answer(GetResponse(), ME)


async def test_a_peer_that_knows_no_batches_gets_a_list_one_by_one_and_is_not_asked_again() -> None:
    servicer, asked = Orders(), list[str]()
    async with serving_without_batches(servicer, asked) as channel:
        stub = OrdersStub(channel)
        for _ in range(2):
            first, refused, other = await get_all(stub, "a", "refuse", "b")
            assert (first, other) == (found("a", ""), found("b", ""))  # it does not say who it is
            assert error(refused).code() is grpc.StatusCode.UNKNOWN  # it has no conventions either
    assert asked == ["Call", *["Get"] * 6]


async def test_a_list_for_a_peer_that_knows_no_batches_has_the_deadline_that_it_was_given() -> None:
    async with serving_without_batches(Orders(), []) as channel:
        for _ in range(2):  # when it is found out, and when it is known
            async with asyncio.timeout(30):
                found_one, late = await get_all(OrdersStub(channel), "a", "wait", timeout_s=2.0)
            assert found_one == found("a", "")
            assert error(late).code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_peer_that_knows_batches_by_now_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "ALONE_S", 0.0)
    asked = list[str]()
    async with serving_without_batches(Orders(), asked) as channel:
        stub = OrdersStub(channel)
        for _ in range(2):
            await get_all(stub, "a", "b")
    assert asked.count("Call") == 2


async def test_where_a_list_is_not_answered_in_time_each_of_its_calls_says_so() -> None:
    async with serving(Orders()) as stub:
        answers = await get_all(stub, "a", "wait", timeout_s=0.3)
    assert [error(answer).code() for answer in answers] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    assert error(answers[0]) is not error(answers[1])  # who raises one adds to its traceback


async def test_where_nobody_answers_each_call_of_a_list_says_so() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        answers = await get_all(OrdersStub(channel), "a", "b")
    assert [(error(answer).code(), answer.served_by) for answer in answers] == [(grpc.StatusCode.UNAVAILABLE, "")] * 2
