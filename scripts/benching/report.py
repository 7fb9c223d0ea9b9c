"""Figures as text for people and for machines."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benching.measures import Growth, Memory, Throughput
from benching.starts import ContainerStart

RSS_PROCESSES = ("reservations", "loyalty", "orders")


@dataclass(frozen=True)
class Figures:
    """What a run has found; what it was not asked for is empty."""

    machine: str
    revision: str
    throughput: Sequence[Throughput] = ()
    memory: Sequence[Memory] = ()
    growth: Sequence[Growth] = ()
    start_ms: Mapping[str, float] = field(default_factory=dict)
    """Of each service's process, from exec to SERVING."""
    up_ms: float | None = None
    """From `scripts/up` until it says that Souk answers."""
    container_start: Mapping[str, ContainerStart] = field(default_factory=dict)
    """Of each service, where a container engine answers."""


@dataclass(frozen=True)
class Target:
    """What is asked for, and what was reached."""

    what: str
    asked: str
    reached: float
    is_met: bool


def targets(figures: Figures) -> Iterator[Target]:
    """Those that a run has figures for."""
    found = {(each.stack, each.connections): each for each in figures.throughput}
    bare, sqlite, postgresql = (found.get((name, 64)) for name in ("bare", "sqlite", "postgresql"))
    if bare and sqlite:
        ratio = sqlite.per_second / bare.per_second
        yield at_least("Souk on SQLite, 64 connections: orders a second ÷ the bare stack's", 2.0, ratio)
        yield at_most("64 connections: p99 ÷ the bare stack's", 1.5, sqlite.p99_ms / bare.p99_ms)
    alone = found.get(("bare", 1)), found.get(("sqlite", 1))
    if alone[0] and alone[1]:
        yield at_most("one connection: median ÷ the bare stack's", 1.6, alone[1].p50_ms / alone[0].p50_ms)
    if sqlite and postgresql:
        ratio = postgresql.per_second / sqlite.per_second
        yield at_least("Souk on PostgreSQL ÷ Souk on SQLite: orders a second", 0.7, ratio)
    if figures.growth:
        few, *_, many = figures.growth
        what = f"{many.stored:,} orders stored ÷ {few.stored:,}"
        yield at_most(f"{what}: processor time of an order", 1.1, many.cpu_s / few.cpu_s)
        yield at_most(f"{what}: time of a page of orders", 1.1, many.page_ms / few.page_ms)
    if figures.memory:
        last = figures.memory[-1]
        most = max(last.rss_mb[name] for name in RSS_PROCESSES)
        yield at_most(f"RSS of a gRPC service after {last.orders:,} orders, the largest (MB)", 90, most)
        half = next(each for each in figures.memory if each.orders >= last.orders / 2)
        grown = max(last.rss_mb[name] / half.rss_mb[name] for name in RSS_PROCESSES)
        yield at_most(f"the same ÷ the RSS after {half.orders:,} orders", 1.05, grown)
    if figures.start_ms:
        yield at_most("exec to SERVING, the slowest service (ms)", 500, max(figures.start_ms.values()))


def at_least(what: str, asked: float, reached: float) -> Target:
    """Met by so much or more."""
    return Target(what, f"at least {asked:g}", reached, reached >= asked)


def at_most(what: str, asked: float, reached: float) -> Target:
    """Met by so much or less."""
    return Target(what, f"at most {asked:g}", reached, reached <= asked)


def as_json(figures: Figures) -> str:
    """All of it."""
    asked = [asdict(target) for target in targets(figures)]
    return json.dumps({**asdict(figures), "targets": asked}, indent=1) + "\n"


def as_text(figures: Figures) -> str:
    """Tables in Markdown."""
    return "\n".join(_sections(figures))


def _sections(figures: Figures) -> Iterator[str]:
    yield from target_rows(targets(figures))
    if figures.throughput:
        yield from table(
            ("stack", "connections", "orders/s", "p50 ms", "p99 ms", "settled after, s"),
            [
                (
                    each.stack,
                    str(each.connections),
                    f"{each.per_second:.0f}",
                    f"{each.p50_ms:.1f}",
                    f"{each.p99_ms:.1f}",
                    f"{each.settled_after_s:.2f}",
                )
                for each in figures.throughput
            ],
        )
        names = list(dict.fromkeys(name for each in figures.throughput for name in each.cpu_s))
        yield "Processor seconds per 1,000 orders, and megabytes of RSS:\n"
        yield from table(
            ("stack", "connections", *names, "all"),
            [
                (
                    each.stack,
                    str(each.connections),
                    *(f"{each.cpu_s[n]:.2f}, {each.rss_mb[n]:.0f} MB" if n in each.cpu_s else "" for n in names),
                    f"{sum(each.cpu_s.values()):.2f}",
                )
                for each in figures.throughput
            ],
        )
    if figures.growth:
        yield from table(
            ("orders stored", "orders/s, 64 connections", "CPU s per 1,000 orders", "a page of 50 orders, ms"),
            [
                (f"{each.stored:,}", f"{each.per_second:.0f}", f"{each.cpu_s:.2f}", f"{each.page_ms:.2f}")
                for each in figures.growth
            ],
        )
    if figures.memory:
        names = list(figures.memory[0].rss_mb)
        yield from table(
            ("RSS in MB after orders", *names),
            [(f"{each.orders:,}", *(f"{each.rss_mb[name]:.1f}" for name in names)) for each in figures.memory],
        )
    if starts := list(_starts(figures)):
        yield from table(("start", "ms"), starts)


def target_rows(found: Iterable[Target]) -> Iterator[str]:
    """The table of what is asked for and what was reached."""
    rows = [(each.what, each.asked, f"{each.reached:.2f}", "yes" if each.is_met else "**no**") for each in found]
    yield from table(("measure", "target", "result", "met"), rows)


def _starts(figures: Figures) -> Iterator[tuple[str, str]]:
    for service, took_ms in figures.start_ms.items():
        yield f"{service}: exec to SERVING", f"{took_ms:.0f}"
    if figures.up_ms is not None:
        yield "`./scripts/up`, warm, until Souk answers", f"{figures.up_ms:.0f}"
    for service, start in figures.container_start.items():
        yield f"{service} in a container: `docker run` to SERVING", f"{start.run_ms:.0f}"
        yield f"{service} in a container: start of its process to SERVING", f"{start.process_ms:.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield from (f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    yield ""
