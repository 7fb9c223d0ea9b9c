"""Connections for hypercorn's protocols: accepted from a listener, and closed without losing a request.

hypercorn's own `serve` closes, at the moment of its shutdown, every connection that is idle or has just been accepted;
a request that is on its way then fails with a reset, which its client cannot tell from one that was carried out.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import ConnectionState, Framework
from hypercorn.utils import parse_socket_addr, wrap_app
from starlette.types import ASGIApp

from souk_gateway.http1 import Http1, Http2Wanted
from souk_gateway.streams import Site

_LOOK_S = 1.0
"""How often connections are looked through for those that have been idle, or silent, for too long."""
_FULL_BYTES = 64 * 1024
"""Of answers that are still to be sent; with more of them, the next one waits."""
_LINGER_S = 1.0
"""How long idle connections stay open in a drain, for requests that are on their way."""


class _Idle:
    """Since when a connection waits for a request; in place of a task of hypercorn's for each time that one does."""

    def __init__(self) -> None:
        self.since: float | None = None

    async def restart(self, _task_group: object, _action: object) -> None:
        self.since = asyncio.get_running_loop().time()

    async def stop(self) -> None:
        self.since = None


class Connection(TCPServer):
    """hypercorn's, but for its HTTP/1.1, its timers, and its writes.

    It would start and cancel two tasks for each request to have the timers, and write an answer's head and its body
    by themselves. See docs/adr/0009-hypercorn.md.
    """

    def __init__(self, site: Site, context: WorkerContext, *streams: Any) -> None:
        # The application as hypercorn calls it, for its HTTP/2.
        wrapped = wrap_app(cast("Framework", site.app), site.config.wsgi_max_body_size, "asgi")
        super().__init__(wrapped, asyncio.get_running_loop(), site.config, context, {}, *streams)
        self._site = site
        self.idle_task: _Idle = _Idle()  # type: ignore[assignment]  # which is all that hypercorn does with it
        self._transport = self.writer.transport
        self._read_at = self.loop.time()
        self._unwritten: list[bytes] = []
        self._http1: Http1 | None = None
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serves it, to its end."""
        connected = self.writer.get_extra_info("socket")
        try:
            self._client = parse_socket_addr(connected.family, connected.getpeername())
            self._server = parse_socket_addr(connected.family, connected.getsockname())
            async with TaskGroup(self.loop) as task_group:
                self._task_group = task_group
                self._http1 = Http1(self._site, self, client=self._client, server=self._server)
                self.set_idle(True)
                await self._read_data()
        except OSError:  # it had gone before it was taken
            pass
        finally:
            await self._close()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            self._read_at = self.loop.time()
            if self._http1 is None:
                await self.protocol.handle(RawData(data))
                continue
            try:
                self._http1.feed(data)
            except Http2Wanted as wanted:
                await self._change_to_http2(wanted)
            else:
                while self._http1.is_full():
                    self._room.clear()
                    await self._room.wait()
        if self._http1 is None:
            await self.protocol.handle(Closed())
        else:
            self._http1.feed(b"")

    async def _change_to_http2(self, wanted: Http2Wanted) -> None:
        self._http1 = None
        arguments = self.app, self.config, self.context, self._task_group, ConnectionState(self.state), False
        http2 = H2Protocol(*arguments, self._client, self._server, self.protocol_send)
        self.protocol = http2  # type: ignore[assignment]  # which is used in the same way as hypercorn's wrapper
        await http2.initiate(wanted.headers, wanted.settings)
        if wanted.data:
            await http2.handle(RawData(wanted.data))

    # What follows is for HTTP/1.1.

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # or uvloop would raise an error
            self._transport.write(data)

    def is_full(self) -> bool:
        """Whether so much is still to be sent that it is time to wait."""
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() > _FULL_BYTES

    async def drain(self) -> None:
        """Returns once less is to be sent, or the connection has ended."""
        with suppress(ConnectionError):
            await self.writer.drain()

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs it beside the rest, and to its end before the connection counts as closed."""
        self._task_group.spawn(work)

    def close(self) -> None:
        """Sends what is to be sent, and then ends the connection."""
        self.writer.close()

    def set_idle(self, idle: bool) -> None:
        """Sets whether the connection waits for a request."""
        self.idle_task.since = self.loop.time() if idle else None

    def make_room(self) -> None:
        """Says that more may be read, where `Http1.is_full` was in the way."""
        self._room.set()

    async def protocol_send(self, event: Event) -> None:
        """What HTTP/2 has to say."""
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
            self.write(b"".join(self._unwritten))
            self._unwritten.clear()

    async def close_if_idle(self, idle_s: float = 0.0) -> None:
        """Says goodbye where there has been no request for so long."""
        since = self.idle_task.since
        if since is not None and self.loop.time() - since >= idle_s:
            if self._http1 is None:
                await self._initiate_server_close()
            else:
                self._http1.close()

    def give_up_if_silent(self, silent_s: float) -> None:
        """Ends the connection to a client that has sent nothing for so long, amid a request or not."""
        if self.loop.time() - self._read_at >= silent_s:
            self._transport.abort()


async def serve_http(
    app: ASGIApp, config: Config, listener: socket.socket, shutdown: Callable[[], Awaitable[object]]
) -> None:
    """Serves on the listener until `shutdown` returns; then closes it, and drains.

    Whoever connected before is served. Answers close their connections; those that are idle stay open for a second
    more, and requests that run may take `config.graceful_timeout`.
    """
    loop = asyncio.get_running_loop()
    site, context = Site(app, config), WorkerContext(None)
    connections: dict[asyncio.Task[None], Connection] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        connection = connections[task] = Connection(site, context, reader, writer)
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
    site.draining = True
    for accepted in queued:
        await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), connected), accepted
        )
    await asyncio.sleep(0)  # their tasks begin
    if connections:
        await asyncio.wait(connections, timeout=_LINGER_S)
    site.ending = True
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
