"""Parses the bytes of a connection into requests, with llhttp: https://llhttp.org.

This module adds the checks that llhttp leaves to its user: request lines, hosts, targets, versions, expectations,
transfer codings and sizes. Together they refuse all that h11 refuses, and some requests that h11 tolerates; a test
compares the two.
"""

import re
from dataclasses import dataclass
from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

_LINE = re.compile(rb"[A-Z-]+ [!-~]+(?: HTTP/[0-9]\.[0-9])?")
"""A request line: RFC 9112, 3. llhttp tolerates further spaces, and protocols such as RTSP; no version is 0.9."""
_NAME = rb"(?:[-A-Za-z0-9._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})"
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|" + _NAME + rb"*)(?::[0-9]*)?")
_PATH = re.compile(rb"/[!\"$-~]*")
_ABSOLUTE = re.compile(rb"(?i:https?)://(?:\[[0-9A-Fa-f:.]+\]|" + _NAME + rb"+)(?::[0-9]*)?(?:[/?][!\"$-~]*)?")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|" + _NAME + rb"+):[0-9]+")
_END = b"\r\n\r\n"
"""Ends every head, and every body in chunks."""
_OURS = frozenset((b"host", b"content-length", b"expect", b"transfer-encoding", b"upgrade"))


@dataclass(slots=True)
class Head:
    """A request without its body. Header names are in lower case; `target` is as it was sent."""

    method: str
    target: bytes
    version: str
    """1.0 or 1.1."""
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    """Whether another request may follow."""
    expects_continue: bool
    """Whether the client waits for 100 Continue before it sends the body."""
    upgrade: bytes
    """The protocol that the client asks to change to: the value of its Upgrade header."""


class Receiver(Protocol):
    """Receives the requests that a parser finds; `feed` calls it."""

    def begin(self, head: Head) -> None: ...

    def take(self, body: bytes) -> None:
        """A further part of the body."""

    def end(self) -> None: ...

    def may_change(self, rest: bytes) -> None:
        """The request that just ended asks for another protocol; `rest` are the bytes after it. `feed` passes on
        whatever this raises."""


class Malformed(Exception):
    """The bytes are not a valid request; answer with `status` and close, as nothing after them can be parsed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def is_host(value: bytes) -> bool:
    """Whether it is a Host, or an authority without a user: RFC 9110, 7.2 and 4.2.4."""
    return _HOST.fullmatch(value) is not None


def is_target(method: str, target: bytes) -> bool:
    """Whether it is a target of a request with this method, in one of the four forms of RFC 9112, 3.2.

    A path or a query may hold any visible ASCII character but #: browsers send some that a URI may not have.
    """
    if target.startswith(b"/"):
        return _PATH.fullmatch(target) is not None
    if method == "CONNECT":
        return _AUTHORITY.fullmatch(target) is not None
    return _ABSOLUTE.fullmatch(target) is not None or (target == b"*" and method == "OPTIONS")


class Parser:
    """Passes requests on to its receiver. `max_bytes` limits a request's head, and the bytes that complete nothing.

    llhttp calls the methods that begin with `on_`.
    """

    def __init__(self, receiver: Receiver, max_bytes: int) -> None:
        self._receiver = receiver
        self._max_bytes = max_bytes
        self._llhttp = HttpRequestParser(self)
        self._loose_bytes = 0
        """Bytes received since the last complete head, part of a body, or end of a request."""
        self._is_body_skipped = False
        self._left_bytes = 0
        """Of a body whose length is known."""
        self._tail = b""
        """The last bytes of what was fed, in which the end of a head or of chunks may have begun."""
        self._line: bytes | None = b""
        """What has come of a request line, None behind it."""
        self._begin()
        self._in_message = self._in_head = False

    @property
    def in_message(self) -> bool:
        """Whether a request has begun, and not ended."""
        return self._in_message

    def feed(self, data: bytes) -> None:
        """Parses the bytes that were read. Raises `Malformed`; what the receiver was told before that stands."""
        self._loose_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except HttpParserError as error:
            if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
                raise error.__context__ from None
            raise Malformed(400) from error
        if self._loose_bytes > self._max_bytes:
            raise Malformed(431 if self._in_head else 400)

    def _feed(self, data: bytes) -> bytes:
        """Feeds the bytes up to the end of a head or of a body, at most, and returns those after them.

        So each request line is at the beginning of what is fed, where it can be checked as it was sent.
        """
        size = self._size_of_piece(data)
        piece, rest = (data, b"") if size == len(data) else (data[:size], data[size:])
        if self._line is not None:
            self._check_line(self._line + piece)
        try:
            self._llhttp.feed_data(piece)
        except HttpParserUpgrade as upgrade:  # llhttp expects another protocol here, as after any upgrade
            rest = piece[upgrade.args[0] :] + rest
        else:
            return rest
        self._llhttp = HttpRequestParser(self)
        if self._framing:
            # It did not read the body. Another one will, which is told how long that is, and tells nobody of this.
            self._is_body_skipped = True
            self._llhttp.feed_data(b"POST / HTTP/1.1\r\n" + self._framing + _END)
            self._is_body_skipped = False
        else:
            self._receiver.may_change(rest)
        return rest

    def _size_of_piece(self, data: bytes) -> int:
        if self._left_bytes:
            size = min(self._left_bytes, len(data))
            self._left_bytes -= size
            return size
        if self._tail:
            at = (self._tail + data[:3]).find(_END)
            if at >= 0:
                size = at + 4 - len(self._tail)
                self._tail = b""
                return size
        at = data.find(_END)
        if at >= 0:
            self._tail = b""
            return at + 4
        self._tail = (self._tail + data[-3:])[-3:]
        return len(data)

    def _check_line(self, text: bytes) -> None:
        """Raises Malformed where the text begins with a line that is no request line."""
        text = text.lstrip(b"\r\n")  # empty lines may come first: RFC 9112, 2.2
        end = text.find(b"\r\n")
        if end < 0:
            self._line = text
        elif _LINE.fullmatch(text, 0, end):
            self._line = None
        else:
            raise Malformed(400)

    def _begin(self) -> None:
        self._in_message = self._in_head = True
        self._target = self._framing = self._upgrade = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts: list[bytes] = []
        self._head_bytes = 0
        self._expectations: list[bytes] = []

    def on_message_begin(self) -> None:
        if not self._is_body_skipped:
            self._begin()

    def on_url(self, url: bytes) -> None:
        """A further part of the target."""
        if not self._is_body_skipped:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer, or what _feed has made up
            return
        self._head_bytes += len(name) + len(value) + 4
        name, value = name.lower(), value.rstrip(b" \t")  # what is in front of it is gone already
        self._headers.append((name, value))
        if name not in _OURS:
            return
        if name == b"host":
            self._hosts.append(value)
        elif name == b"content-length":
            self._framing = b"Content-Length: " + value
        elif name == b"transfer-encoding":
            self._framing = b"Transfer-Encoding: chunked"
            if value.lower() != b"chunked":
                raise Malformed(501)
        elif name == b"expect":
            self._expectations.append(value.lower())
        else:
            self._upgrade = value

    def on_headers_complete(self) -> None:
        if self._is_body_skipped:
            return
        self._in_head, self._loose_bytes = False, 0
        method, version = self._llhttp.get_method().decode("ascii"), self._llhttp.get_http_version()
        if version not in ("1.1", "1.0"):
            raise Malformed(505)
        if self._head_bytes + len(self._target) > self._max_bytes:
            raise Malformed(431)
        if len(self._hosts) != 1 and (self._hosts or version == "1.1"):
            raise Malformed(400)
        if (self._hosts and not is_host(self._hosts[0])) or not is_target(method, self._target):
            raise Malformed(400)
        if version == "1.0":
            self._expectations.clear()  # that version has none: RFC 9110, 10.1.1
            if self._framing.startswith(b"Transfer"):
                raise Malformed(400)
        elif self._expectations and any(each != b"100-continue" for each in self._expectations):
            raise Malformed(417)
        if self._framing.startswith(b"Content-Length"):
            self._left_bytes = int(self._framing[16:])
        head = Head(
            method=method,
            target=self._target,
            version=version,
            headers=self._headers,
            # As h11 has it, connections of HTTP/1.0 end with the answer. What follows on a CONNECT is not HTTP.
            keep_alive=version == "1.1" and method != "CONNECT" and self._llhttp.should_keep_alive(),
            expects_continue=bool(self._expectations),
            upgrade=self._upgrade,
        )
        self._receiver.begin(head)

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        self._receiver.take(body)

    def on_message_complete(self) -> None:
        if self._framing and self._llhttp.should_upgrade():
            return  # it has not read the body
        self._loose_bytes = 0
        self._in_message = False
        self._line = b""
        self._receiver.end()
