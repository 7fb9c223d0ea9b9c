"""An application behind Souk's connections, in a thread of its own on a gateway's loop, and a bare client."""

import ast
import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from hypercorn.config import Config
from starlette.types import Message, Receive, Scope, Send

from souk_gateway import serving
from souk_gateway.limits import Limits

PATIENCE_S = 30.0


class Echo:
    """Answers with what it was asked, or as the path says, and keeps what it was told last."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the answers under /headers."""
        self.requests: list[str] = []
        self.told = threading.Event()
        self.last: Message = {}
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.requests.append(path)
        if path == "/unread":
            return await answer(send, b"unread")
        if path == "/large":
            return await answer(send, b"x" * 3_000_000)
        if path == "/fails":
            raise LookupError("on purpose")
        if path in ("/early", "/half"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"early", "more_body": True})
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.last = message
                self.told.set()
                return None
            body, more = body + message["body"], message["more_body"]
        if path == "/half":
            await asyncio.to_thread(self.go_on.wait, PATIENCE_S)
            return await send({"type": "http.response.body", "body": b""})
        return await self._answer(path, {**scope, "body": body}, receive, send)

    async def _answer(self, path: str, asked: Scope, receive: Receive, send: Send) -> None:
        if path.startswith("/status/"):
            return await answer(send, b"", status=int(path.rpartition("/")[2]))
        if path == "/headers":
            return await answer(send, b"", self.headers)
        if path == "/short":
            return await answer(send, b"ab", [(b"content-length", b"3")])
        if path == "/stream":
            return await stream(send)
        if path == "/breaks":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"ab", "more_body": True})
            raise LookupError("on purpose")
        if path == "/waits":
            self.last = await receive()
            self.told.set()
        if path == "/slow":
            await asyncio.to_thread(self.go_on.wait, PATIENCE_S)
        keys = "method", "http_version", "scheme", "path", "raw_path", "query_string", "headers", "body"
        return await answer(send, repr({key: asked[key] for key in keys}).encode())


async def answer(
    send: Send, body: bytes, headers: list[tuple[bytes, bytes]] | None = None, *, status: int = 200
) -> None:
    if headers is None:
        headers = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
    for part in (b"one ", b"", b"two"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


class Site:
    """An application that is served."""

    def __init__(self, app: Any, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.config = Config()
        self.config.errorlog = None
        self.config.include_server_header = False
        self.config.keep_alive_max_requests = 100_000
        self._stop = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._ready = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=uvloop.run, args=(self._serve(listener),))
        self.trouble: list[str] = []
        """What the loop's own handler would have written into the log."""

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.trouble.append(repr(context)))
        self._ready.set()
        await serving.serve_http(self.app, self.config, listener, self._stop.wait, self.limits)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def stop(self) -> None:
        if not self._is_stopping:
            self.begin_stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def begin_stop(self) -> None:
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._stop.set)

    @contextmanager
    def client(self, address: str = "127.0.0.1") -> Iterator["Client"]:
        """A connection from one of the addresses of this machine: all that begin with 127 are."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S, (address, 0)) as connected:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(connected)
            yield client
            client.file.close()


class Answer:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __getitem__(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, found
        return found[0] if found else None

    def echo(self) -> Any:
        """What was asked."""
        assert self.status == 200, self.status
        return ast.literal_eval(self.body.decode())


class Client:
    """A connection. Whatever does not come in time fails the test."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.file = connected.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def send_bytewise(self, data: bytes) -> None:
        """Slowly enough for the other end to read them one by one."""
        for n in range(len(data)):
            self.send(data[n : n + 1])
            time.sleep(0.001)

    def answer(self, method: str = "GET") -> Answer:
        """The next one, whose framing must be as the standard wants it."""
        status = self.file.readline()
        version, number, _ = status.split(b" ", 2)
        assert version == b"HTTP/1.1", status
        headers = []
        while (line := self.file.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), line
            name, _, value = line[:-2].decode("latin-1").partition(": ")
            headers.append((name, value))
        found = Answer(int(number), headers, b"")
        if found.status >= 200 and found.status not in (204, 304) and method != "HEAD":
            found.body = self._body(found)
        return found

    def _body(self, found: Answer) -> bytes:
        if found["transfer-encoding"] == "chunked":
            assert found["content-length"] is None
            parts = []
            while size := int(self.file.readline(), 16):
                parts.append(self.file.read(size))
                assert self.file.read(2) == b"\r\n"
            assert self.file.read(2) == b"\r\n"
            return b"".join(parts)
        if (length := found["content-length"]) is not None:
            body = self.file.read(int(length))
            assert len(body) == int(length)
            return body
        assert found["connection"] == "close"
        return self.file.read()

    def ends(self) -> bool:
        """Whether nothing more comes; waits for it."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:  # it had sent what was not read any more
            return True
