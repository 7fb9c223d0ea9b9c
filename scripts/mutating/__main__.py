"""Takes a sample of mutants of the core modules, and says which of them survive their tests.

A mutant is a small change to the source, such as `<=` in place of `<`. One that no test notices shows what is not
tested, or not needed. Each is tested in a copy of the tree. Exit codes: 0 all were tried, 1 the tests fail without a
mutant, 2 bad usage. docs/mutants.md says more.
"""

import argparse
import asyncio
import random
import signal
import sys
from pathlib import Path

from mutating import results
from mutating.copies import NotThisCopy
from mutating.modules import CORE
from mutating.results import Result
from mutating.trial import DoNotPass, Trial

ROOT = Path(__file__).parents[2]


async def _interruptible(trial: Trial, count: int, workers: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await trial.run(count, workers)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser(
        "mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, metavar="N", help="picks the same mutants again (a new one each time)")
    parser.add_argument("--count", type=_positive, default=200, metavar="N", help="how many are tried (%(default)s)")
    parser.add_argument(
        "--workers", type=_positive, default=2, metavar="N", help="how many are tried at the same time (%(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CORE, default=[*CORE], metavar="MODULE",
        help="of these modules only: " + ", ".join(CORE),
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="add each result to FILE as a line of JSON; what FILE already has for the seed is not tried again",
    )  # fmt: skip
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed  # noqa: S311 (to be repeated)
    _say(f"seed {seed}")
    file: Path | None = options.json

    def keep(result: Result) -> None:
        if file:
            results.append(file, result)

    known = results.read(file, seed) if file else {}
    trial = Trial(ROOT, {name: CORE[name] for name in options.only}, seed, _say, keep, known)
    try:
        asyncio.run(_interruptible(trial, options.count, options.workers))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except (DoNotPass, NotThisCopy) as error:
        print(error, file=sys.stderr)
        return 1
    print("", *results.summary(trial.found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
