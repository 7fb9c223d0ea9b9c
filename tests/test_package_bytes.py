"""A package's sources alone say what is in its wheel and sdist: not the folder they lie in, nor who builds, and how."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from releasing.build import TOOLS_LOCK, _tools
from releasing.ledger import PACKAGES, folder

from tests.conftest import ROOT


def build(source: Path, out: Path, **environment: str) -> tuple[Path, Path]:
    """A package's wheel and sdist, built with the locked tools as `hatch build` does, and no care for anything else."""
    python = _tools(ROOT / TOOLS_LOCK)
    out.mkdir()
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    # What the package is called may depend on the history, which these copies do not have.
    named = {"PATH": path, "SOUK_VERSION": "7.0.0", **environment}
    done = subprocess.run(
        [python, "-m", "hatchling", "build", "--directory", out],
        cwd=source,
        env={**os.environ, **named},
        umask=int(environment.get("UMASK", "022"), 8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def digests(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def unpacked(sdist: Path, into: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    return into / sdist.name.removesuffix(".tar.gz")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What of the repository has to do with packages."""
    place = tmp_path / "souk"
    ignored = shutil.ignore_patterns("__pycache__", "tests", ".mypy_cache", "dist")
    for name in ("contracts", "packages"):
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for name in (".gitignore", "LICENSE", "ruff.toml"):
        shutil.copy(ROOT / name, place)
    subprocess.run(["git", "init", "--quiet", place], check=True)
    return place


@pytest.fixture
def hostile(tree: Path, tmp_path: Path) -> Path:
    """The same in a project that formats and ignores files otherwise, and whose tree another version was built in."""
    other = tmp_path / "other"
    shutil.copytree(tree, other / "vendor", ignore=shutil.ignore_patterns(".git", ".gitignore", "ruff.toml"))
    for package in PACKAGES:  # each package has its own
        shutil.copy(tree / folder(package) / ".gitignore", other / "vendor" / folder(package))
    settings = "line-length = 40\nformat.quote-style = 'single'\nlint.isort.known-first-party = ['typing']\n"
    (other / "pyproject.toml").write_text("[tool.ruff]\n" + settings)
    (other / "ruff.toml").write_text(settings)
    (other / ".gitignore").write_text("*.py\n*.proto\nLICENSE\nCHANGELOG.md\nsrc/\n")
    subprocess.run(["git", "init", "--quiet", other], check=True)
    stale = other / "vendor/contracts/src/souk_contracts/shop/v1/rpc.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    return other / "vendor"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_same_wherever_it_is_built(package: str, tree: Path, hostile: Path, tmp_path: Path) -> None:
    here = build(tree / folder(package), tmp_path / "here")
    home = tmp_path / "home"
    (home / ".config/ruff").mkdir(parents=True)
    (home / ".config/ruff/ruff.toml").write_text("line-length = 60\n")
    # An encoding of ASCII is the worst that a locale does.
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu", "UMASK": "077"}
    ruff = {"RUFF_LINE_LENGTH": "50", "RUFF_CONFIG": str(home / ".config/ruff/ruff.toml"), "RUFF_NO_CACHE": "true"}
    there = build(hostile / folder(package), tmp_path / "there", HOME=str(home), PYTHONHASHSEED="5", **locale, **ruff)
    assert digests(*there) == digests(*here)
    again = build(unpacked(here[1], tmp_path / "unpacked"), tmp_path / "again")
    assert digests(*again) == digests(*here)


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_and_sdist_carry_the_licence_and_name_it(package: str, tree: Path, tmp_path: Path) -> None:
    wheel, sdist = build(tree / folder(package), tmp_path / "out")
    licence = (ROOT / "LICENSE").read_bytes()
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        said = message_from_bytes(files.read(metadata))
        assert files.read(metadata.replace("METADATA", "licenses/LICENSE")) == licence
    assert (said["License-Expression"], said.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    place = unpacked(sdist, tmp_path)
    assert (place / "LICENSE").read_bytes() == licence
    assert message_from_bytes((place / "PKG-INFO").read_bytes())["License-File"] == "LICENSE"
