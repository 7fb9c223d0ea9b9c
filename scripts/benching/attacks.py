"""How much longer an innocent client waits while another one attacks; `./scripts/bench attacks`.

The attacks are those of tests/attacks, each by a process of its own and from an address of its own. The innocent client
places an order every 10 ms, in turns with and without the attack.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from releasing.build import CACHE
from releasing.ledger import ROOT
from skewing.installed import of_tree
from skewing.processes import Failed

from benching.stacks import Souk
from tests.attacks.attackers import ATTACKS

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "<!-- written by ./scripts/bench attacks --write -->\n"
MOST = 3.0
"""The target: p99 with the attack ÷ p99 without it."""
_EVERY_S = 0.01
# The gateway's own limits, not those that all other benchmarks need.
_SETTINGS = {"SOUK_HTTP2": "true", "SOUK_MAX_CONNECTIONS": "", "SOUK_MAX_CONNECTIONS_PER_ADDRESS": ""}


@dataclass
class Innocent:
    """What one client saw during one attack, and beside it."""

    attack: str
    quiet_ms: list[float] = field(default_factory=list)
    attacked_ms: list[float] = field(default_factory=list)
    failed: int = 0
    """Orders that were not answered with 201 during the attack."""
    megabytes: int = 0
    """The most memory that the gateway has had so far."""

    def ratio(self) -> float:
        """Of the p99."""
        return p99(self.attacked_ms) / p99(self.quiet_ms)


@dataclass(frozen=True)
class Attacks:
    """All of them."""

    found: Sequence[Innocent]

    def text(self) -> str:
        """A table in Markdown."""
        lines = [
            f"Target: no order failed, and p99 ÷ p99 without the attack at most {MOST:.0f}.",
            "",
            "| attack | orders | failed | p99 without, ms | p99 with, ms | ratio | gateway: MB so far | met |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for each in self.found:
            is_met = not each.failed and each.ratio() <= MOST
            lines.append(
                f"| {each.attack} | {len(each.attacked_ms)} | {each.failed} | {p99(each.quiet_ms):.1f} "
                f"| {p99(each.attacked_ms):.1f} | {each.ratio():.2f} | {each.megabytes} | {'yes' if is_met else 'no'} |"
            )
        return "\n".join(lines) + "\n"


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[len(values) * 99 // 100]


def main(arguments: Sequence[str], say: Callable[[str], None]) -> Attacks:
    """Measures. Raises Failed, CannotBuild."""
    parser = argparse.ArgumentParser("bench attacks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), metavar="NAME", help="(all)")
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="length of a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each attack (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=CACHE) as folder, ExitStack() as undo:
        souk = Souk("sqlite", of_tree(), Path(folder), settings=_SETTINGS)
        undo.callback(souk.stop)
        souk.fill()
        found = []
        for name in options.only:
            innocent = Innocent(name)
            for _ in range(options.rounds):
                place_orders(souk.address, options.seconds, innocent.quiet_ms)
                with attacking(name, souk.address):
                    innocent.failed += place_orders(souk.address, options.seconds, innocent.attacked_ms)
            innocent.megabytes = peak_megabytes(souk.pids()["gateway"])
            found.append(innocent)
            say(f"{name}: p99 {p99(innocent.quiet_ms):.1f} ms, {p99(innocent.attacked_ms):.1f} ms with the attack")
        souk.settle()
        souk.audit()
    return Attacks(found)


@contextmanager
def attacking(name: str, address: str) -> "Iterator[None]":
    """An attack, which is under way. Raises Failed."""
    command = [sys.executable, "-P", "-m", "tests.attacks.attackers", name, address]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "begun\n":
                raise Failed(f"the attack {name} did not begin")
            yield
        finally:
            process.kill()


def place_orders(address: str, seconds: float, into_ms: list[float]) -> int:
    """Notes how long each order took; returns how many failed."""
    failed, n, connection = 0, 0, HTTPConnection(address, timeout=60)
    deadline = time.monotonic() + seconds
    while (begun := time.monotonic()) < deadline:
        n += 1
        order = {
            "customer_id": f"c-{n % 1000}",
            "lines": [{"sku": f"item-{n % 500}", "quantity": 1}],
            "redeem_points": 0,
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
        status = 0
        with suppress(OSError, HTTPException):
            connection.request("POST", "/v1/orders", json.dumps(order), headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        into_ms.append((time.monotonic() - begun) * 1000)
        if status != 201:
            failed += 1
            connection.close()
        time.sleep(_EVERY_S)
    connection.close()
    return failed


def peak_megabytes(pid: int) -> int:
    """The most memory that a process has had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise Failed(f"/proc/{pid}/status does not say VmHWM")
    return int(found[1]) // 1024
