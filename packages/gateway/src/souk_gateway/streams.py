"""One request on a connection that speaks HTTP/1.1, and its answer, as ASGI has them.

Answers are written as bytes at once: what an application says is checked for what would make another answer of it, and
for nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hypercorn.config import Config
from starlette.types import ASGIApp, Message

from souk_gateway.parsing import Head

if TYPE_CHECKING:
    from souk_gateway.http1 import Http1

_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Site:
    """What all connections share. It ignores hypercorn's settings for access logs and server names.

    Once `draining`, each answer that begins is the last on its connection; once `ending`, each one that ends.
    """

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self.app = app
        self.config = config
        self.draining = self.ending = False
        self._second = 0
        self._headers = b""

    def headers(self) -> bytes:
        """What every answer has, such as its date, each after a line break; the same throughout a second."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._headers = b"".join(b"\r\n%b: %b" % line for line in self.config.response_headers("h11"))
        return self._headers


class Stream:
    """A request, whose body the connection hands over as it comes, and its answer."""

    def __init__(self, connection: Http1, head: Head, peers: Mapping[str, object]) -> None:
        self.head = head
        self.is_complete = False
        """Whether all of the body has come."""
        self.is_last = not head.keep_alive
        """Whether the connection ends with the answer."""
        self.has_begun = False
        """Whether some of the answer was written."""
        self.waiting_bytes = 0
        """Of the body, that nobody has received yet."""
        self._connection = connection
        self._peers = peers
        self._has_left = self._is_answered = self._is_broken = self._is_received = False
        self._chunks: list[bytes] = []
        self._news: asyncio.Event | None = None
        self._start: Message | None = None
        self._has_body = True
        self._is_chunked = False
        self._left_bytes: int | None = None
        """Of the answer's body, where the application has said how long it is."""

    def take(self, body: bytes) -> None:
        """Has a further part of the body."""
        self._chunks.append(body)
        self.waiting_bytes += len(body)
        self._tell()

    def end(self) -> None:
        """Has all of the body."""
        self.is_complete = True
        self._tell()

    def leave(self) -> None:
        """The client has gone, or has its answer."""
        self._has_left = True
        self._tell()

    def break_off(self) -> None:
        """The rest of the request is malformed: it is not a valid request, and gets no answer of its own."""
        self._is_answered = self._is_broken = True
        self.leave()

    async def run(self) -> None:
        """Has the application answer. Raises nothing, but for being cancelled."""
        site = self._connection.site
        try:
            await site.app(self._scope(), self.receive, self.send)
        except Exception:  # noqa: BLE001 (whatever it is, the client gets an answer, and the log the rest)
            await site.config.log.exception("The gateway failed while it answered a request")
        finally:
            if not self._is_answered:
                self._is_answered = self.is_last = True
                if not self.has_begun:
                    self._connection.write(refusal(500, site.headers()))
                self._connection.answered(self)

    async def receive(self) -> Message:
        """The application's: what has come of the body, or that the client has gone or is answered."""
        while True:
            if self._chunks or (self.is_complete and not self._is_received):
                body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._is_received = self.is_complete
                if self.waiting_bytes:
                    self.waiting_bytes = 0
                    self._connection.wire.make_room()
                return {"type": "http.request", "body": body, "more_body": not self.is_complete}
            if self._has_left:
                return {"type": "http.disconnect"}
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()

    async def send(self, message: Message) -> None:
        """The application's: the head of the answer, and then its body. The head leaves with the body's first part.

        Raises ValueError where the message cannot be sent as it is, and RuntimeError where it comes at a wrong time.
        """
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            self._start = message
        elif kind != "http.response.body" or self._start is None or (self._is_answered and not self._is_broken):
            raise RuntimeError(f"an answer is one http.response.start, and then its body: {kind} came at a wrong time")
        elif not self._is_answered:
            await self._send_body(self._start, message.get("body", b""), message.get("more_body", False))

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    def _scope(self) -> dict[str, Any]:
        path, _, query = self.head.target.partition(b"?")
        if not path.startswith(b"/"):
            path = _AUTHORITY.sub(b"", path, count=1) or b"/"
        text = path.decode("ascii")
        return {
            "type": "http",
            "http_version": self.head.version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": self.head.method,
            "scheme": "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": self._connection.site.config.root_path,
            "headers": self.head.headers,
            "state": {},
            "extensions": {},
            **self._peers,
        }

    async def _send_body(self, start: Message, body: bytes, more: bool) -> None:
        parts = [] if self.has_begun else self._begin(start, None if more else len(body))
        if self._has_body and self._is_chunked:
            if body:
                parts += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                parts.append(b"0\r\n\r\n")
        elif self._has_body:
            if self._left_bytes is not None:
                self._left_bytes -= len(body)
                if self._left_bytes < 0 or (self._left_bytes and not more):
                    raise ValueError("the body of an answer is not as long as its Content-Length says")
            parts.append(body)
        self.has_begun = True
        self._connection.write(b"".join(parts))
        if self._connection.wire.is_full():
            await self._connection.wire.drain()
        if not more and not self._is_answered:
            self._is_answered = True
            self._connection.answered(self)

    def _begin(self, start: Message, length: int | None) -> list[bytes]:
        """The head of the answer, whose body is so long, where that is known."""
        status: int = start["status"]
        text, declared, closes = _head(status, start.get("headers", ()))
        self._has_body = self.head.method != "HEAD" and status not in (204, 304)
        if declared is not None:
            self._left_bytes = int(declared)
        elif self._has_body and length is not None:
            text += b"\r\ncontent-length: %d" % length
        elif self._has_body and self.head.version == "1.1":
            text += b"\r\ntransfer-encoding: chunked"
            self._is_chunked = True
        elif self._has_body:
            self.is_last = True  # which is how the client sees its end
        if closes or not self.is_complete or not self._connection.may_go_on():
            self.is_last = True
        if self.is_last and not closes:
            text += b"\r\nconnection: close"
        return [text, self._connection.site.headers(), b"\r\n\r\n"]


def refusal(status: int, headers: bytes) -> bytes:
    """An answer to bytes that are not a valid request. `headers` are further lines, each after a line break."""
    return _status_line(status) + b"\r\ncontent-length: 0\r\nconnection: close" + headers + b"\r\n\r\n"


def _head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes | None, bool]:
    """The status line and the headers, the Content-Length among them, and whether they end the connection."""
    lines = [_status_line(status)]
    length: bytes | None = None
    closes = False
    for name, value in headers:
        line, known = _field(name)
        if known == b"content-length":
            if length is not None or not _DIGITS.fullmatch(value):
                raise ValueError(f"{value!r} is no Content-Length of an answer, or its second one")
            length = value
        elif known == b"connection":
            closes = closes or b"close" in value.lower()
        elif known == b"transfer-encoding":  # that is for us to say
            continue
        lines += (line, value)
    text, breaks = b"".join(lines), len(lines) // 2
    if text.count(b"\n") != breaks or text.count(b"\r") != breaks or b"\0" in text:
        raise ValueError("a header of an answer has a line break or a NUL in it")
    return text, length, closes


@lru_cache
def _status_line(status: int) -> bytes:
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is no status of an answer; those are 200 to 999")
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}".encode()


@lru_cache(maxsize=1024)
def _field(name: bytes) -> tuple[bytes, bytes]:
    """How a header's line begins, and its name in lower case."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    return b"\r\n" + name + b": ", name.lower()
