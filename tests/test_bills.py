"""A bill of materials names the libraries inside wheels, and cannot be made where nobody has said which they are."""

import ctypes
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from shutil import copy2
from typing import Any

import pytest

from tests.conftest import ROOT

RECORDED = tomllib.loads((ROOT / "images/bundled.toml").read_text())
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))


def deployed() -> Iterator[Distribution]:
    """The packages that the services' lock files name, as they are installed here: in the same versions."""
    names = {
        name
        for lock in ROOT.glob("packages/*/requirements.lock")
        for name in re.findall(r"^[a-z0-9-]+", lock.read_text(), re.MULTILINE)
    }
    for name in sorted(names - {"tzdata"}):
        yield distribution(name)


def machine_code(package: Distribution) -> list[Path]:
    return [Path(str(package.locate_file(file))) for file in package.files or () if re.search(r"\.so(\.|$)", file.name)]


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of an image with the services' dependencies: what says of itself what it is, and machine code."""
    layer = tmp_path_factory.mktemp("layer")
    for package in deployed():
        for file in package.files or ():
            if ".dist-info" in str(file.parent) or re.search(r"\.so(\.|$)", file.name):
                folder, *rest = file.parts
                # As `rename_folders` of images/layer does.
                renamed = folder.capitalize() if folder.endswith(".dist-info") else folder.replace(".libs", "_libs")
                copied = (layer / "dependencies" / renamed).joinpath(*rest)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copy2(str(package.locate_file(file)), copied)
    return layer


def bill(layer: Path, program: Path = ROOT / "images/sbom.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), "souk/test", "7.0.0", f"{ROOT}/images/debian-packages.lock", str(layer)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def bundled(layer: Path) -> dict[str, dict[str, Any]]:
    """The libraries inside each wheel, by their names."""
    done = bill(layer)
    assert done.returncode == 0, done.stderr
    components = json.loads(done.stdout)["components"]
    return {each["name"]: {part["name"]: part for part in each.get("components", ())} for each in components}


def test_a_bill_names_the_libraries_inside_wheels(layer: Path) -> None:
    wheels = bundled(layer)
    assert {"libpq", "krb5", "openldap", "openssl", "cyrus-sasl-lib"} < wheels["psycopg-binary"].keys()
    assert {"boringssl", "c-ares", "re2", "abseil-cpp", "upb", "zlib"} < wheels["grpcio"].keys()
    assert wheels["httptools"]["llhttp"]["purl"] == f"pkg:generic/llhttp@{wheels['httptools']['llhttp']['version']}"
    assert {*wheels["uvloop"]} == {"libuv"}
    assert all(part["version"] for parts in wheels.values() for part in parts.values())


def test_what_is_recorded_is_what_is_locked_and_nothing_else() -> None:
    """Old entries are taken out: a release is built with its own."""
    assert {(name, version) for name, versions in RECORDED.items() for version in versions} == {
        (package.metadata["Name"].lower().replace("_", "-"), LOCKED[package.metadata["Name"].lower().replace("_", "-")])
        for package in deployed()
        if machine_code(package)
    }


def test_recorded_versions_are_those_in_the_machine_code() -> None:
    for name, versions in RECORDED.items():
        package = distribution(name)
        code = b"".join(path.read_bytes() for path in machine_code(package))
        for library, facts in versions[package.version].items():
            assert facts.get("seen", "").encode() in code, library
    (libpq,) = (path for path in machine_code(distribution("psycopg-binary")) if path.name.startswith("libpq-"))
    recorded = RECORDED["psycopg-binary"][LOCKED["psycopg-binary"]]["libpq"]["version"]
    major, minor = divmod(ctypes.CDLL(str(libpq)).PQlibVersion(), 10000)
    assert recorded == f"{major}.{minor}"


def test_a_link_stands_for_a_file_of_debians(layer: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", f"{layer}/.", tmp_path], check=True)
    for name in ("libcrypto", "libssl"):
        (file,) = tmp_path.glob(f"dependencies/psycopg_binary_libs/{name}-*")
        file.unlink()
        file.symlink_to(f"/usr/lib/{name}.so.3")
    assert "openssl" not in bundled(tmp_path)["psycopg-binary"]
    assert "krb5" in bundled(tmp_path)["psycopg-binary"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            f'[grpcio."{LOCKED["grpcio"]}"]',
            '[grpcio."1.0.0"]',
            f"grpcio {LOCKED['grpcio']} has machine code, and images/bundled.toml does not say which libraries are",
        ),
        ('"libpq-*"', '"libpg-*"', "has no libpq, and images/bundled.toml says it has"),
        (', "libldap-*"', "", "and images/bundled.toml does not say which library that is"),
    ],
)
def test_a_wheel_that_nobody_has_looked_into_stops_the_build(
    layer: Path, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    text = (ROOT / "images/bundled.toml").read_text()
    assert old in text
    (tmp_path / "bundled.toml").write_text(text.replace(old, new))
    copy2(ROOT / "images/sbom.py", tmp_path)
    done = bill(layer, tmp_path / "sbom.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


def test_every_package_that_is_deployed_says_its_licence_in_a_file(layer: Path) -> None:
    without = {
        package.metadata["Name"]
        for package in deployed()
        if not any(re.search("(?i)licen[cs]e|copying", file.name) for file in package.files or ())
    }
    assert without <= {"betterproto2"}  # its wheel has none
