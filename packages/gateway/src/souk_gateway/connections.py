"""Connections for hypercorn's protocols: taken from a listener, and let go without losing a request.

hypercorn's own `serve` closes, at the moment of its shutdown, every connection that is idle or has just been accepted;
a request that is on its way then fails with a reset, which its client cannot tell from one that was carried out.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import Framework
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class _Connection(TCPServer):
    async def _read_data(self) -> None:
        await super()._read_data()
        # It would keep a connection that its client has closed for as long as one that is idle.
        await self.idle_task.stop()


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
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        connections.add(task)
        task.add_done_callback(connections.discard)
        await _Connection(wrapped, loop, config, context, {}, reader, writer)

    listener.setblocking(False)
    server = await asyncio.start_server(connected, sock=listener.dup(), backlog=config.backlog)
    try:
        await shutdown()
    finally:
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
