"""Stopping a gateway while requests flow: nobody is cut off who had connected before."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count

import httpx
import pytest
import pytest_asyncio
from gateway_services import Shop
from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from souk_gateway import serving
from souk_gateway.app import listen, serve
from souk_gateway.settings import Settings

LIVE = b"GET /health/live HTTP/1.1\r\nHost: souk\r\n\r\n"
TEA = {"customer_id": "c-1", "lines": [{"sku": "tea", "quantity": 1}]}
LONG_S = 60.0


class Gateway:
    """One in this process, at the point of being stopped."""

    def __init__(self) -> None:
        listener = listen(Settings(port=0))
        self.port = listener.getsockname()[1]
        self.stop = asyncio.Event()
        self.serving = asyncio.create_task(serve(Settings(), listener, self.stop.wait))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def stop_listening(self) -> None:
        """Returns once nobody can connect any more."""
        self.stop.set()
        async with asyncio.timeout(30):
            while True:
                try:
                    (await self.connect())[1].close()
                except ConnectionError:  # refused; or reset, just as it closes
                    return
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(serving, "_LINGER_S", LONG_S)
    opened = Gateway()
    yield opened
    opened.stop.set()
    async with asyncio.timeout(30):
        await opened.serving


async def answer_on(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer, and then its body."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b'{"status":"LIVE"}'))
    return head.lower()


async def test_a_request_on_an_open_connection_is_answered_during_the_drain_and_is_its_last(gateway: Gateway) -> None:
    reader, writer = await gateway.connect()
    writer.write(LIVE)
    assert b"connection: close" not in await answer_on(reader)
    await gateway.stop_listening()
    writer.write(LIVE)
    head = await answer_on(reader)
    assert head.startswith(b"http/1.1 200")
    assert b"connection: close" in head
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_who_is_still_in_the_listeners_queue_is_served(gateway: Gateway) -> None:
    await asyncio.sleep(0)  # it listens
    reader, writer = await gateway.connect()
    writer.write(LIVE)
    await answer_on(reader)
    writer.close()
    # From here to the stop the loop does not run: nobody takes them from the queue.
    queued = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(5)]
    gateway.stop.set()
    for each in queued:
        each.sendall(LIVE)
        reader, writer = await asyncio.open_connection(sock=each)
        assert b"connection: close" in await answer_on(reader)
        writer.close()


async def test_it_stops_at_once_when_its_clients_have_gone(gateway: Gateway) -> None:
    reader, writer = await gateway.connect()
    writer.write(LIVE)
    await answer_on(reader)
    gateway.stop.set()
    writer.close()
    async with asyncio.timeout(30):  # less than it would linger
        await gateway.serving


async def test_an_idle_connection_does_not_keep_it_from_stopping(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_LINGER_S", 0.0)
    reader, writer = await gateway.connect()
    writer.write(LIVE)
    await answer_on(reader)
    gateway.stop.set()
    async with asyncio.timeout(30):
        await gateway.serving
        assert await reader.read() == b""
    writer.close()


class Replica:
    """A gateway process on an address of its own."""

    def __init__(self, shop: Shop) -> None:
        self._environment = {
            **os.environ,
            **{f"SOUK_{name.upper()}_TARGET": f"127.0.0.1:{port}" for name, port in shop.ports.items()},
        }
        self._address = "127.0.0.1:0"
        self.url = ""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "souk_gateway", "serve"),
            env={**self._environment, "SOUK_GATEWAY_ADDRESS": self._address},
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        line = (await self._process.stderr.readline()).decode().strip()
        assert "listens on http://" in line, line
        self.url = line.rpartition(" ")[2]
        self._address = self.url.removeprefix("http://")
        self._log = asyncio.create_task(self._process.stderr.read())

    async def stop(self) -> None:
        """As a deployment does: it must end by itself, and well."""
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert b"Traceback" not in await self._log
            assert await self._process.wait() == 0


@asynccontextmanager
async def replicas(shop: Shop) -> AsyncIterator[list[Replica]]:
    started = [Replica(shop), Replica(shop)]
    async with AsyncExitStack() as stack:
        for each in started:
            await each.start()
            stack.push_async_callback(each.stop)
        yield started


class Load:
    """Orders that keep coming. Who cannot connect to one gateway goes to the other, as a load balancer does."""

    def __init__(self) -> None:
        self.stopping = False
        self.placed = 0
        self._keys = count()
        self._news = asyncio.Event()

    async def run(self, *gateways: Replica) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self.stopping:
                key = f"order {next(self._keys)}"
                while not await self._is_placed(client, key, gateways):
                    pass
                self.placed += 1
                self._news.set()

    async def _is_placed(self, client: httpx.AsyncClient, key: str, gateways: tuple[Replica, ...]) -> bool:
        """Whether it is; False where it is worth trying again. Nothing but a refused connection is forgiven."""
        for each in gateways:
            try:
                answer = await client.post(f"{each.url}/v1/orders", json=TEA, headers={"Idempotency-Key": key})
            except httpx.ConnectError:
                continue
            if answer.status_code == 201:
                return True
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
            return False
        raise AssertionError("no gateway can be reached")

    async def more(self, orders: int) -> None:
        """Returns once so many more are placed."""
        wanted = self.placed + orders
        async with asyncio.timeout(60):
            while self.placed < wanted:
                self._news.clear()
                await self._news.wait()


async def test_gateways_that_are_replaced_in_turn_under_load_cut_nobody_off(shop: Shop) -> None:
    load = Load()
    shop.reservations.items["tea"].available = 10**9
    async with replicas(shop) as (first, second), asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(load.run(first, second))
            clients.create_task(load.run(second, first))
        for each in (first, second) * 2:
            await load.more(40)
            await each.stop()
            await load.more(40)
            await each.start()
        await load.more(40)
        load.stopping = True
    assert len(shop.orders.decided) == load.placed


class Waiting:
    """An application that answers once it may."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(app: Waiting, *, keep_alive_s: float, read_s: float) -> AsyncIterator[int]:
    """On a port, with these limits."""
    config = Config()
    config.keep_alive_timeout, config.read_timeout = keep_alive_s, read_s  # type: ignore[assignment]
    listener, stop = socket.create_server(("127.0.0.1", 0)), asyncio.Event()
    task = asyncio.create_task(serving.serve_http(app, config, listener, stop.wait))
    yield listener.getsockname()[1]
    stop.set()
    app.go_on.set()
    await task


async def test_a_connection_without_requests_is_closed_in_time_and_one_amid_a_request_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "_LOOK_S", 0.02)
    monkeypatch.setattr(serving, "_LINGER_S", 0.02)
    app = Waiting()
    async with asyncio.timeout(30), served(app, keep_alive_s=0.1, read_s=60) as port:
        busy, asking = await asyncio.open_connection("127.0.0.1", port)
        asking.write(LIVE)
        idle, silent = await asyncio.open_connection("127.0.0.1", port)
        assert await idle.read() == b""
        app.go_on.set()
        assert (await busy.read()).startswith(b"HTTP/1.1 200")  # and then it is closed, too
        silent.close()
        asking.close()


async def test_a_client_that_falls_silent_amid_its_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LOOK_S", 0.02)
    monkeypatch.setattr(serving, "_LINGER_S", 0.02)
    async with asyncio.timeout(30), served(Waiting(), keep_alive_s=60, read_s=0.1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: souk\r\nContent-Length: 10\r\n\r\n12345")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_an_answer_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LINGER_S", 0.02)
    written = []
    app = Waiting()
    app.go_on.set()
    async with asyncio.timeout(30), served(app, keep_alive_s=60, read_s=60) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        transport = type(writer.transport)
        write = transport.write

        def record(self: asyncio.Transport, data: bytes) -> None:
            written.append(bytes(data))
            write(self, data)

        writer.write(LIVE)
        monkeypatch.setattr(transport, "write", record)
        await reader.readuntil(b"ok")
        writer.close()
    assert len(written) == 1
