"""Runs old and new versions of the services in every combination, and checks which versions a compose file brings
together.

    ./scripts/skew                        the matrix, then a rolling upgrade and downgrade
    ./scripts/skew check compose/mixed.yaml
    ./scripts/skew row orders skew.json

Exit codes: 0 all is well, 1 it is not, 2 bad usage. docs/skew.md says more.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from releasing import version
from releasing.build import CannotBuild
from releasing.ledger import ROOT, SERVICES, Ledger, NotReleased

from skewing import compose, matrix, report
from skewing.installed import installed
from skewing.policy import breaches
from skewing.processes import Failed
from skewing.rolling import roll
from skewing.scenarios import suites

DOCUMENT = ROOT / "docs/skew.md"
IN_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of its own is made in it)
"""Where the databases are, if there is such a place: no power is cut here, so nobody need wait for a disk."""


def say(text: str) -> None:
    """For people, beside what is for machines."""
    print(text, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    """The matrix."""
    started = time.monotonic()
    seed = int(os.environ.get("SOUK_SKEW_SEED") or random.randrange(10**6))  # noqa: S311 (to be replayed)
    say(f"SOUK_SKEW_SEED={seed}")
    versions = installed(say)
    if not Ledger().releases:
        say("Nothing is released yet, so the tree runs only beside itself.")
    every = matrix.combinations(versions)
    wanted = [each for each in every if not options.cell or tuple(one.age for one in each) in options.cell]
    if not wanted:
        say("No combination matches --cell: a service without a release has no old version.")
        return 1
    say(f"{time.monotonic() - started:.0f} s to build and install; {len(wanted)} combinations to run")
    with (
        TemporaryDirectory(prefix="souk-skew-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as data,
        suites(each for found in versions.values() for each in found) as all_suites,
    ):
        matrix.migrate(versions, Path(data))
        cells = list(matrix.run(wanted, all_suites, Path(data), say))
        rolled = None if options.no_rolling else asyncio.run(roll(versions, Path(data), seed, say))
    print(report.table(cells))
    for cell in cells:
        for suite, outcome in cell.outcomes.items():
            for name, why in outcome.failed.items():
                say(f"\n{', '.join(map(str, cell.versions))}: {name}, a scenario of {suite}:\n{why}")
    if rolled is not None:
        print(f"\n{report.as_sentence(rolled)}")
    if options.json:
        options.json.write_text(report.as_json(versions, cells, rolled) + "\n")
    if options.write:
        DOCUMENT.write_text(report.as_markdown(cells, rolled))
    green = all(cell.green for cell in cells) and not (rolled and rolled.wrong)
    say(f"{time.monotonic() - started:.0f} s in all; {'green' if green else f'FAILED, with SOUK_SKEW_SEED={seed}'}")
    return 0 if green else 1


def check(options: argparse.Namespace) -> int:
    """Compose files against the policy."""
    ledger = Ledger()
    released = {service: [each.version for each in ledger.of(service)] for service in SERVICES}
    tree = {service: version.of_tree(service).text for service in SERVICES}
    contracts = {(each.package, each.version): each.contracts for each in ledger.releases if each.contracts}
    contracts |= dict.fromkeys(tree.items(), version.of_tree("contracts").text)
    wrong = 0
    for file in options.files:
        versions = compose.versions(file, os.environ, released, tree)
        found = breaches(versions, contracts)
        wrong += len(found)
        for sentence in found:
            say(f"{file}: {sentence}")
        if not found:
            runs = ", ".join(f"{service} {' and '.join(sorted(each))}" for service, each in sorted(versions.items()))
            print(f"{file}: these versions may meet: {runs}")
    return 1 if wrong else 0


def row(options: argparse.Namespace) -> int:
    """A changelog's line."""
    print(report.row(options.package, options.file))
    return 0


def _cell(text: str) -> Sequence[str]:
    ages = tuple(text.split(","))
    if len(ages) != len(SERVICES) or not {*ages} <= {"old", "new"}:
        raise ValueError
    return ages


def _terminate(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # by way of whatever stops the processes


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser("skew", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    parser.add_argument("--write", action="store_true", help="write the result to docs/skew.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE as JSON")
    parser.add_argument(
        "--cell", type=_cell, action="append", default=[], metavar="AGES",
        help=f"run only this combination, such as old,new,old,old for {','.join(SERVICES)}; may be repeated",
    )  # fmt: skip
    parser.add_argument("--no-rolling", action="store_true", help="skip the rolling upgrade and downgrade")
    commands = parser.add_subparsers(metavar="")
    checking = commands.add_parser("check", help="refuse compose files whose versions may not meet")
    checking.add_argument("files", nargs="+", type=Path, metavar="FILE")
    checking.set_defaults(run=check)
    rowing = commands.add_parser("row", help="print the changelog's line about a run")
    rowing.add_argument("package", choices=SERVICES)
    rowing.add_argument("file", type=Path, metavar="FILE", help="what --json wrote")
    rowing.set_defaults(run=row)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = options.run(options)
    except (CannotBuild, NotReleased, Failed, compose.Unreadable, report.NoRow) as error:
        say(str(error))
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
