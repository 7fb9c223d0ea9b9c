"""A connection: read, written, and closed without losing an answer. Its protocol says what the bytes mean."""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, cast

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper
from hypercorn.utils import parse_socket_addr

from souk_gateway.addresses import counted
from souk_gateway.http1 import Http1, Http2Wanted
from souk_gateway.http2 import Http2
from souk_gateway.streams import Site

log = logging.getLogger(__name__)

READ_BYTES = 4 * 1024
"""Of a read, at most. All that is in it is parsed before others have their turn: nearly a hundred requests at most."""
_FULL_BYTES = 64 * 1024
"""Of answers that are still to be sent; with more of them, the next one waits."""
_LINGER_S = 2.0
_LINGER_BYTES = 8 * 1024 * 1024
"""How long, and how much, is read and thrown away after the last answer. Closed at once, a connection with unread bytes
is reset, and a reset may take the answer away from its client: RFC 9112, 9.6."""
_TAKEN_BYTES = 16 * 1024
"""What a client must take of what is sent to it in `answer_timeout_s`, unless that is all."""


class Connection(TCPServer):
    """hypercorn's, but for its protocols, its timers, and its writes. See docs/adr/0009-hypercorn.md.

    hypercorn would start and cancel two tasks for each request to have the timers, write an answer's head and its body
    by themselves, and end all requests of a connection where one of them fails.
    """

    def __init__(
        self, site: Site, context: WorkerContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        app = cast("AppWrapper", site.app)  # which hypercorn's protocols would call, if they were in use
        super().__init__(app, asyncio.get_running_loop(), site.config, context, {}, reader, writer)
        self._site = site
        self._transport = cast("asyncio.Transport", self.writer.transport)
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._read_at = self.loop.time()
        self._closing_since: float | None = None
        self._written_bytes = 0
        self._taken_bytes = 0
        """Of what was written, that the client had taken when that was last looked at and was enough."""
        self._taken_at = self._read_at
        connected = self.writer.get_extra_info("socket")
        client = parse_socket_addr(connected.family, connected.getpeername())
        server = parse_socket_addr(connected.family, connected.getsockname())
        self.address = counted(client[0]) if client else ""
        self._peers = {"client": client, "server": server}
        self._protocol: Http1 | Http2 = Http1(site, self, self._peers)

    async def run(self) -> None:
        """Serves it, to its end."""
        try:
            await self._read_data()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            with suppress(OSError):  # the client has reset it meanwhile, and nothing is left to close
                await self._close()

    async def _read_data(self) -> None:
        thrown_away = 0
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(READ_BYTES)
            except OSError:
                break
            self._read_at = self.loop.time()
            if self._closing_since is not None:
                thrown_away += len(data)
                if thrown_away > _LINGER_BYTES:
                    self.abort()
                    break
                continue
            if not data:
                break
            self._feed(data)
            while self._protocol.is_full() and self._closing_since is None:
                self._room.clear()
                await self._room.wait()
        self._feed(b"")

    def _feed(self, data: bytes) -> None:
        try:
            self._protocol.feed(data)
        except Http2Wanted as wanted:
            http2 = self._protocol = Http2(self._site, self, self._peers)
            http2.begin(wanted.data, wanted.head, wanted.settings)
        except Exception:
            log.exception("The gateway failed while it read a connection, and ends it")
            self.abort()

    # What follows is for the protocols.

    def write(self, data: bytes) -> None:
        if self._closing_since is None and not self._transport.is_closing():  # or uvloop would raise an error
            self._written_bytes += len(data)
            self._transport.write(data)

    def unsent_bytes(self) -> int:
        """What waits until the client reads."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def is_gone(self) -> bool:
        """Whether nobody is there any more to read an answer."""
        return self._transport.is_closing()

    def is_full(self) -> bool:
        """Whether so much is still to be sent that it is time to wait."""
        return self.unsent_bytes() > _FULL_BYTES

    async def drain(self) -> None:
        """Returns once less is to be sent, or the connection has ended."""
        with suppress(ConnectionError):
            await self.writer.drain()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it beside the rest, and to its end before the connection counts as closed.

        Whatever becomes of it, the rest goes on.
        """
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The gateway failed while it served a connection", exc_info=error)

    def close(self, *, lingering: bool = True) -> None:
        """Sends what is to be sent, and then ends the connection.

        `lingering`: the client may still be sending. It is listened to until it has closed its side, for a while.
        """
        if self._closing_since is not None:
            return
        self._closing_since = self.loop.time()
        if lingering and not self.reader.at_eof() and not self._transport.is_closing():
            with suppress(OSError, RuntimeError, NotImplementedError):
                self.writer.write_eof()
                return
        self.writer.close()

    def make_room(self) -> None:
        """Says that more may be read, where the protocol's `is_full` was in the way."""
        self._room.set()

    # What follows is for who looks after all connections.

    @property
    def has_served(self) -> bool:
        """Whether there was a request on it."""
        return self._protocol.has_served

    def waits_since(self) -> float | None:
        """Since when the client has kept the gateway waiting, on the loop's clock; None while its request is served."""
        if self._closing_since is not None:
            return self._closing_since
        return self._protocol.waits_since()

    def buffered_bytes(self) -> int:
        """Of bodies that are not complete, and of answers that are not taken."""
        return self.unsent_bytes() + self._protocol.buffered_bytes()

    def check(self, now: float) -> None:
        """Ends the connection to a client that is too slow. Waits for nothing."""
        unsent = self.unsent_bytes()
        taken = self._written_bytes - unsent
        if not unsent or taken - self._taken_bytes >= _TAKEN_BYTES:
            self._taken_bytes, self._taken_at = taken, now
        if unsent and now - self._taken_at >= self._site.limits.answer_timeout_s:
            self._site.refusals.note("Ended connections, answers were not taken (SOUK_ANSWER_TIMEOUT_S)", self.address)
            self.abort()
        elif self._closing_since is not None:
            if not unsent and now - self._closing_since >= _LINGER_S:
                self.abort()
        elif self._site.config.read_timeout and now - self._read_at >= self._site.config.read_timeout:
            self.abort()
        else:
            self._protocol.check(now)

    def close_if_idle(self) -> None:
        """Says goodbye where no request is under way."""
        if self._closing_since is None:
            self._protocol.close_if_idle()

    def abort(self) -> None:
        """Ends the connection at once, without a word."""
        self._closing_since = self._closing_since or self.loop.time()
        self.make_room()
        self._transport.abort()


def refuse(connected: socket.socket, answer: bytes) -> None:
    """Sends an answer to a connection that is not served; what cannot be sent at once is lost."""
    connected.setblocking(False)
    with suppress(OSError):
        connected.send(answer)
        connected.shutdown(socket.SHUT_WR)
