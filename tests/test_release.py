"""Releases: each of one package alone, and each built again from the history, bit for bit."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from releasing.build import _tools

from tests.conftest import ROOT


class Repository:
    """A clone that a test may release from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for command in (
            ["clone", "--quiet", str(ROOT), str(folder)],
            ["-C", str(folder), "config", "user.name", "Amina"],
            ["-C", str(folder), "config", "user.email", "amina@example.com"],
        ):
            subprocess.run(["git", *command], check=True)
        # Without what the original has released.
        if ledger := (folder / "releases.toml").exists():
            (folder / "releases.toml").unlink()
        for tag in self.git("tag").split():
            self.git("tag", "--delete", tag)
        for package in ("contracts", "orders", "loyalty"):
            self.note(package, "first")
        self.commit("a beginning" if ledger else "notes")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def note(self, package: str, name: str) -> None:
        place = self.folder / ("contracts" if package == "contracts" else f"packages/{package}") / "changelog.d"
        place.mkdir(exist_ok=True)
        (place / f"+{name}.added.md").write_text(f"The {name} thing.\n")

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`scripts/release`, with the environment of these tests."""
        venv = Path(sys.prefix)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "releasing", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": f"{self.folder}/scripts", "SOUK_VENV": str(venv), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def version(self, package: str) -> str:
        """What the package is called at this moment."""
        command = [sys.executable, "packages/version.py"]
        printed = subprocess.check_output(command, cwd=self.folder, text=True)
        return dict(line.split() for line in printed.splitlines())[package]

    def release(self, *arguments: str) -> str:
        done = self.run(*arguments, "--checks", "true")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """Gives the sentence; nothing has changed."""
        before = self.git("rev-parse", "HEAD"), self.git("status", "--porcelain"), self.git("tag")
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout
        assert (self.git("rev-parse", "HEAD"), self.git("status", "--porcelain"), self.git("tag")) == before
        return done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "souk")


def skew(folder: Path) -> Path:
    """What a run of the matrix wrote."""
    versions = {
        "gateway": ["1.7.0", "1.8.0"],
        "orders": ["1.7.0", "1.8.0"],
        "reservations": ["1.7.0"],
        "loyalty": ["1.7.0"],
    }
    cells = [
        {"versions": dict(zip(versions, cell, strict=True)), "ages": {"orders": "new"}, "green": True}
        for cell in itertools.product(*versions.values())
        if cell[1] == "1.8.0"
    ]
    path = folder / "skew.json"
    path.write_text(json.dumps({"versions": versions, "cells": cells, "rolling": {"wrong": []}}))
    return path


def test_a_release_changes_one_package_and_the_ledger(repository: Repository, tmp_path: Path) -> None:
    repository.release("contracts", "1.7.0")
    repository.release("orders", "1.7.0")
    assert set(repository.git("show", "--name-only", "--format=", "orders-v1.7.0^{commit}").splitlines()) == {
        "packages/orders/CHANGELOG.md",
        "packages/orders/changelog.d/+first.added.md",
        "packages/orders/pyproject.toml",
        *repository.git("ls-tree", "--name-only", "-r", "orders-v1.7.0^", "packages/orders/changelog.d/").splitlines(),
    }
    assert repository.git("show", "--name-only", "--format=", "HEAD").splitlines() == [
        "packages/orders/pyproject.toml",
        "releases.toml",
    ]
    assert repository.git("rev-parse", "HEAD^") == repository.git("rev-parse", "orders-v1.7.0^{commit}")
    assert "- The first thing.\n" in (repository.folder / "packages/orders/CHANGELOG.md").read_text()
    repository.note("orders", "second")
    repository.commit("a second thing")
    repository.release("orders", "minor", f"--skew={skew(tmp_path)}")
    changelog = (repository.folder / "packages/orders/CHANGELOG.md").read_text()
    beside = "Runs beside gateway 1.7.0 and 1.8.0; reservations 1.7.0; loyalty 1.7.0, and 1.7.0 of its own."
    assert (
        changelog.index("## 1.8.0")
        < changelog.index(beside)
        < changelog.index("The second thing")
        < changelog.index("## 1.7.0")
    )


def test_between_releases_the_tree_is_the_next_minor_version(repository: Repository) -> None:
    repository.release("contracts", "1.7.0")
    assert repository.version("contracts") == f"1.8.0.dev1+g{repository.git('rev-parse', 'HEAD')[:7]}"
    before = repository.version("orders")
    repository.release("orders", "1.7.0")
    assert before.startswith("1.2.0.dev")
    assert repository.version("orders") == f"1.8.0.dev1+g{repository.git('rev-parse', 'HEAD')[:7]}"
    pyproject = repository.git("show", "orders-v1.7.0:packages/orders/pyproject.toml")
    assert '[tool.souk]\nversion = "1.7.0"' in pyproject
    # A floor that is a development version would let pip install later ones of these.
    assert '"souk-contracts>=1.2.0,<2"' in pyproject
    repository.git("checkout", "--quiet", "orders-v1.7.0")
    assert repository.version("orders") == "1.7.0"


def test_a_service_that_needs_contracts_which_are_not_released_is_refused(repository: Repository) -> None:
    repository.release("contracts", "1.7.0")
    path = repository.folder / "packages/loyalty/pyproject.toml"
    path.write_text(path.read_text().replace('"souk-contracts>=1.2.0.dev0,<2"', '"souk-contracts>=1.8.0.dev0,<2"'))
    repository.commit("needs what comes next")
    refusal = repository.refused("loyalty", "1.7.0")
    assert "needs souk-contracts <2,>=1.8.0.dev0, and the latest release of the contracts is 1.7.0" in refusal


def test_what_changes_while_the_checks_run_is_neither_released_nor_lost(repository: Repository) -> None:
    edited = repository.folder / "contracts/README.md"
    checks = f"{sys.executable} -c \"open('{edited}', 'a').write('more')\""
    done = repository.run("contracts", "1.7.0", "--checks", checks)
    assert (done.returncode, "has changed while" in done.stderr) == (1, True), done.stderr
    assert edited.read_text().endswith("more")
    assert repository.git("tag") == ""
    repository.git("commit", "--quiet", "--all", "--message=more")
    checks = "git commit --quiet --allow-empty --message=meanwhile"
    assert "has changed while" in repository.run("contracts", "1.7.0", "--checks", checks).stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_release_that_is_ended_leaves_all_as_it_was(repository: Repository, number: signal.Signals) -> None:
    before = repository.git("rev-parse", "HEAD")
    process = repository.start("contracts", "1.7.0", "--checks", "true")
    while repository.git("rev-parse", "HEAD") == before and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    assert (repository.git("rev-parse", "HEAD"), repository.git("status", "--porcelain")) == (before, "")


def test_a_release_starts_after_the_last_one_and_not_from_its_tag(repository: Repository) -> None:
    repository.release("contracts", "1.7.0")
    repository.note("contracts", "second")
    repository.commit("a second thing")
    repository.release("contracts", "1.8.0")
    repository.git("checkout", "--quiet", "-b", "fixes", "contracts-v1.8.0")
    repository.note("contracts", "third")
    repository.commit("a fix")
    # Its ledger knows nothing of 1.8.0, so this would be 1.7.1.
    assert "says 1.8.0, which is a release" in repository.refused("contracts", "patch", "--checks", "true")


def test_a_patch_leaves_the_tree_on_its_way_to_a_major_version(repository: Repository) -> None:
    repository.release("contracts", "1.7.0")
    path = repository.folder / "contracts/pyproject.toml"
    path.write_text(path.read_text().replace('version = "1.8.0.dev0"', 'version = "2.0.0.dev0"'))
    repository.note("contracts", "second")
    repository.commit("on the way to 2.0.0")
    repository.release("contracts", "patch")
    assert repository.version("contracts").startswith("2.0.0.dev1+")


def test_a_plan_changes_nothing(repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD")
    assert "would commit, and tag contracts-v1.7.0" in repository.release("contracts", "1.7.0", "--dry-run")
    assert (repository.git("rev-parse", "HEAD"), repository.git("status", "--porcelain")) == (before, "")


def test_a_release_that_should_not_be_is_refused(repository: Repository) -> None:
    assert "give its first version" in repository.refused("contracts", "minor")
    assert "'1.7' is not a version" in repository.refused("contracts", "1.7")
    assert "The contracts have no release yet" in repository.refused("orders", "1.7.0")
    assert "'false' failed" in repository.refused("contracts", "1.7.0", "--checks", "false")
    repository.release("contracts", "1.7.0")
    assert "is not above 1.7.0" in repository.refused("contracts", "1.6.9")
    assert "Nothing to release: contracts/changelog.d" in repository.refused("contracts", "patch")
    (repository.folder / "README.md").write_text("draft")
    assert "not committed" in repository.refused("orders", "1.7.0")
    repository.git("checkout", "README.md")
    repository.git("tag", "orders-v1.7.0")
    assert "orders-v1.7.0 already exists" in repository.refused("orders", "1.7.0")
    with (repository.folder / "contracts/proto/souk/orders/v1/orders.proto").open("a") as proto:
        proto.write("// more\n")
    repository.commit("more contracts")
    assert "The contracts have changed since 1.7.0" in repository.refused("loyalty", "1.7.0")


def test_a_release_that_cannot_be_built_leaves_all_as_it_was(repository: Repository) -> None:
    path = repository.folder / "contracts/proto/souk/orders/v1/orders.proto"
    path.write_text(path.read_text() + "message {\n")
    repository.commit("broken")
    assert "hatch cannot build contracts" in repository.refused("contracts", "1.7.0", "--checks", "true")


@pytest.mark.long
def test_tools_are_installed_once_and_what_stands_in_the_way_is_told(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("releasing.build.CACHE", tmp_path / "cache")
    lock = tmp_path / "tools.lock"
    lock.touch()
    with ThreadPoolExecutor() as pool:  # by two runs at once
        first, second = pool.map(_tools, [lock, lock])
    assert first == second
    assert subprocess.run([first, "-m", "pip", "--version"], check=False).returncode == 0
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with (repository.folder / "images/wheel-tools.lock").open("a") as file:
        file.write(f"no-such-package==1 --hash=sha256:{'0' * 64}\n")
    repository.commit("tools that are nowhere")
    refusal = repository.refused("contracts", "1.7.0", "--checks", "true")
    assert refusal.endswith("The tools that images/wheel-tools.lock pins cannot be installed; see above.\n")
    assert "Traceback" not in refusal


@pytest.mark.long
@pytest.mark.timeout(600)  # it builds a dozen times
def test_every_release_is_built_again_bit_for_bit_and_what_differs_is_told(repository: Repository) -> None:
    repository.release("contracts", "1.7.0")
    repository.release("orders", "1.7.0")
    repository.git("tag", "--delete", "orders-v1.7.0")  # as in a clone without tags
    done = repository.run("verify", SOURCE_DATE_EPOCH="1", PYTHONHASHSEED="5", LC_ALL="C")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same bytes") == 2
    ledger = repository.folder / "releases.toml"
    text = ledger.read_text()
    for name in ("wheel", "sdist", "lock"):
        tampered = text.rpartition(f'{name} = "')
        ledger.write_text(f"{tampered[0]}{tampered[1]}{'0' * 64}{tampered[2][64:]}")
        done = repository.run("verify")
        assert (done.returncode, f"the {name} differs: " in done.stdout) == (1, True), done.stdout
    ledger.write_text(text)
    repository.git("tag", "contracts-v1.7.0", "HEAD", "--force")
    assert "the tag contracts-v1.7.0 names another commit" in repository.run("verify").stdout


@pytest.mark.timeout(300)
def test_what_was_released_here_is_built_again_bit_for_bit() -> None:
    done = subprocess.run(["scripts/release", "verify"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 of them differ from it" in done.stdout
