"""What a message, a batch and a server take at most, over real servers on loopback."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain

import grpc
import pytest
from contract_peers import GET, Orders, reading, ready
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from souk_contracts import limits
from souk_contracts.batch_codec import Call, decode_results, encode_calls, encode_results
from souk_contracts.batch_codec import Result as BatchResult
from souk_contracts.carrier import Answer
from souk_contracts.channel import connect
from souk_contracts.handlers import AnswerTooLong
from souk_contracts.lanes import Lanes
from souk_contracts.orders.v1 import GetRequest, GetResponse, Order, OrderLine, OrdersServicer, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings

CREATE = "/souk.orders.v1.OrdersService/Create"
WIDE = [OrderLine(sku="x" * 64, name="é" * 200, quantity=1, unit_price=1)] * 100
"""As many lines as an order may have, each as wide as it may be."""


class Wide(OrdersServicer):
    """Answers `get` with an order of wide lines, or with something that is too long for any client."""

    async def get(self, request: GetRequest) -> GetResponse:
        note = "x" * (5 * 1024 * 1024) if request.order_id == "too long" else ""
        return GetResponse(order=Order(id=request.order_id, lines=WIDE, note=note))


@asynccontextmanager
async def serving(servicer: OrdersServicer, **settings: int) -> AsyncIterator[grpc.aio.Channel]:
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1, **settings), [servicer], ready)
    async with connect(f"127.0.0.1:{await server.start()}", user_agent="test/1") as channel:
        yield channel
        await server.drain()


async def get_all(channel: grpc.aio.Channel, *order_ids: str) -> Sequence[Answer[GetResponse]]:
    return await OrdersStub(channel, timeout_s=30).get_all([GetRequest(order_id=each) for each in order_ids])


def code(answer: Answer[GetResponse]) -> grpc.StatusCode:
    assert isinstance(answer.result, grpc.aio.AioRpcError)
    return answer.result.code()


async def failed(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_long_answers_to_a_batch_come_in_several_messages(batches: list[list[str]]) -> None:
    order_ids = [f"{number:03}" for number in range(128)]
    async with serving(Wide()) as channel:
        answers = await get_all(channel, *order_ids)
    assert [answer.result.order.id for answer in answers] == order_ids  # type: ignore[union-attr]
    assert all(answer.result.order.lines == WIDE for answer in answers)  # type: ignore[union-attr]
    assert batches == [[GET] * 128]


async def test_an_answer_that_no_client_takes_fails_its_own_call_only(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Wide()) as channel:
        before, failed_one, after = await get_all(channel, "a", "too long", "b")
        alone = await failed(OrdersStub(channel).get(GetRequest(order_id="too long")))
    assert [answer.result.order.id for answer in (before, after)] == ["a", "b"]  # type: ignore[union-attr]
    assert (code(failed_one), alone.code()) == (grpc.StatusCode.INTERNAL,) * 2
    causes = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(cause) for cause in causes] == [AnswerTooLong] * 2


def test_each_message_of_an_answer_is_as_long_as_it_should_be_and_says_whether_it_is_the_last() -> None:
    results = [BatchResult(b"x" * (limits.PART_BYTES // 4)) for _ in range(9)]
    results[6] = BatchResult(b"x" * limits.MAX_RESPONSE_BYTES)
    parts = list(encode_results(results))
    assert [len(decode_results(part).results) for part in parts] == [4, 2, 1, 2]
    assert [decode_results(part).more for part in parts] == [True, True, True, False]
    assert list(chain.from_iterable(decode_results(part).results for part in parts)) == results
    assert max(map(len, parts)) < 4 * 1024 * 1024
    assert [decode_results(part) for part in encode_results([])] == [([], False)]


async def test_a_long_request_travels_alone_and_spoils_no_other(batches: list[list[str]]) -> None:
    long, too_long = "x" * (limits.MAX_BYTES + 1), "x" * limits.MAX_REQUEST_BYTES
    async with serving(Orders()) as channel:
        *answers, refused, last = await get_all(channel, "a", long, "b", "c", too_long, "d")
    found = [answer.result.order.id for answer in (*answers, last)]  # type: ignore[union-attr]
    assert found == ["a", long, "b", "c", "d"]
    assert code(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [GET] * 2 in batches
    assert max(map(len, batches)) == 2


async def test_a_server_refuses_a_batch_of_more_calls_than_any_client_sends(batches: list[list[str]]) -> None:
    calls = [reading("a")] * (limits.MAX_CALLS + 1)
    async with serving(Orders()) as channel:
        results, _ = await Lanes(channel).carry(calls[1:], 20.0)
        assert len(results) == limits.MAX_CALLS
        error = await failed(Lanes(channel).carry(calls, 20.0))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the list of calls cannot be decoded: it has 129 calls; send at most 128"
    assert len(batches) == 1


async def test_what_is_longer_than_any_client_sends_is_refused_alone_and_in_a_batch() -> None:
    async with serving(Orders()) as channel:
        long = "x" * 1_050_000
        alone = await failed(OrdersStub(channel).get(GetRequest(order_id=long)))
        together = await failed(Lanes(channel).carry([reading(long[:525_000])] * 2, 20.0))
    assert [alone.code(), together.code()] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2


async def test_a_list_that_is_far_too_long_is_refused_before_an_object_is_made_of_each_value() -> None:
    empty_lines = b"\x2a\x00" * 200_000  # field 5 of a CreateRequest

    async with serving(Orders()) as channel:
        create = channel.unary_unary(CREATE, bytes, bytes)
        await failed(create(empty_lines[:2], timeout=20))  # whatever is loaded for the first one
        tracemalloc.start()
        alone = await failed(create(empty_lines, timeout=20))
        (refused,), _ = await Lanes(channel).carry([Call(CREATE, empty_lines)], 20.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert alone.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert alone.details() == "the request cannot be decoded: a list in it has 200000 values; send at most 2000"
    assert refused.response is None
    assert b"a list in it has 200000 values" in refused.status
    assert peak < 8 * 1024 * 1024


async def test_a_request_that_cannot_be_read_is_the_callers_mistake(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Orders()) as channel:
        error = await failed(channel.unary_unary(GET, bytes, bytes)(b"\xff", timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request cannot be decoded" in (error.details() or "")
    assert caplog.text == ""


async def test_a_server_takes_so_many_calls_at_a_time_and_again_when_they_are_answered() -> None:
    servicer = Orders()
    async with serving(servicer, max_rpcs=3) as channel:
        stub = OrdersStub(channel)
        waiting = [asyncio.ensure_future(stub.get(GetRequest(order_id="wait"), timeout_s=60)) for _ in range(3)]
        async with asyncio.timeout(30):
            while len(servicer.seen) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        refused = await failed(stub.get(GetRequest(order_id="a")))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.details() == "3 calls are running; try again in a moment"
        answer = await health_pb2_grpc.HealthStub(channel).Check(HealthCheckRequest())
        assert answer.status == HealthCheckResponse.SERVING
        servicer.go_on.set()
        await asyncio.gather(*waiting)
        assert (await stub.get(GetRequest(order_id="a"))).order == Order(id="a")


async def test_a_server_takes_so_many_streams_of_batches_and_again_when_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("souk_contracts.batch_servicer.MAX_BATCHES", 2)
    async with serving(Orders()) as channel:
        open_ = channel.stream_stream("/souk.batch.v1.BatchService/Call", encode_calls, bytes)
        streams = [open_(), open_()]
        for stream in streams:
            assert await stream.initial_metadata()
        refused = await failed(open_().read())
        assert (refused.code(), "streams of batches" in (refused.details() or "")) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            True,
        )
        for stream in streams:
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
        assert len((await Lanes(channel).carry([reading("a")], 20.0))[0]) == 1
