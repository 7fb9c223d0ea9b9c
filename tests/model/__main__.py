"""Explores the model of the order protocol.

Without options: the first states of every world, some minutes. Exit code 1 if a rule does not hold.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.model.explore import Found, every_state, every_state_by_hash, walks
from tests.model.mutations import MOST_STATES, MUTATIONS, Mutation
from tests.model.rules import Rules
from tests.model.worlds import WALKED, WORLDS


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser("python3 -m tests.model", description=__doc__)
    parser.add_argument(
        "--states", type=int, default=100_000, metavar="N",
        help="how many states of each world (%(default)s); 0 for all, which takes hours",
    )  # fmt: skip
    parser.add_argument("--mutations", action="store_true", help="take each rule away, and show what then breaks")
    parser.add_argument("--walks", type=float, metavar="SECONDS", help="walk by chance through bigger worlds instead")
    parser.add_argument("--seed", type=int, default=1, help="of the walks (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="at once (%(default)s)")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        if options.mutations:
            fine = [_show_mutation(*pair) for pair in zip(MUTATIONS, pool.map(_of_mutation, MUTATIONS), strict=True)]
        elif options.walks:
            walk = partial(walks, seed=options.seed, seconds=options.walks)
            fine = [_show(*pair) for pair in zip(WALKED, pool.map(walk, WALKED), strict=True)]
        else:
            look = partial(every_state_by_hash, limit=options.states or sys.maxsize)
            fine = [_show(*pair) for pair in zip(WORLDS, pool.map(look, WORLDS), strict=True)]
    return 0 if all(fine) else 1


def _of_mutation(mutation: Mutation) -> Found:
    return every_state(mutation.rules, MOST_STATES)


def _show(rules: Rules, found: Found) -> bool:
    extent = "all" if found.complete else "the first"
    print(f"{rules.name}: {found.wrong or 'holds'} ({extent} {found.states:,} states)", flush=True)
    _show_trace(found)
    return not found.wrong


def _show_mutation(mutation: Mutation, found: Found) -> bool:
    expected = "harmless" if mutation.harmless else "NOT CAUGHT"
    print(f"{mutation.what}: {found.wrong or expected} ({found.states:,} states)", flush=True)
    _show_trace(found)
    return bool(found.wrong) != mutation.harmless


def _show_trace(found: Found) -> None:
    for label in found.trace:
        print(f"    {label}")


if __name__ == "__main__":
    sys.exit(main())
