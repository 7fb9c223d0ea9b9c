"""Compares this tree with every release that it must work with, and reports what would break that release."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from releasing.build import CannotBuild
from releasing.ledger import Ledger, NotReleased

from growing import exceptions, exchange, migrations, openapi, protos, versions
from growing.findings import CannotCheck, Finding
from souk_contracts import __version__


def contracts(ledger: Ledger) -> Iterator[Finding]:
    """Against every released version of this tree's major, but for what exceptions are made for."""
    yield from exceptions.unexcused(_of_contracts(ledger), exceptions.listed())


def _of_contracts(ledger: Ledger) -> Iterator[Finding]:
    releases = versions.of_major(ledger, "contracts", __version__)
    if not releases:
        _say(f"no contracts of major version {__version__.partition('.')[0]} are released yet, so nothing is compared")
    new = versions.of_tree()
    for release in releases:
        _say(f"comparing the contracts of this tree with {release}")
        with versions.released(release) as old:
            yield from protos.shrunk(old, new)
            yield from openapi.shrunk(old.openapi, new.openapi)
            yield from exchange.misunderstood(old, new)


def schemas(ledger: Ledger) -> Iterator[Finding]:
    """Against the newest release of each minor version of a service, as many at a time as there are processors."""
    with ExitStack() as checkouts, ThreadPoolExecutor(os.cpu_count()) as at_once:
        found = []
        for service in migrations.SERVICES:
            releases = migrations.supported(service, ledger)
            if not releases:
                _say(f"no {service} is released yet, so its migrations break nobody")
            for release in releases:
                _say(f"testing {release} on a database that this tree has migrated")
                old = checkouts.enter_context(migrations.released(release, ledger))
                harmed = partial(migrations.harmed, service, old, migrations.source(service))
                found.append(at_once.submit(harmed, last=release == ledger.latest(service)))
        for each in found:
            yield from each.result()


CHECKS: dict[str, Callable[[Ledger], Iterator[Finding]]] = {"contracts": contracts, "migrations": schemas}


def main() -> None:
    """Exit codes: 0 nothing breaks, 1 something does or a check failed to run, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="growth", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="check", help=f"{' or '.join(CHECKS)} (all of them)")
    chosen = parser.parse_args().checks or list(CHECKS)
    if unknown := set(chosen) - CHECKS.keys():
        parser.error(f"there is no check '{unknown.pop()}'; the checks are {', '.join(CHECKS)}")
    ledger = Ledger()
    try:
        found = [finding for name in chosen for finding in CHECKS[name](ledger)]
    except (CannotCheck, CannotBuild, NotReleased) as error:
        sys.exit(f"growth: {error}")
    for finding in found:
        print(finding)
    if found:
        sys.exit(f"growth: {len(found)} found; docs/contracts.md explains each rule and what to do")


def _say(text: str) -> None:
    print(f"growth: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
