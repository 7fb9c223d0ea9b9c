"""Migrations: a released version of a service goes on working on a database that this tree has migrated.

Nothing tells better what a version reads and writes than its own tests. They are taken from its commit, and run on its
own code, with two things exchanged: the migrations that make their databases are those of this tree, and so is the
PostgreSQL server that they run on.
"""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from releasing.build import built, checkout
from releasing.ledger import ROOT, Ledger, Release, numbers

from growing.findings import CannotCheck, Finding
from growing.versions import extract

SERVICES = ("orders", "reservations", "loyalty")
"""Those with a database."""

LEFT_OUT = "migrations_make"
"""Tests of this name compare the schema with the code's tables, and would refuse what a later migration adds."""

_TESTS_FAILED = 1
"""pytest's exit code."""


@dataclass(frozen=True)
class Old:
    """A released version of a service, as it is deployed."""

    version: str
    wheel: Path
    contracts: Path
    """The wheel of the contracts that it is deployed with."""
    sources: Path
    """A folder laid out as the repository, with its tests."""


@contextmanager
def released(release: Release, ledger: Ledger) -> Iterator[Old]:
    """One from the ledger, with its tests from its commit. Raises CannotBuild, NotReleased."""
    contracts = ledger.find("contracts", release.contracts)
    with checkout(release.commit, f"packages/{release.package}/tests", "pytest.ini") as sources:
        shutil.copy(ROOT / "conftest.py", sources)  # the server that they run on
        yield Old(release.version, built(release).wheel, built(contracts).wheel, sources)


def supported(service: str, ledger: Ledger) -> list[Release]:
    """The newest release of each minor version."""
    newest = {numbers(release.version)[:2]: release for release in ledger.of(service)}
    return list(newest.values())


def source(service: str) -> Path:
    """Where this tree's code of a service is imported from."""
    return ROOT / "packages" / service / "src"


def harmed(service: str, old: Old, new: Path, *, last: bool) -> list[Finding]:
    """What the migrations below the folder `new`, from which the service's package is imported, do to an old version.

    `last` says that it is the last release, which a migration must never leave out. Raises CannotCheck.
    """
    place = f"{service}@{old.version}"
    with tempfile.TemporaryDirectory(prefix="souk-migrations-") as folder:
        installed = Path(folder)
        extract(old.wheel, installed)
        extract(old.contracts, installed)
        before = installed / f"souk_{service}" / "migrations" / "versions"
        after = new / f"souk_{service}" / "migrations" / "versions"
        if edited := [path.name for path in _scripts(before) if not _same(path, after / path.name)]:
            text = (
                f"{', '.join(edited)} changed, but databases that ran it will not run it again; write a new migration"
            )
            return [Finding("MIGRATION_EDITED", place, text)]
        if len(_scripts(after)) == len(_scripts(before)):
            return []
        oldest = _oldest_version(service, new, installed)
        if numbers(old.version) < numbers(oldest):
            text = f"the newest migration works only with {oldest} or later, so not with the last release"
            return [Finding("MIGRATION_LEAVES_OUT_LAST_RELEASE", place, text)] if last else []
        shutil.rmtree(before.parent)
        shutil.copytree(after.parent, before.parent, ignore=shutil.ignore_patterns("__pycache__"))
        return list(_failures(service, place, installed, old.sources))


def _scripts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.read_bytes() == other.read_bytes()


def _oldest_version(service: str, new: Path, folder: Path) -> str:
    """What the migrations write into a database as the oldest version that can work with it."""
    database = folder / "migrated.db"
    environment = {f"SOUK_{service.upper()}_DATABASE_URL": f"sqlite:///{database}"}
    done = _python(["-m", f"souk_{service}", "migrate"], new, folder, environment)
    if done.returncode:
        raise CannotCheck(f"the migrations of {service} cannot be run:\n{done.stderr}")
    with closing(sqlite3.connect(database)) as connection:
        oldest: str = connection.execute("SELECT oldest_version FROM schema_support").fetchone()[0]
    return oldest


def _failures(service: str, place: str, installed: Path, sources: Path) -> Iterator[Finding]:
    where = _python(["-c", f"import souk_{service}; print(souk_{service}.__file__)"], installed, sources)
    if not Path(where.stdout.strip()).is_relative_to(installed):
        raise CannotCheck(f"{place} was expected in {installed}, and found in {where.stdout or where.stderr}")
    tests = [f"packages/{service}/tests/test_{service}_{kind}.py" for kind in ("storage", "rpc")]
    options = [
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        "--tb=no",
        "-k",
        f"not {LEFT_OUT}",
    ]
    by_chance: list[str] = []
    while True:
        done = _python([*options, *by_chance, *tests], installed, sources)
        failure = re.search(r"^(?:FAILED|ERROR) ((.+?)(?: - .*)?)$", done.stdout, re.MULTILINE)
        if done.returncode != _TESTS_FAILED or not failure:
            break
        # What a migration breaks fails each time. A test may fail now and then, and stays as it was released: one of
        # orders 1.0.0 takes for granted that two leases at once never pass over the same message.
        if _python([*options, failure[2]], installed, sources).returncode:
            text = f"on a database that this tree has migrated, its own tests fail; the first one is {failure[1]}"
            yield Finding("MIGRATION_BREAKS_RELEASE", place, text)
            return
        by_chance += ["--deselect", failure[2]]
    if done.returncode:
        raise CannotCheck(f"the tests of {place} cannot be run:\n{done.stdout}{done.stderr}")


def _python(
    arguments: list[str], path: Path, folder: Path, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(settings or {}), "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", *arguments]  # nothing is imported from where it runs
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
