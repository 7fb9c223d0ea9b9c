"""Versions of the contracts, laid out as the checks need them."""

import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from releasing import version
from releasing.build import Built, built
from releasing.ledger import ROOT, Ledger, Release, numbers


@dataclass(frozen=True)
class Contracts:
    """One version of the contracts."""

    name: str
    """As findings call it."""
    protos: Path
    """The folder of the .proto files."""
    openapi: Path
    """The folder of the OpenAPI files."""
    path: Path
    """The folder to import the package from that was generated from them."""


def of_tree(contracts: Path = ROOT / "contracts", name: str = "this tree") -> Contracts:
    """Those of a `contracts` folder, with what was generated in it last."""
    return Contracts(name, contracts / "proto", contracts / "openapi", contracts / "src")


@contextmanager
def unpacked(files: Built, name: str) -> Iterator[Contracts]:
    """Those of a wheel and its sdist, in a folder that is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="souk-contracts-") as into:
        folder = Path(into)
        extract(files.wheel, folder / "wheel")
        with tarfile.open(files.sdist) as sdist:
            sdist.extractall(folder / "sdist", filter="data")
        (sources,) = (folder / "sdist").iterdir()
        yield Contracts(name, sources / "proto", sources / "openapi", folder / "wheel")


@contextmanager
def released(release: Release) -> Iterator[Contracts]:
    """Those of a release, as `unpacked`. Raises CannotBuild."""
    with unpacked(built(release), str(release)) as contracts:
        yield contracts


def extract(wheel: Path, into: Path) -> None:
    """All that installing a wheel of pure Python comes to, where its dependencies are there already."""
    with zipfile.ZipFile(wheel) as files:
        files.extractall(into)  # noqa: S202 (it is of our own making)


def of_major(ledger: Ledger, package: str, said: str) -> list[Release]:
    """The releases of a package that bear the same major as a version, by version."""
    return [each for each in ledger.of(package) if numbers(each.version)[0] == version.order(said)[0]]
