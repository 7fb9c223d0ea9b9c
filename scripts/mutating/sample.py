"""Which mutants are tried."""

import random
from collections.abc import Mapping, Sequence

from mutating.mutants import Mutant


def sample(every: Mapping[str, Sequence[Mutant]], count: int, seed: int) -> list[Mutant]:
    """Some of the mutants, by module: of each module in proportion to their number, in an order by chance.

    The same seed picks the same ones, and with a larger count nearly all of these again.
    """
    total = sum(len(each) for each in every.values())
    count = min(count, total)
    exact = {name: count * len(each) / total for name, each in every.items() if each}
    taken = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (taken[name] - exact[name], name))
    for name in by_rest[: count - sum(taken.values())]:
        taken[name] += 1
    picked: list[Mutant] = []
    for name, number in taken.items():
        picked += random.Random(f"{seed} {name}").sample(every[name], len(every[name]))[:number]  # noqa: S311 (to be repeated)
    random.Random(seed).shuffle(picked)  # noqa: S311 (to be repeated)
    return picked
