"""Which versions may meet: the one place that decides it. README.md and docs/skew.md quote POLICY."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations

from releasing import version

MINORS_APART = 1
POLICY = (
    "Two versions of a service may serve at once on the same database if they have the same major version and their "
    "minor versions differ by at most one. Services of any versions may call each other if the contracts that they "
    "were released with have the same major version."
)


def breaches(versions: Mapping[str, Collection[str]], contracts: Mapping[tuple[str, str], str]) -> Sequence[str]:
    """A sentence for each pair that may not meet.

    `versions` are those of each service; `contracts` says which contracts a version of a service was released with,
    where that is known. A development version counts as the minor that it leads to. Raises ValueError where a version
    is none.
    """
    return [*_beside(versions), *_across(versions, contracts)]


def _beside(versions: Mapping[str, Collection[str]]) -> Iterator[str]:
    for service, found in versions.items():
        for old, new in combinations(sorted(found, key=version.order), 2):
            (major, minor, *_), (new_major, new_minor, *_) = version.order(old), version.order(new)
            if major != new_major:
                yield f"{service} {old} beside {new}: their major versions differ, so they cannot share a database."
            elif new_minor - minor > MINORS_APART:
                yield (
                    f"{service} {old} beside {new}: they are {new_minor - minor} minors apart, "
                    f"but may be at most {MINORS_APART}; change to {major}.{new_minor - MINORS_APART} first."
                )


def _across(versions: Mapping[str, Collection[str]], contracts: Mapping[tuple[str, str], str]) -> Iterator[str]:
    known = [(service, each) for service, found in versions.items() for each in found if (service, each) in contracts]
    for first, second in combinations(known, 2):
        if first[0] != second[0] and _major(contracts[first]) != _major(contracts[second]):
            yield (
                f"{' '.join(first)} beside {' '.join(second)}: they speak contracts {contracts[first]} and "
                f"{contracts[second]}, whose major versions differ."
            )


def _major(text: str) -> int:
    return version.order(text)[0]
