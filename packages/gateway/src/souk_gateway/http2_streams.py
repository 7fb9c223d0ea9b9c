"""One request in HTTP/2, and its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Message

from souk_gateway.answers import checked_field
from souk_gateway.frames import MAX_FRAME_BYTES, Code
from souk_gateway.parsing import Head
from souk_gateway.streams import Stream

if TYPE_CHECKING:
    from souk_gateway.http2 import Http2

WINDOW = 65_535
"""What may be sent before the other side says more, on each stream and on all together: RFC 9113, 6.9.2."""
_FULL_BYTES = 64 * 1024
"""Of an answer that is not taken; with more of it, the application waits."""
_MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Of a connection's answers that are not taken. A further one is not kept, unless it is the only one."""
_NOT_IN_HTTP2 = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


class Http2Stream(Stream):
    """A request on a connection that speaks HTTP/2, and its answer."""

    def __init__(
        self, connection: Http2, stream_id: int, head: Head, length: int | None, peers: Mapping[str, Any]
    ) -> None:
        super().__init__(connection.site, head, peers)
        self.stream_id = stream_id
        self.window = connection.initial_window
        """What may be sent."""
        self.pending_bytes = 0
        """Of the answer, which could not be sent yet."""
        self.stalls_since: float | None = None
        """Since when nothing of that could be sent, on the loop's clock."""
        self.is_queued = self.is_dropped = False
        self._connection = connection
        self._length = length
        self._receivable = WINDOW
        self._uncredited = 0
        self._pending: deque[memoryview] = deque()
        self._is_whole = self._has_ended = False
        self._less = asyncio.Event()

    def waits_since(self) -> float | None:
        """Since when the client has kept the gateway waiting; None while the application is busy with the request."""
        return self.stalls_since if self.is_complete else self.began_at

    def has_room(self, size: int) -> bool:
        """Whether the client may send so much more of the body."""
        return size <= self._receivable

    def take_data(self, body: bytes, padding: int, *, ends: bool) -> bool:
        """Has a further part of the body; whether that is as long as was said."""
        self._receivable -= len(body) + padding
        if body:
            self.take(body)
        if padding:
            self._credit(padding)
        if self._length is not None and (
            self.taken_bytes > self._length or (ends and self.taken_bytes != self._length)
        ):
            return False
        if ends:
            self.end()
        return True

    def abandon(self) -> int:
        """The stream has ended. Returns how much of the body nobody will receive."""
        self.is_dropped = True
        self._pending.clear()
        waiting, self.pending_bytes, self.waiting_bytes, self.stalls_since = self.waiting_bytes, 0, 0, None
        self._less.set()
        self.leave()
        return waiting

    def has_news(self) -> bool:
        """Whether there is something to send."""
        return bool(self._pending) or (self._is_whole and not self._has_ended)

    def next(self, size: int) -> tuple[bytes, bool]:
        """What to send next, at most so much of it, and whether that is the end of the answer."""
        data = b""
        if self._pending:
            part = self._pending.popleft()
            size = min(size, MAX_FRAME_BYTES)
            data = bytes(part[:size])
            if len(part) > size:
                self._pending.appendleft(part[size:])
            self.pending_bytes -= len(data)
            self.window -= len(data)
            self.stalls_since = self._connection.wire.loop.time() if self._pending else None
            if self.pending_bytes <= _FULL_BYTES:
                self._less.set()
        self._has_ended = self._is_whole and not self._pending
        return data, self._has_ended

    def _credit(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited >= WINDOW // 2 and not self.is_complete:
            self._receivable += self._uncredited
            self._connection.credit_stream(self.stream_id, self._uncredited)
            self._uncredited = 0

    def _make_room(self, received: int) -> None:
        if not self.is_dropped:
            self._connection.credit(received)
            self._credit(received)

    def _invite(self) -> None:
        if not self.has_begun and not self.is_dropped:
            self._connection.send_head(self.stream_id, [(b":status", b"100")], ends=False)

    async def _send_body(self, start: Message, body: bytes, more: bool) -> None:
        if not self.has_begun and not self.is_dropped:
            self._begin(start, ends=not more and not body)
        if self.head.method == "HEAD" or start["status"] in (204, 304):
            body = b""
        self._is_answered = not more
        if self.is_dropped:
            return
        self._is_whole = not more
        if body:
            others = self._connection.pending_bytes()
            if others and others + len(body) > _MAX_PENDING_BYTES:
                self._connection.reset(self, Code.ENHANCE_YOUR_CALM)
                return
            self._pending.append(memoryview(bytes(body)))
            self.pending_bytes += len(body)
            self.stalls_since = self.stalls_since or self._connection.wire.loop.time()
        if self.has_news():
            self._connection.send_soon(self)
        while more and self.pending_bytes > _FULL_BYTES:
            self._less.clear()
            await self._less.wait()

    def _begin(self, start: Message, *, ends: bool) -> None:
        status: int = start["status"]
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is no status of an answer; those are 200 to 999")
        headers = [(b":status", b"%d" % status)]
        for name, value in start.get("headers", ()):
            known = checked_field(name, value)
            if known not in _NOT_IN_HTTP2:
                headers.append((known, value))
        headers += self._site.config.response_headers("h2")
        self.has_begun = True
        self._connection.send_head(self.stream_id, headers, ends=ends)
        if ends:
            self._has_ended = True
            self._connection.finish(self)

    def _give_up(self) -> None:
        if self.is_dropped:
            return
        if self.has_begun:
            self._connection.reset(self, Code.INTERNAL_ERROR)
        else:
            self._begin({"status": 500, "headers": [(b"content-length", b"0")]}, ends=True)
