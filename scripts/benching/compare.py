"""The working tree beside another revision of itself: does an order cost more processor time than it did?

    ./scripts/bench compare REVISION             about ten minutes
    ./scripts/bench compare v1 --rounds 2 --seconds 1
    ./scripts/bench compare REVISION --write     and write the table in docs/benchmarks.md

Exit codes: 0 measured, 1 it could not be, 2 bad usage. docs/benchmarks.md says what is measured, and how.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from releasing.build import CACHE
from skewing.installed import of_revision, of_tree

from benching import load
from benching.load import number
from benching.measures import turn
from benching.report import Target, at_most, table, target_rows
from benching.stacks import CUSTOMERS, Souk

MARK = "<!-- written by ./scripts/bench compare --write -->\n"
_CONNECTIONS = 64
_SURE = 0.95

Say = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Processor seconds per 1,000 orders of both, round by round."""

    revision: str
    old: Sequence[float]
    new: Sequence[float]

    def ratios(self) -> Sequence[float]:
        return sorted(new / old for old, new in zip(self.old, self.new, strict=True))

    def targets(self) -> Iterator[Target]:
        """What is asked for, and what was reached."""
        yield at_most(
            f"processor time of an order ÷ that at {self.revision}: the median of {len(self.old)} rounds",
            1.03,
            statistics.median(self.ratios()),
        )

    def text(self) -> str:
        """Tables in Markdown."""
        low, high = interval(self.ratios())
        rows = [
            (self.revision, f"{statistics.median(self.old):.3f}", ""),
            ("this tree", f"{statistics.median(self.new):.3f}", ""),
            ("ratio", f"{statistics.median(self.ratios()):.3f}", f"{low:.3f} to {high:.3f}"),
        ]
        head = ("revision", "CPU s per 1,000 orders, median", f"interval of the median ({_SURE:.0%})")
        return "\n".join([*target_rows(self.targets()), *table(head, rows)])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what sorted values are a sample of lies, whatever their distribution: by the sign test.

    With fewer than six values, it is all of them, and less than sure.
    """
    count, chance, skipped = len(values), 0.0, 0
    for place in range(count // 2):
        chance += math.comb(count, place) / 2**count
        if chance > (1 - _SURE) / 2:
            break
        skipped = place
    return values[skipped], values[count - 1 - skipped]


def main(arguments: Sequence[str], say: Say) -> Comparison:
    """Raises Failed, CannotBuild, NoLoad."""
    parser = argparse.ArgumentParser(
        "bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="what to compare with, as git names it")
    parser.add_argument("--rounds", type=number, default=40, metavar="N", help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=number, default=4, metavar="S", help="length of a turn (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as JSON")
    parser.add_argument("--write", action="store_true", help="write the table in docs/benchmarks.md")
    options = parser.parse_args(arguments)
    found = measure(options.revision, options.rounds, options.seconds, say)
    if options.json:
        targets = [asdict(target) for target in found.targets()]
        options.json.write_text(json.dumps({**asdict(found), "targets": targets}, indent=1) + "\n")
    return found


def measure(revision: str, rounds: int, seconds: int, say: Say) -> Comparison:
    """Raises Failed, CannotBuild, NoLoad."""
    versions = {"old": of_revision(revision), "new": of_tree()}
    CACHE.mkdir(parents=True, exist_ok=True)
    souks: dict[str, Souk] = {}
    cpu_s: dict[str, list[float]] = {name: [] for name in versions}
    with TemporaryDirectory(prefix="bench-", dir=CACHE) as folder:
        try:
            for name, installed in versions.items():
                (data := Path(folder) / name).mkdir()
                souks[name] = Souk(name, installed, data)
                souks[name].fill()
                load.drive(souks[name].address, connections=16, seconds=2, customers=CUSTOMERS)
                souks[name].settle()
            for number in range(rounds):
                # Each first as often as the other.
                for name in list(versions) if number % 2 == 0 else reversed(list(versions)):
                    taken = turn(souks[name], _CONNECTIONS, seconds)
                    cpu_s[name].append(sum(taken.cpu_s.values()))
                say(f"round {number + 1}: {cpu_s['old'][-1]:.3f} and {cpu_s['new'][-1]:.3f} CPU s per 1,000 orders")
            for souk in souks.values():
                souk.audit()
        finally:
            for souk in souks.values():
                souk.stop()
    return Comparison(revision, cpu_s["old"], cpu_s["new"])
