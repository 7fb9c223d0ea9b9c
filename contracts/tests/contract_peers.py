"""Servers of orders that answer as a test asks them to, and clients of them."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from souk_contracts.batch_codec import Call
from souk_contracts.batching import BatchingChannel
from souk_contracts.channel import connect
from souk_contracts.errors import Refused
from souk_contracts.orders.v1 import GetRequest, GetResponse, Order, OrdersServicer, OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings

GET = "/souk.orders.v1.OrdersService/Get"


class Orders(OrdersServicer):
    """Answers `get` as the order id asks it to."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.seen: list[str] = []

    async def get(self, request: GetRequest) -> GetResponse:
        self.seen.append(request.order_id)
        match request.order_id:
            case "refuse":
                code = grpc.StatusCode.NOT_FOUND
                raise Refused(code, "orders.souk", "UNKNOWN_ORDER", "no such order: ×", {"order_id": "refuse"})
            case "break":
                raise ZeroDivisionError("a secret")
            case "wait":
                self.entered.set()
                await self.go_on.wait()
        return GetResponse(order=Order(id=request.order_id, customer_id=self.name))


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
async def serving_without_batches(servicer: OrdersServicer, asked: list[str]) -> AsyncIterator[grpc.aio.Channel]:
    """A server as it was before there were batches, which notes the methods that it is asked for."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
            asked.append(handler_call_details.method.rpartition("/")[2])
            return servicer.handler().service(handler_call_details)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
        await server.stop(None)


class Process:
    """A server of `Orders` in a process of its own, which can be stopped as one that hangs."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def reading(order_id: str) -> Call:
    return Call(GET, bytes(GetRequest(order_id=order_id)))


async def error(call: "asyncio.Future[GetResponse]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def _serve(name: str) -> None:
    server = GrpcServer(ServerSettings("orders", "1.2.3", "127.0.0.1:0"), [Orders(name)], ready)
    print(await server.start(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
