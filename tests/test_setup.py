"""`setup` of scripts/env.sh, in clones as strangers have them, with packages that are small and need nothing."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

MEMBERS = ("contracts", "packages/gateway", "packages/orders", "packages/reservations", "packages/loyalty")
PROJECT = """
[build-system]
requires = ["pip"]  # what an isolated build would have to fetch
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = '''
"""Installs a package in place, as hatchling does."""
import os
import zipfile
from pathlib import Path

here = Path.cwd()
name = "souk_" + here.name

assert "SOUK_VERSION" not in os.environ, "one version for five packages"

def build_editable(folder, settings=None, metadata=None):
    (here / f"src/{name}/message_pool.py").touch()
    files = {
        f"{name}.pth": str(here / "src"),
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n",
        f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{name}-1.dist-info/RECORD"] = "".join(f"{path},,\\n" for path in files)
    with zipfile.ZipFile(Path(folder) / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
    return f"{name}-1-py3-none-any.whl"
'''
SETUP = 'set -euo pipefail; umask 077; cd "$1"; . scripts/env.sh; setup run'
HOSTILE = {
    "PYTHONHOME": "/no/such", "PYTHONPATH": "/no/such", "PYTHONOPTIMIZE": "2", "VIRTUAL_ENV": "/no/such",
    "PIP_TARGET": "/no/such", "PIP_USER": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1",
    "GIT_DIR": "/no/such", "CDPATH": "/", "SOUK_VERSION": "7.0.0",
}  # fmt: skip
"""What a user may have set for other things; without an index, whatever would be fetched is missed."""


def tree(place: Path) -> Path:
    """A tree that is laid out as this one."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "scripts", place / "scripts", ignore=ignore)
    (place / "images").mkdir()
    (place / "packages").mkdir()
    (place / "packages/version.py").write_text("def try_to_write(): pass\n")  # their versions are not the question
    for member in MEMBERS:
        name = f"souk_{Path(member).name}"
        (place / member / "src" / name).mkdir(parents=True)
        (place / member / "src" / name / "__init__.py").touch()
        (place / member / "pyproject.toml").write_text(PROJECT)
        (place / member / "backend.py").write_text(BACKEND)
        (place / member / "requirements.lock").touch()
    (place / "images/wheel-tools.lock").touch()
    (place / "requirements-dev.lock").touch()
    return place


def start(place: Path, **environment: str) -> subprocess.Popen[str]:
    # Without that of these tests, which `scripts/test` names to what it starts.
    outside = {name: value for name, value in os.environ.items() if name != "SOUK_VENV"}
    return subprocess.Popen(
        ["bash", "-c", SETUP, "setup", place],
        env={**outside, **HOSTILE, "PYTHON": sys.executable, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def set_up(place: Path, **environment: str) -> str:
    """Gives what is said."""
    process = start(place, **environment)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def refused(place: Path, **environment: str) -> str:
    """Gives the sentence, which is one."""
    process = start(place, **environment)
    _, said = process.communicate()
    assert (process.returncode, said.count("\n")) == (1, 1), said
    return said


def imports(place: Path) -> Path:
    """The folder that its environment takes the packages from."""
    code = "import importlib.util; print(importlib.util.find_spec('souk_orders').origin)"
    done = subprocess.run([place / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).parents[4]


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that is set up; tests copy it."""
    place = tree(tmp_path_factory.mktemp("souk") / "it's a süß ‘souk’")
    said = set_up(place)
    assert [line[:8] for line in said.splitlines()] == ["Setting ", *(f"  {n} of 3" for n in (1, 2, 3)), "  done, "]
    assert imports(place) == place
    return place


@pytest.fixture
def copy(ready: Path, tmp_path: Path) -> Path:
    return shutil.copytree(ready, tmp_path / "copy", symlinks=True)


def test_what_is_set_up_is_left_alone(ready: Path) -> None:
    before = (ready / ".venv/souk-run").stat().st_mtime_ns
    assert set_up(ready) == ""
    assert (ready / ".venv/souk-run").stat().st_mtime_ns == before


def test_a_copy_is_set_up_anew_and_imports_nothing_of_the_old_folder(ready: Path, copy: Path) -> None:
    assert imports(copy) == ready
    assert f"was set up for {ready}, and this is {copy}. Setting it up anew." in set_up(copy)
    assert imports(copy) == copy
    assert imports(ready) == ready


@pytest.mark.long
def test_an_environment_whose_python_has_gone_is_set_up_anew(copy: Path) -> None:
    for link in (copy / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/no/such/python")
    assert "Setting it up anew." in set_up(copy)
    assert imports(copy) == copy


def test_an_environment_of_another_python_is_set_up_anew(tmp_path: Path) -> None:
    setting_up = runpy.run_path(str(ROOT / "scripts/setup_venv.py"))
    (tmp_path / "souk-run").write_text(json.dumps({**setting_up["wanted"](), "python": "3.10"}))
    assert "was set up for Python 3.10" in setting_up["reason_to_begin_anew"](tmp_path)


def test_an_environment_that_another_version_of_souk_set_up_is_set_up_anew(tmp_path: Path) -> None:
    setting_up = runpy.run_path(str(ROOT / "scripts/setup_venv.py"))
    (tmp_path / "souk-dev").write_text('{"sources": ""}')
    assert "was not set up to the end" in setting_up["reason_to_begin_anew"](tmp_path)


@pytest.mark.long
def test_a_setup_that_is_interrupted_says_nothing_more_and_is_begun_anew(tmp_path: Path) -> None:
    place = tree(tmp_path / "souk")
    process = start(place)
    assert process.stderr is not None
    said = ""
    while "2 of 3" not in said:
        said += process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGINT
    assert "was not set up to the end. Setting it up anew." in set_up(place)
    assert imports(place) == place


def test_of_two_setups_at_once_one_waits_for_the_other(tmp_path: Path) -> None:
    place = tree(tmp_path / "souk")
    processes = [start(place) for _ in range(2)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "".join(said).count("Setting up") == 1
    assert imports(place) == place


def test_what_is_not_pinned_by_a_hash_is_not_installed(copy: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "extra-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("extra-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (copy / "images/wheel-tools.lock").write_text("extra==1\n")
    process = start(copy, PIP_FIND_LINKS=str(tmp_path))
    _, said = process.communicate()
    assert process.returncode == 1
    assert "Hashes are required" in said
    assert said.endswith("That failed; the lines above say why. When it is mended, run this again.\n")


def test_a_tree_that_is_read_only_is_to_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    setting_up = runpy.run_path(str(ROOT / "scripts/setup_venv.py"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(setting_up["CannotSetUp"], match=r"is read-only, .*: copy it to where you can write"):
        setting_up["check_places"](ROOT / ".venv")


def test_a_folder_that_tools_cannot_be_started_from_is_named(tmp_path: Path) -> None:
    place = tree(tmp_path / 'a "souk"')
    assert f'a folder with " in its name: move {place}' in refused(place)


def test_a_folder_that_is_no_environment_is_not_overwritten(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    assert "which is no virtual environment" in refused(ready, SOUK_VENV=str(tmp_path))
    assert "which is no virtual environment" in refused(ready, SOUK_VENV=str(tmp_path / "precious"))
    assert (tmp_path / "precious").exists()


def test_a_relative_place_is_below_the_root(ready: Path, tmp_path: Path) -> None:
    command = 'cd "$1"; . scripts/env.sh; echo "$VENV $SOUK_VENV"'
    done = subprocess.run(
        ["bash", "-c", command, "setup", ready],
        cwd=tmp_path, env={**os.environ, "SOUK_VENV": "a/venv"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{ready}/a/venv {ready}/a/venv\n"


def fake_python(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_missing_or_too_old_is_told_in_a_sentence(tmp_path: Path) -> None:
    place = tree(tmp_path / "souk")
    assert "there is no 'no-such-python' here. Install one" in refused(place, PYTHON="no-such-python")
    old = fake_python(tmp_path, '[ "$1" = --version ] || exit 1; echo Python 3.9.2')
    assert f"'{old}' is Python 3.9.2. Install one" in refused(place, PYTHON=old)


def test_a_python_without_venv_is_told_in_a_sentence(tmp_path: Path) -> None:
    place = tree(tmp_path / "souk")
    # As Debian has it without python3-venv.
    code = (
        "import runpy, sys; sys.modules['ensurepip'] = None; del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    run = f"exec {sys.executable}"
    lacking = fake_python(tmp_path, f'[ "$2" = -c ] && {run} "$@"; shift; {run} -ISc "{code}" "$@"')
    assert "apt install python3-venv" in refused(place, PYTHON=lacking)


def test_the_tools_that_build_souks_packages_are_among_those_of_development() -> None:
    pinned = runpy.run_path(str(ROOT / "scripts/setup_venv.py"))["LOCKS"]
    needed, there = ({*lock.read_text().splitlines()} for lock in (ROOT / "images/wheel-tools.lock", *pinned["dev"]))
    assert [line for line in needed - there if "==" in line] == []
