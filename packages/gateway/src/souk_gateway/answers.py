"""How an answer looks in HTTP/1.1.

Answers are written as bytes at once: what an application says is checked for what would make another answer of it, and
for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.types import Message

from souk_gateway.parsing import Head
from souk_gateway.streams import Stream

if TYPE_CHECKING:
    from souk_gateway.http1 import Http1

_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Http1Stream(Stream):
    """A request on a connection that speaks HTTP/1.1, and its answer."""

    def __init__(self, connection: Http1, head: Head, peers: Mapping[str, Any]) -> None:
        super().__init__(connection.site, head, peers)
        self.is_last = not head.keep_alive
        """Whether the connection ends with the answer."""
        self._connection = connection
        self._has_body = True
        self._is_chunked = False
        self._left_bytes: int | None = None
        """Of the answer's body, where the application has said how long it is."""

    def _make_room(self, _received: int) -> None:
        self._connection.wire.make_room()

    def _invite(self) -> None:
        if not self.has_begun:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _give_up(self) -> None:
        self.is_last = True
        if not self.has_begun:
            self._connection.write(refusal(500, self._site.headers()))
        self._connection.answered(self)

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
        return [text, self._site.headers(), b"\r\n\r\n"]


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


def checked_field(name: bytes, value: bytes) -> bytes:
    """The name of an answer's header in lower case. Raises ValueError where it would make another answer of it."""
    known = _field(name)[1]
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError("a header of an answer has a line break or a NUL in it")
    return known
