"""HTTP/1.1 on one connection: its requests are answered one after another, each by a stream of its own.

It replaces hypercorn's protocol around h11: see docs/adr/0009-hypercorn.md. Bytes that are not a valid request get 400,
431, 501 or 505 without a body, and the connection closes. A request to upgrade to websockets, or to HTTP/2 together
with a body, is answered as a plain HTTP/1.1 request.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from souk_gateway.parsing import Head, Malformed, Parser
from souk_gateway.streams import Site, Stream, refusal

if TYPE_CHECKING:
    from souk_gateway.connections import Connection

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ROOM_BYTES = 64 * 1024
"""How much of a body may wait for the application; with more than this, nothing more is read."""


class Http2Wanted(Exception):
    """The client speaks HTTP/2 from here on: `data` is what it has sent of it.

    `headers` and `settings` are those of the request by which it asked to change, None where it began with HTTP/2.
    """

    def __init__(
        self, data: bytes, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        super().__init__(data, headers, settings)
        self.data = data
        self.headers = headers
        self.settings = settings


class Http1:
    """Takes what was read by `feed`, and writes what is to be sent to the wire.

    `begin`, `take`, `end` and `may_change` are its parser's to call.
    """

    def __init__(
        self, site: Site, wire: Connection, *, client: tuple[str, int] | None, server: tuple[str, int] | None
    ) -> None:
        self.site = site
        self.wire = wire
        self._peers = {"client": client, "server": server}
        self._parser = Parser(self, site.config.h11_max_incomplete_size)
        self._opening: bytes | None = b""
        """What came first, as long as it may be HTTP/2."""
        self._streams: deque[Stream] = deque()
        """The first is being answered; the others came after it, in one read."""
        self._current: Stream | None = None
        self._requests = 0
        self._is_over = False
        """Whether no further request is taken."""
        self._refusal: int | None = None
        """The status that is to be answered after all requests."""
        self._is_closed = False

    def is_full(self) -> bool:
        """Whether nothing more should be read until the wire is told to make room."""
        if self._is_closed or not self._streams:
            return False
        return len(self._streams) > 1 or self._streams[0].waiting_bytes > _ROOM_BYTES

    def feed(self, data: bytes) -> None:
        """Takes what was read; nothing for the end of it. Raises `Http2Wanted`."""
        if not data:
            self._client_is_silent()
        elif not self._is_over:
            try:
                self._parser.feed(data if self._opening is None else self._after_opening(data))
            except Malformed as error:
                self._refuse(error.status)
        self._go_on()

    def close(self) -> None:
        """Ends the connection; who is being answered is told that the client has gone."""
        self._is_over = self._is_closed = True
        for stream in self._streams:
            stream.leave()
        self.wire.close()
        self.wire.make_room()

    def write(self, data: bytes) -> None:
        """Sends a part of an answer; does nothing after the connection has ended."""
        if not self._is_closed:
            self.wire.write(data)

    def may_go_on(self) -> bool:
        """Whether the connection may go on after the answer that now begins."""
        return not self.site.draining and self._requests < self.site.config.keep_alive_max_requests

    def answered(self, stream: Stream) -> None:
        """Says that the answer to the request whose turn it was is written."""
        if self._is_closed:
            return
        self._streams.popleft()
        stream.leave()
        if stream.is_last or self.site.ending:
            self.close()
        else:
            self._go_on()
            self.wire.make_room()

    def begin(self, head: Head) -> None:
        if self._is_over:
            raise Malformed(400)  # nobody will hear of it
        if not self._streams:
            self.wire.set_idle(False)
        self._streams.append(Stream(self, head, self._peers))

    def take(self, body: bytes) -> None:
        if self._streams and not self._streams[-1].is_complete:  # else it has its answer already
            self._streams[-1].take(body)

    def end(self) -> None:
        if self._streams and not self._streams[-1].is_complete:
            self._streams[-1].end()
            self._is_over = not self._streams[-1].head.keep_alive

    def may_change(self, rest: bytes) -> None:
        head = self._streams[-1].head
        if self._is_over or len(self._streams) > 1 or head.upgrade.lower() != b"h2c":
            return
        self.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        headers = [(b":method", head.method.encode()), (b":path", head.target)]
        headers += [(b":authority", value) for name, value in head.headers if name == b"host"]
        settings = next((value for name, value in head.headers if name == b"http2-settings"), b"")
        raise Http2Wanted(rest, headers + head.headers, settings)

    def _after_opening(self, data: bytes) -> bytes:
        """What there is to be parsed, once it is known that the client does not begin with HTTP/2."""
        opening = (self._opening or b"") + data
        self._opening = None
        if opening.startswith(_PREFACE):
            raise Http2Wanted(opening)
        if _PREFACE.startswith(opening):
            self._opening = opening
            return b""
        return opening

    def _client_is_silent(self) -> None:
        """The client sends nothing more. Earlier requests are still answered, since it may be listening."""
        if self._parser.in_message or self._opening:
            self._refuse(400)
        self._is_over = True
        for stream in self._streams:
            stream.leave()

    def _refuse(self, status: int) -> None:
        if self._is_over:  # it comes after the last request
            return
        self._is_over, self._refusal = True, status
        if self._streams and not self._streams[-1].is_complete:
            broken = self._streams.pop()
            broken.break_off()
            if broken.has_begun:
                self._refusal = None

    def _go_on(self) -> None:
        """Begins to answer the next request, or to wait for one, or ends the connection."""
        if self._is_closed:
            return
        if self._streams:
            if self._streams[0] is not self._current:
                self._current = stream = self._streams[0]
                self._requests += 1
                self.wire.spawn(stream.run)
                if stream.head.expects_continue and not stream.is_complete and not stream.waiting_bytes:
                    self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._is_over:
            if self._refusal is not None:
                self.write(refusal(self._refusal, self.site.headers()))
            self.close()
        elif self._current is not None:
            self._current = None
            self.wire.set_idle(True)
