"""HTTP/1.1 on one connection: its requests are answered one after another, each by a stream of its own.

It replaces hypercorn's protocol around h11: see docs/adr/0009-hypercorn.md. Bytes that are not a valid request get 400,
417, 431, 501 or 505 without a body, and those that come too slowly 408, and the connection closes. A request to upgrade
to websockets, or to HTTP/2 together with a body, is answered as a plain HTTP/1.1 request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from souk_gateway.answers import Http1Stream, refusal
from souk_gateway.frames import BadFrame, decoded_settings
from souk_gateway.parsing import Head, Malformed, Parser
from souk_gateway.streams import Site

if TYPE_CHECKING:
    from souk_gateway.connections import Connection

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ROOM_BYTES = 64 * 1024
"""How much of a body may wait for the application; with more than this, nothing more is read."""


class Http2Wanted(Exception):
    """The client speaks HTTP/2 from here on: `data` is what it has sent of it.

    `head` and `settings` are those of the request by which it asked to change, None where it began with HTTP/2.
    """

    def __init__(self, data: bytes, head: Head | None = None, settings: list[tuple[int, int]] | None = None) -> None:
        super().__init__(data, head, settings)
        self.data = data
        self.head = head
        self.settings = settings


class Http1:
    """Takes what was read by `feed`, and writes what is to be sent to the wire.

    `begin`, `take`, `end` and `may_change` are its parser's to call.
    """

    def __init__(self, site: Site, wire: Connection, peers: Mapping[str, Any]) -> None:
        self.site = site
        self.wire = wire
        self._peers = peers
        self._parser = Parser(self, site.config.h11_max_incomplete_size)
        self._opening: bytes | None = b"" if site.offers_http2(wire.address) else None
        """What came first, as long as it may be HTTP/2."""
        self._streams: deque[Http1Stream] = deque()
        """The first is being answered; the others came after it, in one read."""
        self._current: Http1Stream | None = None
        self._requests = 0
        self._idle_since = wire.loop.time()
        self._head_since: float | None = self._idle_since
        """When the head began that is not complete; the first begins with the connection."""
        self._is_over = False
        """Whether no further request is taken."""
        self._refusal: int | None = None
        """The status that is to be answered after all requests."""
        self._is_closed = False

    @property
    def has_served(self) -> bool:
        """Whether there was a request."""
        return self._requests > 0

    def waits_since(self) -> float | None:
        """Since when the client has kept the gateway waiting, on the loop's clock; None while its request is served."""
        if not self._streams:
            return self._idle_since
        first = self._streams[0]
        return None if first.is_complete else first.began_at

    def buffered_bytes(self) -> int:
        """Of bodies that are not complete."""
        return sum(stream.taken_bytes for stream in self._streams)

    def check(self, now: float) -> None:
        """Ends the connection where its client is too slow, or has had no request for too long."""
        limits = self.site.limits
        if self._is_closed:
            return
        if self._streams:
            first = self._streams[0]
            if not first.is_complete and limits.is_too_slow(now - first.began_at, first.taken_bytes):
                self._time_out("Ended connections, a body came too slowly (SOUK_BODY_TIMEOUT_S, SOUK_BODY_BYTES_PER_S)")
        elif self._head_since is not None:
            if now - self._head_since >= limits.head_timeout_s:
                self._time_out("Ended connections, a head came too slowly (SOUK_HEAD_TIMEOUT_S)")
        elif now - self._idle_since >= self.site.config.keep_alive_timeout:
            self.close_if_idle()

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
        if not self._streams and self._head_since is None and self._parser.in_message:
            self._head_since = self.wire.loop.time()
        self._go_on()

    def close_if_idle(self) -> None:
        """Says goodbye where no request is under way."""
        if not self._streams:
            self.close(lingering=False)

    def close(self, *, lingering: bool = True) -> None:
        """Ends the connection; who is being answered is told that the client has gone."""
        self._is_over = self._is_closed = True
        for stream in self._streams:
            stream.leave()
        self.wire.close(lingering=lingering)
        self.wire.make_room()

    def write(self, data: bytes) -> None:
        """Sends a part of an answer; does nothing after the connection has ended."""
        if not self._is_closed:
            self.wire.write(data)

    def may_go_on(self) -> bool:
        """Whether the connection may go on after the answer that now begins."""
        return not self.site.draining and self._requests < self.site.config.keep_alive_max_requests

    def answered(self, stream: Http1Stream) -> None:
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
        self._head_since = None
        self._streams.append(Http1Stream(self, head, self._peers))

    def take(self, body: bytes) -> None:
        if self._streams and not self._streams[-1].is_complete:  # else it has its answer already
            self._streams[-1].take(body)

    def end(self) -> None:
        if self._streams and not self._streams[-1].is_complete:
            self._streams[-1].end()
            self._is_over = not self._streams[-1].head.keep_alive

    def may_change(self, rest: bytes) -> None:
        head = self._streams[-1].head
        if (
            not self.site.offers_http2(self.wire.address)
            or self._is_over
            or len(self._streams) > 1
            or head.upgrade.lower() != b"h2c"
        ):
            return
        values = [value for name, value in head.headers if name == b"http2-settings"]
        if len(values) != 1:  # then no server may upgrade: RFC 7540, 3.2.1
            return
        self._streams.pop()
        try:
            settings = decoded_settings(values[0])
        except BadFrame:
            raise Malformed(400) from None
        self.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        raise Http2Wanted(rest, head, settings)

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

    def _time_out(self, reason: str) -> None:
        if self._streams or self._parser.in_message or self._opening:  # not where nothing at all was sent
            self.site.refusals.note(reason, self.wire.address)
            self._refuse(408)
        self._is_over = True
        self._go_on()

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
            return None
        if self._streams:
            if self._streams[0] is not self._current:
                if self.wire.is_gone():
                    return self.close()
                self._current = stream = self._streams[0]
                self._requests += 1
                if not stream.is_complete:
                    stream.began_at = self.wire.loop.time()
                self.wire.spawn(stream.run())
        elif self._is_over:
            if self._refusal is not None:
                self.write(refusal(self._refusal, self.site.headers()))
            self.close()
        elif self._current is not None:
            self._current = None
            self._idle_since = self.wire.loop.time()
            if self._parser.in_message:
                self._head_since = self._idle_since
        return None
