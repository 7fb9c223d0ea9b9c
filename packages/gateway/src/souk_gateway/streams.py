"""A request, on a connection of either version of HTTP, and its answer, as ASGI has them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from time import monotonic, time
from typing import Any
from urllib.parse import unquote

from hypercorn.config import Config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from souk_gateway.addresses import counted, forwarded_for, is_trusted
from souk_gateway.limits import Limits, Refusals
from souk_gateway.parsing import Head

_CALM_S = 10.0
_CALMED = 4096
"""For how long, and for how many addresses, HTTP/2 is not offered after a connection that went beyond its budgets."""
_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class Site:
    """What all connections share. It ignores hypercorn's settings for access logs and server names.

    Once `draining`, each answer that begins is the last on its connection; once `ending`, each one that ends.
    """

    def __init__(self, app: ASGIApp, config: Config, limits: Limits) -> None:
        self.app = app
        self.config = config
        self.limits = limits
        self.refusals = Refusals()
        self.draining = self.ending = False
        self.requests: Counter[str] = Counter()
        """That run for an address behind a trusted proxy, or over HTTP/2 for one that is none's."""
        self._second = 0
        self._headers = b""
        self._calmed: dict[str, float] = {}

    def leave(self, address: str) -> None:
        """One of the address's requests has ended."""
        self.requests[address] -= 1
        if not self.requests[address]:
            del self.requests[address]

    def calm(self, address: str) -> None:
        """Offers no HTTP/2 to an address for a while: on a new connection it would have all its budgets again."""
        if len(self._calmed) >= _CALMED:
            self._calmed.clear()
        self._calmed[address] = monotonic() + _CALM_S

    def offers_http2(self, address: str) -> bool:
        """Whether a connection from this address may speak HTTP/2."""
        return self.limits.http2 and self._calmed.get(address, 0.0) < monotonic()

    def headers(self) -> bytes:
        """What every answer has, such as its date, each after a line break; the same throughout a second."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._headers = b"".join(b"\r\n%b: %b" % line for line in self.config.response_headers("h11"))
        return self._headers


class Stream:
    """A request, whose body the connection hands over as it comes. The subclasses write the answer."""

    def __init__(self, site: Site, head: Head, peers: Mapping[str, Any]) -> None:
        self.head = head
        self.is_complete = False
        """Whether all of the body has come."""
        self.has_begun = False
        """Whether some of the answer was written."""
        self.waiting_bytes = 0
        """Of the body, that nobody has received yet."""
        self.taken_bytes = 0
        """Of the body, that have come."""
        self.began_at = 0.0
        """When its body began to be waited for, on the loop's clock."""
        self._site = site
        self._peers = peers
        self._has_left = self._is_answered = self._is_broken = self._is_received = False
        self._is_invited = not head.expects_continue
        self._chunks: list[bytes] = []
        self._news: asyncio.Event | None = None
        self._start: Message | None = None

    def take(self, body: bytes) -> None:
        """Has a further part of the body."""
        self._chunks.append(body)
        self.waiting_bytes += len(body)
        self.taken_bytes += len(body)
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
        site, proxies = self._site, self._site.limits.trusted_proxies
        app, counted_as, client = site.app, None, self._peers["client"]
        if proxies and client is not None and is_trusted(client[0], proxies):
            address = forwarded_for(self.head.headers, proxies)
            if address is not None:
                self._peers = {**self._peers, "client": (address, 0)}
                counted_as = counted(address)
                site.requests[counted_as] += 1
                if site.requests[counted_as] > site.limits.max_connections_per_address:
                    site.refusals.note(
                        "Refused requests, more at a time than SOUK_MAX_CONNECTIONS_PER_ADDRESS", address
                    )
                    app = _too_many
        try:
            await app(self._scope(), self.receive, self.send)
        except Exception:  # noqa: BLE001 (whatever it is, the client gets an answer, and the log the rest)
            await site.config.log.exception("The gateway failed while it answered a request")
        finally:
            if counted_as is not None:
                site.leave(counted_as)
            if not self._is_answered:
                self._is_answered = True
                self._give_up()

    async def receive(self) -> Message:
        """The application's: what has come of the body, or that the client has gone or is answered."""
        while True:
            if self._chunks or (self.is_complete and not self._is_received):
                body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._is_received = self.is_complete
                if self.waiting_bytes:
                    received, self.waiting_bytes = self.waiting_bytes, 0
                    self._make_room(received)
                return {"type": "http.request", "body": body, "more_body": not self.is_complete}
            if self._has_left:
                return {"type": "http.disconnect"}
            if not self._is_invited:
                # Not earlier: who asks before a body is sent shall not send one that nobody reads.
                self._is_invited = True
                self._invite()
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

    def _make_room(self, received: int) -> None:
        """So many bytes were received: further ones may come."""
        raise NotImplementedError

    def _invite(self) -> None:
        """Tells the client, who waits for it, to send the body."""
        raise NotImplementedError

    async def _send_body(self, start: Message, body: bytes, more: bool) -> None:
        """Writes a part of the answer, and its head before the first."""
        raise NotImplementedError

    def _give_up(self) -> None:
        """The application has ended without a whole answer."""
        raise NotImplementedError

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
            "root_path": self._site.config.root_path,
            "headers": self.head.headers,
            "state": {},
            "extensions": {},
            **self._peers,
        }


async def _too_many(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"retry-after", b"1"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
