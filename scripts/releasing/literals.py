"""What a release changes in a package's pyproject.toml: its version, and how old its contracts may be."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from releasing.build import git
from releasing.ledger import ROOT, folder, numbers

_VERSION = re.compile(r'(?<=^\[tool\.souk\]\nversion = ")[^"]+', re.MULTILINE)
_FLOOR = re.compile(r'(?<="souk-contracts>=)(\d+\.\d+\.\d+)\.dev0')


def file(package: str) -> Path:
    """The one that says them."""
    return ROOT / folder(package) / "pyproject.toml"


def set_version(package: str, new: str) -> None:
    """Says which version the package is, or will be. Raises ValueError where the file has no place for it."""
    text, count = _VERSION.subn(new, file(package).read_text())
    if count != 1:
        raise ValueError(f"{file(package)} has no [tool.souk] with a version below it")
    file(package).write_text(text)


def following(released: str) -> str:
    """What the tree says after a release: the next minor version is being made."""
    major, minor, _ = numbers(released)
    return f"{major}.{minor + 1}.0.dev0"


def is_all_that_differs(path: str, since: str) -> bool:
    """Whether a file that has changed since a commit says another version, and that is all."""
    if not path.endswith("/pyproject.toml"):
        return False
    then, now = (_VERSION.sub("", git("cat-file", "blob", f"{commit}:{path}")) for commit in (since, "HEAD"))
    return then == now


def contracts_of(package: str) -> SpecifierSet:
    """The contracts that a service says it needs."""
    needed = map(Requirement, tomllib.loads(file(package).read_text())["project"]["dependencies"])
    (contracts,) = (each for each in needed if each.name == "souk-contracts")
    return contracts.specifier


def close_floor(package: str) -> None:
    """Makes the floor of the contracts their release where it is what came before.

    For pip, a floor that is a development version is leave to install others.
    """
    file(package).write_text(_FLOOR.sub(r"\1", file(package).read_text()))
