"""Many clients that each place one order after the other, and wait as they are told: `Retry-After`.

A process of its own, beside which the stack has the rest of the machine. It prints what it saw as JSON.

    python -m benching.crowd HOST:PORT CONNECTIONS SECONDS RUN
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop
from skewing.processes import Failed

from benching.load import ITEMS
from benching.stacks import CUSTOMERS, SCARCE

_AT_ONCE, _APART_S = 25, 0.05
"""How many clients come at the same time, and how long after each other. If they came faster, this process would be too
busy with connecting to see answers when they come."""
_AGAIN_S = 1.0
"""After a connection that was lost."""
_LAST_S = 30.0
"""For how long the last answers are waited for."""
_random = random.Random(20)  # noqa: S311 (what is ordered is no secret)
_SCARCELY = 10
"""One order in so many wants something that is scarce."""


@dataclass(frozen=True)
class Seen:
    """What the clients of a crowd were answered."""

    seconds: float
    ended_at: float
    """When they had placed their last orders, in monotonic time."""
    lost: int
    """Connections that ended without an answer."""
    latencies_ms: Mapping[str, Sequence[float]]
    """By status, sorted."""
    unavailable: Sequence[str]
    """The keys of the orders that were answered with 503."""

    def per_second(self, status: str) -> float:
        return len(self.latencies_ms.get(status, ())) / self.seconds

    def within(self, status: str, limit_ms: float) -> float:
        """The share of the answers with this status that took no longer; 1 where there are none."""
        taken = self.latencies_ms.get(status, ())
        return sum(each <= limit_ms for each in taken) / len(taken) if taken else 1.0

    def percentile_ms(self, status: str, percent: float) -> float:
        taken = self.latencies_ms.get(status, ())
        return taken[min(len(taken) - 1, int(len(taken) * percent / 100))] if taken else 0.0


def crowd(address: str, connections: int, seconds: float, run: str) -> Seen:
    """Lets so many clients place orders for so long. `run` distinguishes their keys. Raises Failed."""
    command = [sys.executable, "-m", "benching.crowd", address, str(connections), str(seconds), run]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise Failed(f"the crowd of {connections} clients failed:\n{done.stderr[-2000:]}")
    seen = Seen(**json.loads(done.stdout))
    if not seen.latencies_ms.get("201"):
        raise Failed(f"none of {connections} clients could place an order: {dict(counts(seen))}, {seen.lost} lost")
    return seen


class _Tally:
    def __init__(self, run: str, ends_at: float) -> None:
        self.run = run
        self.ends_at = ends_at
        self.under_way = 0
        self.lost = 0
        self.latencies_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.unavailable: list[str] = []
        self._bodies = [_body() for _ in range(2000)]
        self._sent = 0

    def next(self, host: str) -> tuple[str, bytes]:
        """The key of another order, and the request."""
        self._sent += 1
        key, body = f"{self.run}-{self._sent}", self._bodies[self._sent % len(self._bodies)]
        head = f"POST /v1/orders HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}"
        return key, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _body() -> bytes:
    first = _random.randrange(ITEMS)
    skus = [f"item-{(first + line) % ITEMS}" for line in range(_random.randint(1, 3))]
    if _random.randrange(_SCARCELY) == 0:
        skus[0] = f"scarce-{_random.randrange(SCARCE)}"
    lines = [{"sku": sku, "quantity": _random.randint(1, 3)} for sku in skus]
    points = int(_random.randrange(4) == 0)
    order = {"customer_id": f"c-{_random.randrange(CUSTOMERS)}", "lines": lines, "redeem_points": points}
    return json.dumps(order).encode()


class _Client(asyncio.Protocol):
    """On a connection of its own."""

    def __init__(self, tally: _Tally, host: str) -> None:
        self._tally = tally
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._key = ""
        self._sent_at = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._place()

    def _place(self) -> None:
        if self._transport is None:
            return
        if time.monotonic() >= self._tally.ends_at:
            self._transport.close()
            return
        self._key, request = self._tally.next(self._host)
        self._tally.under_way += 1
        self._sent_at = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        length = int(_field(fields, b"content-length") or 0)
        if len(body) < length:
            return
        taken_ms = (time.monotonic() - self._sent_at) * 1000
        self._received = b""
        key, self._key = self._key, ""
        status = head[9:12].decode()
        self._tally.under_way -= 1
        self._tally.latencies_ms[status].append(taken_ms)
        if status == "503":
            self._tally.unavailable.append(key)
        pause_s = int(_field(fields, b"retry-after") or 0)
        if pause_s:
            self._loop.call_later(pause_s, self._place)
        else:
            self._place()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._key:
            self._key = ""
            self._tally.under_way -= 1
            self._tally.lost += 1
        if time.monotonic() < self._tally.ends_at:
            self._loop.call_later(_AGAIN_S, lambda: self._loop.create_task(_connect(self._tally, self._host)))


def _field(head: bytes, name: bytes) -> bytes:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b""


async def _connect(tally: _Tally, host: str) -> None:
    name, _, port = host.rpartition(":")
    try:
        await asyncio.get_running_loop().create_connection(lambda: _Client(tally, host), name, int(port))
    except OSError:
        tally.lost += 1
        if time.monotonic() < tally.ends_at:
            await asyncio.sleep(_AGAIN_S)
            await _connect(tally, host)


async def _run(host: str, connections: int, seconds: float, run: str) -> Seen:
    started = time.monotonic()
    tally = _Tally(run, started + seconds)
    coming: list[asyncio.Task[None]] = []
    for first in range(0, connections, _AT_ONCE):
        coming += [asyncio.create_task(_connect(tally, host)) for _ in range(min(_AT_ONCE, connections - first))]
        await asyncio.sleep(_APART_S)
    await asyncio.sleep(tally.ends_at - time.monotonic())
    ended_at = time.monotonic()
    while tally.under_way and time.monotonic() < ended_at + _LAST_S:  # noqa: ASYNC110 (it is a poll at the very end)
        await asyncio.sleep(0.01)
    tally.lost += tally.under_way
    latencies = {status: sorted(taken) for status, taken in tally.latencies_ms.items()}
    return Seen(ended_at - started, ended_at, tally.lost, latencies, tally.unavailable)


def counts(seen: Seen) -> Mapping[str, int]:
    """How many answers there were of each status."""
    return {status: len(taken) for status, taken in seen.latencies_ms.items()}


if __name__ == "__main__":
    found = uvloop.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
    json.dump(found.__dict__, sys.stdout)
