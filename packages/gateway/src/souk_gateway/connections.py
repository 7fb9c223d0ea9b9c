"""Connections for hypercorn's protocols: taken from a listener, and let go without losing a request.

hypercorn's own `serve` closes, at the moment of its shutdown, every connection that is idle or has just been accepted;
a request that is on its way then fails with a reset, which its client cannot tell from one that was carried out.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import Framework
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOK_S = 1.0
"""How often connections are looked through for those that have been idle, or silent, for too long."""
_LINGER_S = 1.0
"""How long idle connections stay open in a drain, for requests that are on their way."""


class _Farewell:
    """Once `draining`, tells clients with each answer that it is the last on its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            # HTTP/2 has no such header.
            if self.draining and message["type"] == "http.response.start" and scope["http_version"].startswith("1"):
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, answer)


class _Idle:
    """Since when a connection waits for a request; in place of a task of hypercorn's for each time that one does."""

    def __init__(self) -> None:
        self.since: float | None = None

    async def restart(self, _task_group: object, _action: object) -> None:
        self.since = asyncio.get_running_loop().time()

    async def stop(self) -> None:
        self.since = None


class _Connection(TCPServer):
    """hypercorn's, but for its timers, and its writes.

    It would start and cancel two tasks for each request to have the timers, and write an answer's head and its body
    by themselves. See docs/adr/0009-hypercorn.md.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle_task: _Idle = _Idle()  # type: ignore[assignment]  # which is all that hypercorn does with it
        self._read_at = self.loop.time()
        self._unwritten: list[bytes] = []

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            self._write()
            await super().protocol_send(event)
            return
        if not self._unwritten:
            self.loop.call_soon(self._write)
        self._unwritten.append(event.data)
        try:
            await self.writer.drain()
        except ConnectionError:
            await self.protocol.handle(Closed())

    def _write(self) -> None:
        """What has come together in a turn of the event loop."""
        if self._unwritten:
            self.writer.write(b"".join(self._unwritten))
            self._unwritten.clear()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            self._read_at = self.loop.time()
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def close_if_idle(self, idle_s: float = 0.0) -> None:
        """Says goodbye where there has been no request for so long."""
        since = self.idle_task.since
        if since is not None and self.loop.time() - since >= idle_s:
            await self._initiate_server_close()

    def give_up_if_silent(self, silent_s: float) -> None:
        """Ends the connection to a client that has sent nothing for so long, amid a request or not."""
        if self.loop.time() - self._read_at >= silent_s:
            self.writer.transport.abort()


async def serve_http(
    app: ASGIApp, config: Config, listener: socket.socket, shutdown: Callable[[], Awaitable[object]]
) -> None:
    """Serves on the listener until `shutdown` returns; then closes it, and drains.

    Whoever connected before is served. Answers close their connections; those that are idle stay open for a second
    more, and requests that run may take `config.graceful_timeout`.
    """
    loop = asyncio.get_running_loop()
    farewell = _Farewell(app)
    wrapped = wrap_app(cast("Framework", farewell), config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    connections: dict[asyncio.Task[None], _Connection] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        connection = connections[task] = _Connection(wrapped, loop, config, context, {}, reader, writer)
        task.add_done_callback(connections.pop)
        await connection

    async def look_after_connections() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for connection in list(connections.values()):
                connection.give_up_if_silent(config.read_timeout or math.inf)
                await connection.close_if_idle(config.keep_alive_timeout)

    listener.setblocking(False)
    server = await asyncio.start_server(connected, sock=listener.dup(), backlog=config.backlog)
    looking = asyncio.create_task(look_after_connections())
    try:
        await shutdown()
    finally:
        looking.cancel()
        # Closed, it would reset whoever is still in its queue: so they are taken out first, through the other handle.
        server.close()
        queued = _accept_all(listener)
        listener.close()
    farewell.draining = True
    for accepted in queued:
        await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), connected), accepted
        )
    await asyncio.sleep(0)  # their tasks begin
    if connections:
        await asyncio.wait(connections, timeout=_LINGER_S)
    await context.terminated.set()
    for connection in list(connections.values()):
        await connection.close_if_idle()
    if connections:
        await asyncio.wait(connections, timeout=config.graceful_timeout)
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    accepted = []
    while True:
        try:
            accepted.append(listener.accept()[0])
        except BlockingIOError:
            return accepted
        except ConnectionAbortedError:  # it had gone again
            continue
