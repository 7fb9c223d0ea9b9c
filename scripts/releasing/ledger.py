"""The ledger, releases.toml: what was released, and from what. Entries are added at its end and never changed."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from releasing import version

ROOT = version.ROOT
SERVICES = version.SERVICES
PACKAGES = version.PACKAGES
folder = version.folder

VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")


class NotReleased(Exception):
    """There is no such release; the text is a sentence that says what there is."""


def numbers(version: str) -> tuple[int, int, int]:
    """Major, minor and patch of a release. Raises ValueError, for development versions, too."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"'{version}' is not a version such as 1.2.0")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


@dataclass(frozen=True)
class Release:
    """An entry of the ledger."""

    package: str
    version: str
    commit: str
    """The one that is tagged; the entry itself comes in the commit after it."""
    wheel: str
    """Its SHA-256, in hexadecimal, as the following ones."""
    sdist: str
    lock: str = ""
    """Of the file that pins what a service is deployed with; the contracts have none."""
    contracts: str = ""
    """The version of the contracts that a service is deployed with."""

    def __str__(self) -> str:
        return f"{self.package}@{self.version}"

    @property
    def tag(self) -> str:
        """In git."""
        return f"{self.package}-v{self.version}"

    def entry(self) -> str:
        """As it stands in the ledger."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "\n".join(["[[release]]", *(f'{name} = "{value}"' for name, value in values if value), ""])


class Ledger:
    """All releases, oldest first."""

    def __init__(self, root: Path = ROOT) -> None:
        """Reads it; there is none before the first release."""
        self.path = root / "releases.toml"
        entries = tomllib.loads(self.path.read_text()).get("release", []) if self.path.exists() else []
        self.releases: Sequence[Release] = [Release(**entry) for entry in entries]

    def of(self, package: str) -> list[Release]:
        """A package's releases, by version."""
        return sorted((each for each in self.releases if each.package == package), key=lambda r: numbers(r.version))

    def find(self, package: str, version: str) -> Release:
        """Raises NotReleased."""
        for each in self.of(package):
            if each.version == version:
                return each
        there = ", ".join(each.version for each in self.of(package)) or "none yet"
        raise NotReleased(f"{package} {version} is not in {self.path.name}; released: {there}.")

    def latest(self, package: str) -> Release | None:
        """The highest version."""
        return self.of(package)[-1] if self.of(package) else None

    def add(self, release: Release) -> None:
        """Writes an entry at the end."""
        with self.path.open("a") as file:
            file.write(f"\n{release.entry()}" if self.releases else f"{HEADER}\n{release.entry()}")
        self.releases = [*self.releases, release]


HEADER = """\
# The ledger of releases, which scripts/release writes: entries are added at the end, and never changed. `commit` is
# what is tagged and built; the hashes are SHA-256; docs/releasing.md says more.
"""
