"""What is measured, and how. Every figure that is compared with another comes from turns that alternate in one run."""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from releasing.ledger import ROOT
from skewing.installed import Installed
from skewing.processes import Failed

from benching import load
from benching.stacks import BACKENDS, CUSTOMERS, Souk, Stack
from benching.usage import cpu_s, rss_mb

FEW, MANY = 1_000, 1_000_000
"""Orders that are stored before growth is measured."""
GROWTH_CUSTOMERS, GROWTH_CONNECTIONS = 100, 64
"""The customers that the smaller of the two has."""
PAGES = 200
SAMPLE = 10_000
"""Orders between two looks at the memory."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Throughput:
    """A stack under so many connections: medians of the rounds."""

    stack: str
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    settled_after_s: float
    """From the last answer to the last order that was settled."""
    cpu_s: Mapping[str, float]
    """Of each process: processor seconds per 1,000 orders, until they were settled."""
    rss_mb: Mapping[str, float]


@dataclass(frozen=True)
class Memory:
    """Resident sets after so many orders."""

    orders: int
    rss_mb: Mapping[str, float]


@dataclass(frozen=True)
class Growth:
    """What is asked of Souk with few and with many orders stored: medians of the rounds."""

    stored: int
    per_second: float
    cpu_s: float
    """Processor seconds per 1,000 orders, of all processes."""
    page_ms: float
    """A page of 50 orders of a customer, the median of many."""


def throughput(
    stacks: Sequence[Stack], connections: Sequence[int], seconds: int, rounds: int, say: Say
) -> Sequence[Throughput]:
    """Drives the stacks in turns. Raises Failed, NoLoad."""
    for stack in stacks:  # so that everything has been loaded and compiled
        load.drive(stack.address, connections=16, seconds=2, customers=CUSTOMERS)
        stack.settle()
    measured = []
    for count in connections:
        found: dict[str, list[Throughput]] = {stack.name: [] for stack in stacks}
        for _ in range(rounds):
            for stack in stacks:
                found[stack.name].append(turn(stack, count, seconds))
        for name, turns in found.items():
            median = _median(turns)
            say(
                f"{name}, {count} connections: {median.per_second:.0f} orders/s, p50 {median.p50_ms:.1f} ms, "
                f"p99 {median.p99_ms:.1f} ms"
            )
            measured.append(median)
    return measured


def turn(stack: Stack, connections: int, seconds: int, customers: int = CUSTOMERS) -> Throughput:
    """Drives a stack once, and waits until what follows is done. Raises Failed, NoLoad."""
    before = {name: cpu_s(pid) for name, pid in stack.pids().items()}
    seen = load.drive(stack.address, connections=connections, seconds=seconds, customers=customers)
    answered = time.monotonic()
    stack.settle()
    settled_after_s = time.monotonic() - answered
    used = {name: (cpu_s(pid) - before[name]) * 1000 / seen.orders for name, pid in stack.pids().items()}
    rss = {name: rss_mb(pid) for name, pid in stack.pids().items()}
    return Throughput(
        stack.name, connections, seen.per_second, seen.p50_ms, seen.p99_ms, settled_after_s, used, rss
    )  # fmt: skip


def _median(turns: Sequence[Throughput]) -> Throughput:
    def middle(value: Callable[[Throughput], float]) -> float:
        return statistics.median(map(value, turns))

    processes = turns[0].cpu_s
    return Throughput(
        turns[0].stack,
        turns[0].connections,
        middle(lambda turn: turn.per_second),
        middle(lambda turn: turn.p50_ms),
        middle(lambda turn: turn.p99_ms),
        middle(lambda turn: turn.settled_after_s),
        {name: middle(lambda turn, name=name: turn.cpu_s[name]) for name in processes},  # type: ignore[misc]
        {name: middle(lambda turn, name=name: turn.rss_mb[name]) for name in processes},  # type: ignore[misc]
    )


def memory(souk: Souk, orders: int, say: Say) -> Sequence[Memory]:
    """Places so many more orders, and looks at the memory on the way. Raises Failed, NoLoad."""
    placed = 0
    found: list[Memory] = []
    while placed < orders:
        placed += load.drive(souk.address, connections=64, seconds=5, customers=CUSTOMERS).orders
        if placed >= (len(found) + 1) * SAMPLE:
            souk.settle()
            found.append(Memory(placed, {name: rss_mb(souk.pids()[name]) for name in (*BACKENDS, "gateway")}))
            say(f"{placed} orders: " + ", ".join(f"{name} {size:.0f} MB" for name, size in found[-1].rss_mb.items()))
    return found


def growth(
    tree: Mapping[str, Installed], folder: Path, stored: Sequence[int], seconds: int, rounds: int, say: Say
) -> Sequence[Growth]:
    """With few orders stored, and with many. Raises Failed, NoLoad."""
    souks: list[Souk] = []
    try:
        for count in stored:
            data = folder / str(count)
            say(f"storing {count} orders")
            command = [sys.executable, "-m", "tests.many_orders", str(data), str(count), "--settled"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            souks.append(Souk(f"Souk with {count} orders", tree, data))
            souks[-1].settle()
            load.drive(souks[-1].address, connections=16, seconds=2, customers=GROWTH_CUSTOMERS)
            souks[-1].settle()
        turns: dict[str, list[Throughput]] = {souk.name: [] for souk in souks}
        pages: dict[str, list[float]] = {souk.name: [] for souk in souks}
        # They differ by a few percent, and the machine's pace by more: shorter turns, each first as often as the other.
        for number in range(4 * rounds):
            for souk in souks if number % 2 == 0 else reversed(souks):
                turns[souk.name].append(turn(souk, GROWTH_CONNECTIONS, max(1, seconds // 4), GROWTH_CUSTOMERS))
                pages[souk.name].append(_page_ms(souk))
        for souk in souks:
            souk.audit()
    finally:
        for souk in souks:
            souk.stop()
        for count in stored:
            shutil.rmtree(folder / str(count), ignore_errors=True)
    found = []
    for count, souk in zip(stored, souks, strict=True):
        median = _median(turns[souk.name])
        found.append(
            Growth(count, median.per_second, sum(median.cpu_s.values()), statistics.median(pages[souk.name]))
        )  # fmt: skip
        say(f"{souk.name}: {found[-1].cpu_s:.2f} CPU s per 1,000 more, a page in {found[-1].page_ms:.2f} ms")
    return found


def _page_ms(souk: Souk) -> float:
    connection = HTTPConnection(souk.address)
    taken = []
    for n in range(PAGES):
        started = time.perf_counter()
        connection.request("GET", f"/v1/orders?customer_id=c-{n % GROWTH_CUSTOMERS}&page_size=50")
        answer = connection.getresponse()
        content = answer.read()
        taken.append(time.perf_counter() - started)
        if answer.status != 200:
            raise Failed(f"{souk.name}: a page of orders was answered with {answer.status}: {content.decode()}")
    connection.close()
    return statistics.median(taken) * 1000
