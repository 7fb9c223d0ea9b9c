"""What the scripts ask git does not depend on how a stranger has cloned, or on what they have set."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from imaging.origin import last
from releasing.build import CannotBuild, checkout, git, is_cut_off, time_of

from tests.conftest import ROOT

SIGNER = """#!/bin/sh
# Signs as gpg does, and cannot verify.
cat >/dev/null
echo '[GNUPG:] SIG_CREATED ' >&2
echo '-----BEGIN PGP SIGNATURE-----'
echo '-----END PGP SIGNATURE-----'
"""


class Repository:
    """A small one, with a text and two commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.run("init", "--quiet")
        self.set("user.name", "Amina")
        self.set("user.email", "amina@example.com")
        self.commits = [self.commit(text) for text in ("one\n", "two\n")]

    def commit(self, text: str, *options: str) -> str:
        (self.folder / "text").write_text(text)
        self.run("add", "text")
        self.run("commit", "--quiet", "--message=text", *options)
        return self.run("rev-parse", "HEAD").strip()

    def set(self, name: str, value: str) -> None:
        self.run("config", name, value)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "it's ours")


@pytest.fixture
def clone(repository: Repository, tmp_path: Path) -> Callable[..., Path]:
    def of(*options: str) -> Path:
        place = tmp_path / "clone"
        repository.run("clone", "--quiet", *options, f"file://{repository.folder}", str(place))
        return place

    return of


def test_a_signature_that_is_shown_does_not_stand_in_the_way_of_a_commits_time(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = tmp_path / "signer"
    signer.write_text(SIGNER)
    signer.chmod(0o755)
    repository.set("gpg.program", str(signer))
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    repository.set("log.showSignature", "true")
    commit = repository.commit("three\n", "--gpg-sign")
    assert time_of(commit, repository.folder) > 10**9


def test_what_a_user_hides_from_git_is_still_not_committed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    (tmp_path / "ignored").write_text("*.py\n")
    repository.set("status.showUntrackedFiles", "no")
    repository.set("core.excludesFile", str(tmp_path / "ignored"))
    (repository.folder / "new.py").touch()
    assert git("status", "--porcelain", root=repository.folder) == "?? new.py"


def test_a_commits_files_have_its_own_line_ends(
    repository: Repository, clone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    place = clone("--config", "core.autocrlf=true")
    assert b"\r" in (place / "text").read_bytes()
    with checkout("HEAD", root=place) as files:
        assert (files / "text").read_bytes() == b"two\n"


def test_a_clone_of_souk_has_no_line_ends_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    place = tmp_path / "souk"
    safe = ("-c", "safe.directory=*")
    subprocess.run(["git", *safe, "clone", "--quiet", "--config=core.autocrlf=true", ROOT, place], check=True)
    ends = subprocess.run(["git", "ls-files", "--eol"], cwd=place, capture_output=True, text=True, check=True).stdout
    assert ends
    assert [line for line in ends.splitlines() if "w/crlf" in line or "w/mixed" in line] == []


def test_a_shallow_clone_names_no_commit_that_it_cannot_know(
    clone: Callable[..., Path], repository: Repository
) -> None:
    place = clone("--depth=1")
    assert is_cut_off(repository.commits[1], place)
    assert not is_cut_off(repository.commits[1], repository.folder)
    with pytest.raises(CannotBuild, match="git fetch --unshallow --tags"):
        git("archive", repository.commits[0], root=place)
    with pytest.raises(CannotBuild, match="git fetch --unshallow --tags"):
        last("HEAD", ["text"], place)


def test_a_clone_that_belongs_to_somebody_else_is_read(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "status"], cwd=repository.folder, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    assert git("rev-parse", "HEAD", root=repository.folder) == repository.commits[1]


def test_a_tree_inside_another_repository_is_not_taken_for_that_one(repository: Repository) -> None:
    inside = repository.folder / "vendored"
    inside.mkdir()
    with pytest.raises(CannotBuild, match="not a git repository"):
        git("rev-parse", "HEAD", root=inside)


def test_a_repository_that_the_environment_names_is_not_taken_for_this_one(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repository(tmp_path / "other")
    other.commit("three\n")
    for name, value in (("DIR", ".git"), ("WORK_TREE", ""), ("INDEX_FILE", ".git/index"), ("COMMON_DIR", ".git")):
        monkeypatch.setenv(f"GIT_{name}", str(other.folder / value))
    assert git("rev-parse", "HEAD", root=repository.folder) == repository.commits[1]
    assert git("status", "--porcelain", root=repository.folder) == ""
    assert os.environ["GIT_DIR"] == str(other.folder / ".git")


def test_a_linked_worktree_knows_that_its_clone_is_shallow(
    clone: Callable[..., Path], repository: Repository, tmp_path: Path
) -> None:
    place, linked = clone("--depth=1"), tmp_path / "linked"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", linked], cwd=place, check=True)
    assert is_cut_off(repository.commits[1], linked)
