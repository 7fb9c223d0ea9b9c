"""What Souk does under more load than it can carry: 2,000 clients that wait as they are told, and scarce goods.

    ./scripts/bench overload                     about four minutes
    ./scripts/bench overload --connections 200 --seconds 5 --below 16 64 --below-seconds 3
    ./scripts/bench overload --write             and write the table in docs/benchmarks.md

Exit codes: 0 measured, 1 it could not be, 2 bad usage. docs/benchmarks.md says what is measured, and how.
"""

import argparse
import json
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from releasing.build import CACHE
from skewing.installed import of_tree
from skewing.processes import Failed

from benching.crowd import Seen, counts, crowd
from benching.load import number
from benching.report import Target, at_least, at_most, table, target_rows
from benching.stacks import SCARCE, Souk
from souk_gateway.saga import CALLER, order_id_of

TTL_S = 12.0
MARK = "<!-- written by ./scripts/bench overload --write -->\n"
_SETTINGS = {"SOUK_HOLD_TTL_S": str(TTL_S), "SOUK_LOG_LEVEL": "warning"}
_PIECES, _RESTOCKED, _RESTOCK_S = 100, 20, 1.0
"""Of each scarce item: how many there are, and how many come each second."""
_LOOK_S = 0.25
_NORMAL_MS, _NORMAL_IN_A_ROW, _NORMAL_WITHIN_S = 100, 10, 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Overload:
    """What was found. Times are in seconds unless the name says otherwise."""

    connections: int
    seconds: float
    below: Mapping[int, float]
    """201s a second of crowds that Souk can carry, by their size."""
    answers: Mapping[str, int]
    per_second: float
    p50_ms: float
    p99_ms: float
    """Of the 201s."""
    unavailable_within: float
    """The share of the 503s that came within 100 ms."""
    unavailable_p99_ms: float
    unavailable_without_trace: float
    """The share of the 503s for whose order nothing was ever held."""
    cancelled: int
    oldest_s: float
    """The age that the oldest Confirm reached which was not repeated."""
    normal_after_s: float
    lost: int

    def targets(self) -> Iterator[Target]:
        """What is asked for, and what was reached."""
        best = max(self.below.values())
        yield at_most("orders that were CANCELLED after their 201", 0, self.cancelled)
        yield at_most(f"the oldest Confirm that waited, s (the holds live for {TTL_S:g} s)", TTL_S / 4, self.oldest_s)
        yield at_least("share of the 503s within 100 ms", 0.95, self.unavailable_within)
        yield at_least("share of the 503s that left nothing behind", 0.95, self.unavailable_without_trace)
        yield at_most("p99 of the 201s, s", 2, self.p99_ms / 1000)
        yield at_most("back to normal after the load has ended, s", 2, self.normal_after_s)
        sizes = f"{min(self.below)} to {max(self.below)}"
        yield at_least(f"201s a second ÷ the best with {sizes} connections", 0.9, self.per_second / best)

    def text(self) -> str:
        """Tables in Markdown."""
        rows = [(f"{size:,}", f"{rate:.0f}", "", "", "") for size, rate in self.below.items()]
        others = ", ".join(f"{count:,} × {status}" for status, count in sorted(self.answers.items()) if status != "201")
        rows.append(
            (f"{self.connections:,}", f"{self.per_second:.0f}", f"{self.p50_ms:.0f}", f"{self.p99_ms:.0f}", others)
        )
        head = ("connections", "201s a second", "p50 ms", "p99 ms", "other answers")
        return "\n".join([*target_rows(self.targets()), *table(head, rows)])


def measure(connections: int, seconds: float, below: Sequence[int], below_seconds: float, say: Say) -> Overload:
    """Raises Failed, CannotBuild."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4 * connections + 1024) if most > 0 else most, most))
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=CACHE) as data:
        souk = Souk("sqlite", of_tree(), Path(data), settings=_SETTINGS)
        try:
            souk.fill()
            souk.stock({f"scarce-{n}": _PIECES for n in range(SCARCE)})
            return _measured(souk, Path(data), connections, seconds, below, below_seconds, say)
        finally:
            souk.stop()


def _measured(
    souk: Souk, data: Path, connections: int, seconds: float, below: Sequence[int], below_seconds: float, say: Say
) -> Overload:
    run = os.urandom(4).hex()
    with _Beside(lambda: _restock(souk.address), _RESTOCK_S):
        crowd(souk.address, 16, min(2.0, below_seconds), f"{run}-warm")
        souk.settle()
        rates = {}
        for size in below:
            seen = crowd(souk.address, size, below_seconds, f"{run}-{size}")
            souk.settle()
            rates[size] = seen.per_second("201")
            say(f"{size} connections: {rates[size]:.0f} orders/s, {dict(counts(seen))}")
        ages: list[float] = [0.0]
        with _Beside(lambda: ages.append(_oldest_s(data)), _LOOK_S):
            seen = crowd(souk.address, connections, seconds, f"{run}-crowd")
            normal_after_s = _normal(souk.address, data) - seen.ended_at
        say(f"{connections} connections: {seen.per_second('201'):.0f} orders/s, {dict(counts(seen))}")
    souk.settle()
    souk.audit()
    return Overload(
        connections,
        seconds,
        rates,
        counts(seen),
        seen.per_second("201"),
        seen.percentile_ms("201", 50),
        seen.percentile_ms("201", 99),
        seen.within("503", 100),
        seen.percentile_ms("503", 99),
        1 - _begun(data, seen) / max(1, len(seen.unavailable)),
        _ask(data / "orders.db", "SELECT count(*) FROM orders WHERE status = 'CANCELLED'"),
        max(ages),
        max(0.0, normal_after_s),
        seen.lost,
    )


class _Beside:
    """Does something again and again, in a thread, for as long as the block lasts."""

    def __init__(self, what: Callable[[], object], period_s: float) -> None:
        self._what = what
        self._period_s = period_s
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(self._period_s):
            self._what()


def _restock(address: str) -> None:
    connection = HTTPConnection(address, timeout=30)
    for n in range(SCARCE):
        connection.request(
            "POST",
            f"/v1/items/scarce-{n}/restock",
            json.dumps({"quantity": _RESTOCKED}),
            {"Content-Type": "application/json"},
        )
        connection.getresponse().read()  # whatever it is: under load it may be 503
    connection.close()


def _oldest_s(data: Path) -> float:
    oldest = _ask(data / "orders.db", "SELECT min(created_at_us) FROM outbox WHERE kind = 'CONFIRM' AND attempts = 0")
    return time.time() - oldest / 1e6 if oldest else 0.0


def _normal(address: str, data: Path) -> float:
    """When the first of some orders in a row was placed that were answered with 201 soon. Raises Failed."""
    connection = HTTPConnection(address, timeout=30)
    deadline = time.monotonic() + _NORMAL_WITHIN_S
    order = json.dumps({"customer_id": "c-0", "lines": [{"sku": "item-0", "quantity": 1}], "redeem_points": 0})
    in_a_row, first = 0, 0.0
    while time.monotonic() < deadline:
        sent_at = time.monotonic()
        connection.request("POST", "/v1/orders", order, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        is_normal = answer.status == 201 and (time.monotonic() - sent_at) * 1000 <= _NORMAL_MS
        if is_normal and _oldest_s(data) <= 1:
            first = first if in_a_row else sent_at
            in_a_row += 1
            if in_a_row == _NORMAL_IN_A_ROW:
                return first
        else:
            in_a_row = 0
            time.sleep(0.02)
    raise Failed(f"Souk is not back to normal {_NORMAL_WITHIN_S:.0f} s after the load has ended")


def _begun(data: Path, seen: Seen) -> int:
    """How many of the orders that got a 503 have left something in reservations."""
    ids = [order_id_of(CALLER, key) for key in seen.unavailable]
    with closing(sqlite3.connect(data / "reservations.db")) as database:
        known = {row[0] for row in database.execute("SELECT order_id FROM reservations")}
    return sum(order_id in known for order_id in ids)


def _ask(file: Path, query: str) -> int:
    with closing(sqlite3.connect(file, timeout=30)) as database:
        return database.execute(query).fetchone()[0] or 0


def main(arguments: Sequence[str], say: Say) -> Overload:
    """Raises Failed, CannotBuild."""
    parser = argparse.ArgumentParser(
        "bench overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=number, default=2000, metavar="N", help="clients (%(default)s)")
    parser.add_argument("--seconds", type=number, default=120, metavar="S", help="length of the load (%(default)s)")
    below = (64, 128, 256, 512)
    parser.add_argument(
        "--below", nargs="+", type=number, default=below, metavar="N", help="clients that Souk can serve"
    )
    parser.add_argument("--below-seconds", type=number, default=15, metavar="S", help="length of each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as JSON")
    parser.add_argument("--write", action="store_true", help="write the table in docs/benchmarks.md")
    options = parser.parse_args(arguments)
    found = measure(options.connections, options.seconds, options.below, options.below_seconds, say)
    if options.json:
        targets = [asdict(target) for target in found.targets()]
        options.json.write_text(json.dumps({**asdict(found), "targets": targets}, indent=1) + "\n")
    return found
