"""The conventions of the wire, over real servers on loopback."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from contract_peers import Orders
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from souk_contracts import stopping
from souk_contracts.channel import connect, served_by
from souk_contracts.errors import refusal_of
from souk_contracts.orders.v1 import GetRequest, GetResponse, ListRequest, Order, OrdersServicer, OrdersStub
from souk_contracts.probe import is_serving
from souk_contracts.server import GrpcServer, ServerSettings, termination


class Readiness:
    """What a service says of itself, and an event when it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[], Awaitable[bool]] = self.yes

    async def yes(self) -> bool:
        return True

    async def no(self) -> bool:
        return False

    async def fail(self) -> bool:
        raise OSError("the database is gone")

    async def hang(self) -> bool:
        await asyncio.Event().wait()
        return True

    async def __call__(self) -> bool:
        return await self.answer()


@asynccontextmanager
async def serving(
    servicer: OrdersServicer,
    readiness: Readiness | None = None,
    *,
    address: str = "127.0.0.1:0",
    max_connection_age_s: float = 20.0,
) -> AsyncIterator[tuple[GrpcServer, int]]:
    server = GrpcServer(
        ServerSettings("orders", "1.2.3", address, max_connection_age_s=max_connection_age_s),
        [servicer],
        readiness or Readiness(),
    )
    port = await server.start()
    try:
        yield server, port
    finally:
        await server.drain()


async def get(stub: OrdersStub, order_id: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.get(GetRequest(order_id=order_id))
    return caught.value


async def wait_for_health(port: int, status: int) -> None:
    """Returns when the server says so. It is asked directly: our own channels avoid one that is not serving."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async for answer in HealthStub(channel).Watch(HealthCheckRequest(service="")):
            if answer.status == status:
                return


async def test_every_answer_names_service_and_version_also_a_refusal() -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        call = OrdersStub(channel).get(GetRequest(order_id="a"))
        assert (await call).order == Order(id="a")
        assert await served_by(call) == "orders/1.2.3"
        refused = OrdersStub(channel).get(GetRequest(order_id="refuse"))
        with pytest.raises(grpc.aio.AioRpcError):
            await refused
        assert await served_by(refused) == "orders/1.2.3"


async def test_a_refusal_arrives_whole() -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        error = await get(OrdersStub(channel), "refuse")
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such order: ×")
        refusal = refusal_of(error)
        assert refusal is not None
        assert (refusal.domain, refusal.reason) == ("orders.souk", "UNKNOWN_ORDER")
        assert refusal.metadata == {"order_id": "refuse"}


async def test_what_went_wrong_inside_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        error = await get(OrdersStub(channel), "break")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (error.details() or "")
    assert refusal_of(error) is None
    assert "a secret" in caplog.text


async def test_a_call_that_the_version_does_not_serve_is_unimplemented() -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await OrdersStub(channel).list(ListRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_every_call_has_a_deadline() -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        stub = OrdersStub(channel, timeout_s=0.2)
        error = await get(stub, "wait")
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert OrdersStub(channel).get(GetRequest(order_id="a")).time_remaining() is not None


async def test_health_follows_what_the_service_says_of_itself() -> None:
    readiness = Readiness()
    async with serving(Orders(), readiness) as (_, port):
        for broken in (readiness.no, readiness.fail, readiness.hang):
            await wait_for_health(port, HealthCheckResponse.SERVING)
            assert await asyncio.to_thread(is_serving, f"0.0.0.0:{port}")
            readiness.answer = broken
            await wait_for_health(port, HealthCheckResponse.NOT_SERVING)
            assert not await asyncio.to_thread(is_serving, f"127.0.0.1:{port}")
            readiness.answer = readiness.yes


async def test_a_replica_that_is_not_serving_gets_no_calls() -> None:
    first, second, readiness = Orders("first"), Orders("second"), Readiness()
    async with serving(first, readiness) as (_, one), serving(second) as (_, two):
        target = f"ipv4:///127.0.0.1:{one},127.0.0.1:{two}"
        async with connect(target, user_agent="test/1") as channel:
            stub = OrdersStub(channel)
            await until(lambda: seen(stub), {"first", "second"})
            readiness.answer = readiness.no
            await wait_for_health(one, HealthCheckResponse.NOT_SERVING)
            await until(lambda: seen(stub), {"second"})


async def seen(stub: OrdersStub) -> set[str]:
    """Who answers ten calls in a row."""
    answers = [await stub.get(GetRequest(order_id="a")) for _ in range(10)]
    return {answer.order.customer_id for answer in answers if answer.order is not None}


async def until(ask: Callable[[], Awaitable[set[str]]], wanted: set[str]) -> None:
    async with asyncio.timeout(60):
        while await ask() != wanted:
            pass


async def test_draining_lets_calls_finish_and_takes_no_new_ones() -> None:
    servicer = Orders()
    async with serving(servicer) as (server, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        stub = OrdersStub(channel)
        call = asyncio.ensure_future(stub.get(GetRequest(order_id="wait")))
        await under_way(call, servicer)
        draining = asyncio.create_task(server.drain())
        async with asyncio.timeout(60):
            while (await attempt(stub)) is not grpc.StatusCode.UNAVAILABLE:
                pass
        assert not draining.done()
        servicer.go_on.set()
        assert (await call).order == Order(id="wait")
        await draining


async def under_way(call: asyncio.Future[GetResponse], servicer: Orders) -> None:
    """Returns when the servicer has the call; a call that ended before raises what ended it."""
    entered = asyncio.create_task(servicer.entered.wait())
    either: list[asyncio.Future[Any]] = [call, entered]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not entered.done():
        entered.cancel()
        pytest.fail(f"the call ended before it was under way: {await call}")


async def attempt(stub: OrdersStub) -> grpc.StatusCode | None:
    try:
        await stub.get(GetRequest(order_id="a"))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def test_a_client_follows_a_server_that_closes_old_connections_without_a_failed_call() -> None:
    async with (
        serving(Orders(), max_connection_age_s=0.3) as (_, port),
        connect(f"127.0.0.1:{port}", user_agent="test/1") as channel,
    ):
        stub = OrdersStub(channel)
        await stub.get(GetRequest(order_id="a"))
        reconnected = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        async with asyncio.timeout(60):
            while not reconnected.done():
                await stub.get(GetRequest(order_id="a"))
            assert await attempt(stub) is None


async def test_a_new_channel_does_not_share_the_failed_attempts_of_an_older_one() -> None:
    async with serving(Orders()) as (_, port):
        pass
    async with connect(f"127.0.0.1:{port}", user_agent="test/1") as older:
        assert await attempt(OrdersStub(older)) is grpc.StatusCode.UNAVAILABLE
        async with (
            serving(Orders(), address=f"127.0.0.1:{port}"),
            connect(f"127.0.0.1:{port}", user_agent="test/1") as newer,
        ):
            assert await attempt(OrdersStub(newer)) is None


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serving(Orders()) as (_, port):
        with pytest.raises(RuntimeError):
            async with serving(Orders(), address=f"127.0.0.1:{port}"):
                pass


async def test_reflection_names_the_services() -> None:
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        ask = ServerReflectionRequest(list_services="")
        (answer,) = [each async for each in ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))]
        names = {service.name for service in answer.list_services_response.service}
        assert names == {
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "souk.batch.v1.BatchService",
            "souk.orders.v1.OrdersService",
        }


def test_reflection_describes_every_service_that_it_names() -> None:
    """In a process of its own: whatever another test has imported is described, too."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from contract_peers import Orders, ready
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from souk_contracts.channel import connect
from souk_contracts.server import GrpcServer, ServerSettings, termination

async def main():
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0", drain_s=0.1), [Orders()], ready)
    async with connect(f"127.0.0.1:{{await server.start()}}", user_agent="test/1") as channel:
        ask = ServerReflectionStub(channel).ServerReflectionInfo
        (said,) = [each async for each in ask(iter([ServerReflectionRequest(list_services="")]))]
        names = [service.name for service in said.list_services_response.service]
        asked = [ServerReflectionRequest(file_containing_symbol=name) for name in names]
        answers = [each async for each in ask(iter(asked))]
        print(*(name for name, each in zip(names, answers) if not each.HasField("file_descriptor_response")))
    await server.drain()

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize("module", ["batch.v1", "batch_codec", "batch_servicer", "batching", "carrier", "orders.v1"])
def test_it_does_not_matter_which_module_is_imported_first(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import souk_contracts.{module}"], check=True)


async def test_neither_a_channel_nor_a_health_check_takes_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    async with serving(Orders()) as (_, port), connect(f"127.0.0.1:{port}", user_agent="test/1") as channel:
        assert (await OrdersStub(channel).get(GetRequest(order_id="a"))).order == Order(id="a")
        assert await asyncio.to_thread(is_serving, f"127.0.0.1:{port}")


async def test_a_signal_that_came_while_the_process_started_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of the exception that it raised: a destructor may have met it, which lets none through."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(stopping, "_has_come", False)
    stopping.stop_at_once()
    try:
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == 143
        assert isinstance(stopped.value, KeyboardInterrupt)
        assert termination().is_set()
        monkeypatch.setattr(stopping, "_has_come", False)
        event = termination()
        assert not event.is_set()
        signal.raise_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await event.wait()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
