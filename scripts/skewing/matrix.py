"""The matrix: every combination of versions over the four services, on one set of databases.

The participants of all versions run all the time. Of orders one process runs at a time: its relay takes what is due
from a database that all share, so with two of them a combination would be served by a third version, too.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from releasing.ledger import SERVICES

from skewing.installed import Installed
from skewing.processes import DIRECTLY, Failed, Process, free_addresses
from skewing.scenarios import Outcome, Suite

BACKENDS = SERVICES[1:]
READY_S = 30.0

Combination = tuple[Installed, Installed, Installed, Installed]
"""In the order of SERVICES: gateway, orders, reservations, loyalty."""


@dataclass(frozen=True)
class Cell:
    """A combination, and what became of the scenarios, by suite."""

    versions: Combination
    outcomes: Mapping[str, Outcome]

    @property
    def green(self) -> bool:
        """Whether all scenarios passed, and there were some."""
        return all(each.passed and not each.failed for each in self.outcomes.values())


def combinations(versions: Mapping[str, Sequence[Installed]]) -> Sequence[Combination]:
    """All of them, the last service's version changing fastest."""
    return [(g, o, r, loyalty) for g, o, r, loyalty in product(*(versions[service] for service in SERVICES))]


def migrate(versions: Mapping[str, Sequence[Installed]], data: Path) -> None:
    """Expands each database: the old schema first, where there is an old version. Raises Failed."""

    def expand(service: str) -> None:
        for each in versions[service]:
            Process(each, "127.0.0.1:0", data, {}).migrate()

    with ThreadPoolExecutor() as threads:
        list(threads.map(expand, BACKENDS))


def run(
    wanted: Sequence[Combination], suites: Sequence[Suite], data: Path, say: Callable[[str], None]
) -> Iterator[Cell]:
    """Gives the cells as they are done. Raises Failed where a process does not do what it should."""
    participants = dict.fromkeys(each for cell in wanted for each in cell[2:])
    (orders_address,) = free_addresses(1)
    with _running([Process(each, address, data, {}) for each, address in _addresses(participants)]) as processes:
        addresses = {each.what: each.address for each in processes}
        for called in dict.fromkeys(cell[2:] for cell in wanted):
            cells = [cell for cell in wanted if cell[2:] == called]
            targets = {each.service: addresses[each] for each in called}
            to_all = {**targets, "orders": orders_address}
            gateways = dict.fromkeys(cell[0] for cell in cells)
            with _running([Process(each, at, data, to_all) for each, at in _addresses(gateways)]) as running:
                urls = {each.what: f"http://{each.address}" for each in running}
                for orders in dict.fromkeys(cell[1] for cell in cells):
                    with _running([Process(orders, orders_address, data, targets)]):
                        yield from _at_once([cell for cell in cells if cell[1] == orders], suites, urls, say)


def _at_once(
    cells: Sequence[Combination], suites: Sequence[Suite], urls: Mapping[Installed, str], say: Callable[[str], None]
) -> Iterator[Cell]:
    """The cells that differ in their gateway alone, side by side; of each one suite at a time."""

    def outcomes(cell: Combination) -> Mapping[str, Outcome]:
        _ready(urls[cell[0]], cell)
        return {suite.name: suite.run(urls[cell[0]], cell) for suite in suites}

    with ThreadPoolExecutor() as threads:
        for cell, found in zip(cells, threads.map(outcomes, cells), strict=True):
            done = Cell(cell, found)
            say(f"{', '.join(map(str, cell))}: {'passed' if done.green else 'FAILED'}")
            yield done


def _ready(url: str, cell: Combination) -> None:
    """Returns once the gateway has found all that it calls, and all are what they should be. Raises Failed."""
    deadline = time.monotonic() + READY_S
    wanted = {each.service: each.version for each in cell}
    found: Mapping[str, str] = {}
    while found != wanted:
        if time.monotonic() > deadline:
            raise Failed(f"{cell[0]} should reach {wanted}, but after {READY_S:.0f} s it reaches {found}.")
        time.sleep(0.05)
        with suppress(OSError, ValueError), DIRECTLY.open(f"{url}/v1/versions", timeout=5) as answer:
            found = json.load(answer)


def _addresses(versions: Collection[Installed]) -> Iterable[tuple[Installed, str]]:
    return zip(versions, free_addresses(len(versions)), strict=True)


@contextmanager
def _running(processes: Sequence[Process]) -> Iterator[Sequence[Process]]:
    """Starts them at once, and stops them in the end. Raises Failed."""
    with ExitStack() as stack:
        for each in processes:
            stack.callback(each.kill)
            each.spawn()
        for each in processes:
            each.serving()
        yield processes
        for each in processes:
            each.stop()
