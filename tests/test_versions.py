"""Development versions: what the packages of a tree between releases are called."""

import json
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from releasing import version
from releasing.build import build, sha256

from tests.conftest import ROOT

UNKNOWN = "1.2.0.dev0+unknown"


class Clone:
    """A clone whose last release of orders is the commit before the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        shutil.copy(ROOT / "packages/version.py", folder / "packages")  # as it is, even if it is not committed yet
        self.git("config", "user.name", "Amina")
        self.git("config", "user.email", "amina@example.com")
        for package in version.PACKAGES:
            self.say("1.1.0", package)
        released = self.commit("a release")
        for package in version.PACKAGES:
            self.say("1.2.0.dev0", package)
        entry = f'package = "orders"\nversion = "1.1.0"\ncommit = "{released}"\nwheel = ""\nsdist = ""\n'
        self.write("releases.toml", f"[[release]]\n{entry}")
        self.began = self.commit("its entry in the ledger")

    def say(self, said: str, package: str = "orders") -> None:
        """Makes the package's pyproject.toml say another version."""
        path = self.folder / version.folder(package) / "pyproject.toml"
        text, count = re.subn(r'(\[tool\.souk\]\nversion = )"[^"]+"', rf'\1"{said}"', path.read_text())
        assert count == 1
        path.write_text(text)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text)

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "souk")


def said(tree: Path, *arguments: str, **environment: str) -> tuple[dict[str, str], str]:
    """The version of each package, and what was said beside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SOUK_"))}
    done = subprocess.run(
        [sys.executable, "-I", "packages/version.py", *arguments],
        cwd=tree,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines()), done.stderr


def orders(tree: Path, **environment: str) -> str:
    """The version of orders, which is known."""
    versions, sentence = said(tree, **environment)
    assert sentence == ""
    return versions["orders"]


def why_unknown(tree: Path, **environment: str) -> str:
    """The sentence that says why no version is known, and what to do."""
    versions, sentence = said(tree, **environment)
    assert versions == dict.fromkeys(version.PACKAGES, UNKNOWN)
    assert sentence.count("\n") == 1
    return sentence


def test_it_counts_the_commits_that_touched_the_package_and_names_the_last(clone: Clone) -> None:
    assert orders(clone.folder) == f"1.2.0.dev1+g{clone.began[:7]}"
    clone.write("README.md", "more")
    clone.write("packages/orders/tests/test_orders_nothing.py", "")
    clone.write("packages/gateway/README.md", "more")
    clone.commit("nothing that goes into orders")
    assert orders(clone.folder) == f"1.2.0.dev1+g{clone.began[:7]}"
    clone.write("packages/orders/src/souk_orders/more.py", "")
    touched = clone.commit("more orders")
    assert orders(clone.folder) == f"1.2.0.dev2+g{touched[:7]}"


def test_what_is_not_committed_makes_it_dirty(clone: Clone) -> None:
    clean = orders(clone.folder)
    clone.write("README.md", "more")
    clone.write("packages/orders/tests/test_orders_nothing.py", "")
    clone.write("packages/orders/src/souk_orders/_version.py", "# written when it is installed")
    assert orders(clone.folder) == clean
    clone.write("packages/orders/src/souk_orders/more.py", "")
    assert orders(clone.folder) == f"{clean}.dirty"
    clone.git("add", "packages/orders")
    assert orders(clone.folder) == f"{clean}.dirty"
    clone.git("reset", "--quiet", "--hard")
    assert orders(clone.folder) == clean
    clone.write("packages/orders/README.md", "more")
    assert orders(clone.folder) == f"{clean}.dirty"


def test_what_git_ignores_and_a_wheel_takes_along_makes_it_dirty(clone: Clone) -> None:
    clean, _ = said(clone.folder)
    for harmless in ("packages/orders/src/souk_orders/__pycache__", "contracts/src/souk_contracts/orders/v1"):
        (clone.folder / harmless).mkdir(parents=True)
        clone.write(f"{harmless}/rpc.py", "")
    assert said(clone.folder)[0] == clean
    (clone.folder / "packages/orders/src/souk_orders/dist").mkdir()
    clone.write("packages/orders/src/souk_orders/dist/more.py", "")
    assert orders(clone.folder) == f"{clean['orders']}.dirty"
    shutil.rmtree(clone.folder / "packages/orders/src/souk_orders/dist")
    clone.write(".git/info/exclude", "*.orig\n")
    clone.write("packages/orders/src/souk_orders/app.py.orig", "")
    assert orders(clone.folder) == f"{clean['orders']}.dirty"


def test_a_merge_counts_what_both_sides_did(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-b", "side")
    clone.write("packages/orders/src/souk_orders/side.py", "")
    clone.commit("on a side")
    clone.git("checkout", "--quiet", "-")
    clone.write("packages/orders/src/souk_orders/main.py", "")
    clone.commit("meanwhile")
    clone.git("merge", "--quiet", "--no-edit", "side")
    assert orders(clone.folder) == f"1.2.0.dev4+g{clone.git('rev-parse', 'HEAD')[:7]}"


def test_a_release_s_commit_is_that_release_with_or_without_the_history(clone: Clone) -> None:
    clone.say("1.2.0")
    clone.commit("a release")
    assert orders(clone.folder) == "1.2.0"
    shutil.rmtree(clone.folder / ".git")
    assert said(clone.folder)[0]["orders"] == "1.2.0"


def test_what_differs_from_a_release_s_commit_is_not_that_release(clone: Clone) -> None:
    clone.say("1.2.0")
    released = clone.commit("a release")
    clone.write("packages/orders/README.md", "more")
    assert orders(clone.folder) == f"1.2.1.dev0+g{released[:7]}.dirty"
    after = clone.commit("a fix, on a branch from the release")
    assert orders(clone.folder) == f"1.2.1.dev1+g{after[:7]}"
    clone.write("README.md", "more")
    clone.commit("nothing that goes into orders")
    assert orders(clone.folder) == f"1.2.1.dev1+g{after[:7]}"


def test_commits_that_are_replaced_count_as_they_were_made(clone: Clone) -> None:
    clone.write("packages/orders/README.md", "more")
    clone.commit("more")
    clean = orders(clone.folder)
    clone.git("replace", "--graft", "HEAD")
    assert orders(clone.folder) == clean


def test_a_merge_that_is_not_resolved_is_told_in_a_sentence(clone: Clone) -> None:
    ledger = (clone.folder / "releases.toml").read_text()
    clone.write("releases.toml", f"{ledger}<<<<<<< HEAD\n")
    assert "releases.toml cannot be read: " in why_unknown(clone.folder)
    clone.write("packages/orders/pyproject.toml", "<<<<<<< HEAD\n")
    sentence = said(clone.folder, "--write")[1].splitlines()[-1]
    assert "may be out of date" in sentence
    assert "packages/orders/pyproject.toml cannot be read: " in sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"log.showSignature": "true", "core.abbrev": "40", "color.ui": "always"},
        {"core.autocrlf": "true"},
        {"status.showUntrackedFiles": "no", "status.short": "true", "status.branch": "true"},
        {"log.date": "relative", "diff.noprefix": "true", "core.quotePath": "false"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_git_change_nothing(clone: Clone, settings: dict[str, str]) -> None:
    clean = orders(clone.folder)
    for name, value in settings.items():
        clone.git("config", name, value)
    assert orders(clone.folder) == clean
    clone.write("packages/orders/src/souk_orders/more.py", "")
    assert orders(clone.folder) == f"{clean}.dirty"


def test_a_clone_with_other_line_ends_is_not_dirty(clone: Clone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(
        ["git", "clone", "--quiet", "--config=core.autocrlf=true", str(clone.folder), str(other)], check=True
    )
    assert orders(other) == orders(clone.folder)


def test_a_copy_that_was_moved_is_what_it_was(clone: Clone, tmp_path: Path) -> None:
    clean = orders(clone.folder)
    moved = Path(shutil.copytree(clone.folder, tmp_path / "a copy, moved", copy_function=shutil.copy))
    assert orders(moved) == clean


def test_variables_that_name_another_repository_are_passed_over(clone: Clone, tmp_path: Path) -> None:
    clean = orders(clone.folder)
    clone.write("packages/orders/README.md", "more")
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "other")], check=True)
    variables = {"GIT_DIR": f"{tmp_path}/other/.git", "GIT_WORK_TREE": str(tmp_path), "GIT_INDEX_FILE": "/none"}
    assert orders(clone.folder, **variables, LANG="de_DE.UTF-8", LANGUAGE="de") == f"{clean}.dirty"


def test_a_shallow_clone_says_how_to_get_the_rest(clone: Clone, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    command = ["git", "clone", "--quiet", "--depth=1", f"file://{clone.folder}", str(shallow)]
    subprocess.run(command, check=True)
    assert "run: git fetch --unshallow" in why_unknown(shallow)
    subprocess.run(["git", "fetch", "--quiet", "--unshallow"], cwd=shallow, check=True)
    assert orders(shallow) == orders(clone.folder)


def test_a_commit_without_its_parents_is_not_taken_for_the_last_that_touched_the_package(
    clone: Clone, tmp_path: Path
) -> None:
    clone.write("releases.toml", "")  # so that there is no release that a shallow clone lacks
    clone.commit("nothing is released yet")
    clone.write("README.md", "more")
    clone.commit("nothing that goes into orders")
    shallow = tmp_path / "shallow"
    command = ["git", "clone", "--quiet", "--depth=1", f"file://{clone.folder}", str(shallow)]
    subprocess.run(command, check=True)
    assert "run: git fetch --unshallow" in why_unknown(shallow)


def test_another_repository_around_the_tree_is_not_asked(clone: Clone, tmp_path: Path) -> None:
    shutil.rmtree(clone.folder / ".git")
    assert "is not a git repository; use a clone of Souk" in why_unknown(clone.folder)
    for command in (
        ["init", "--quiet"],
        ["add", "souk/packages", "souk/contracts", "souk/releases.toml"],
        ["-c", "user.name=Amina", "-c", "user.email=amina@example.com", "commit", "--quiet", "--message=vendored"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert "is not a git repository; use a clone of Souk" in why_unknown(clone.folder)


def test_a_history_that_lacks_the_release_is_not_counted(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".git")
    for command in (["init", "--quiet"], ["config", "user.name", "Amina"], ["config", "user.email", "a@example.com"]):
        clone.git(*command)
    assert "has no commits; use a clone of Souk's repository" in why_unknown(clone.folder)
    clone.commit("all of it anew")
    versions, sentence = said(clone.folder)
    assert versions["orders"] == UNKNOWN
    assert "the last release of orders; use a clone of Souk's repository" in sentence


def program(folder: Path, name: str, script: str) -> str:
    """A PATH on which there is another program of this name, and nothing else."""
    folder.mkdir()
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def test_without_git_it_says_so(clone: Clone, tmp_path: Path) -> None:
    assert "install git" in why_unknown(clone.folder, PATH=str(tmp_path))


def test_builds_without_the_history_are_told_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUK_VERSION", "1.2.0.dev7+g2a7b2b4.dirty")
    assert version.of_package("orders") == "1.2.0.dev7+g2a7b2b4.dirty"
    monkeypatch.setenv("SOUK_VERSION", "latest")
    with pytest.raises(ValueError, match=r"^SOUK_VERSION: 'latest' is not a version such as 1\.2\.0"):
        version.of_package("orders")


def test_an_image_s_version_is_that_of_all_that_it_is_made_of(clone: Clone) -> None:
    code = "import version; print(version.of_paths('orders', [*version.contents('orders'), 'images']))"

    def image() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, cwd=clone.folder / "packages", text=True)

    clone.write("images/more", "")
    touched = clone.commit("another image of the same package")
    at = int(clone.git("rev-list", "--timestamp", "--max-count=1", "HEAD").split()[0])
    assert image() == f"{version.Version(f'1.2.0.dev2+g{touched[:7]}', touched, at)}\n"
    assert orders(clone.folder) == f"1.2.0.dev1+g{clone.began[:7]}"
    clone.write("images/more", "still more")
    assert image() == f"{version.Version(f'1.2.0.dev2+g{touched[:7]}.dirty', f'{touched}-dirty', at)}\n"


def test_a_tag_names_a_version_and_holds_no_plus() -> None:
    for text in ("1.2.0", "1.2.0.dev7+g2a7b2b4", "1.2.0.dev7+g2a7b2b4.dirty", UNKNOWN):
        assert "+" not in version.Version(text).tag
        assert version.from_tag(version.Version(text).tag) == text
    assert version.from_tag("1.2.0-r12") == "1.2.0"


def test_two_versions_side_by_side_go_by_what_their_images_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def image(tag: str, labels: dict[str, str] | None) -> dict[str, object]:
        return {"RepoTags": [tag], "Config": {"Labels": labels}}

    said_by_the_engine = [
        image("souk/orders:tree", {"org.opencontainers.image.version": "1.2.0.dev7+g2a7b2b4"}),
        image("souk/gateway:1", {"org.opencontainers.image.version": "1.1.0"}),
        image("busybox:latest", None),
    ]
    (tmp_path / "answer.json").write_text(json.dumps(said_by_the_engine))
    path = program(tmp_path / "bin", "docker", f"/bin/cat {tmp_path}/answer.json; exit 1")  # one image is missing
    monkeypatch.setenv("PATH", path)
    mixed = runpy.run_path(str(ROOT / "scripts/mixing/__main__.py"))
    assert mixed["labels"](["souk/orders:tree", "souk/gateway:1", "souk/loyalty:1.0.0"]) == {
        "souk/orders:tree": "1.2.0.dev7+g2a7b2b4",
        "souk/gateway:1": "1.1.0",
    }


def test_development_versions_come_before_their_release() -> None:
    ordered = ["1.1.9", UNKNOWN, "1.2.0.dev9+g2a7b2b4", "1.2.0.dev10+g0123456.dirty", "1.2.0", "1.10.0.dev1+g2a7b2b4"]
    by_text = sorted(ordered)
    assert by_text != ordered
    assert sorted(by_text, key=version.order) == ordered
    for wrong in ("1.2", "1.2.0.dev", "1.2.0+g2a7b2b4", "1.2.0.dev7+2a7b2b4", "tree", "01.2.0", ""):
        with pytest.raises(ValueError, match="is not a version such as"):
            version.order(wrong)


def test_installed_packages_are_brought_up_to_date_where_their_version_has_changed(clone: Clone) -> None:
    said(clone.folder, "--write")
    path = clone.folder / "packages/orders/src/souk_orders/_version.py"
    assert f'__version__ = "1.2.0.dev1+g{clone.began[:7]}"\n' in path.read_text()
    written = path.stat().st_ino
    said(clone.folder, "--write")
    assert path.stat().st_ino == written
    clone.write("packages/orders/README.md", "more")
    said(clone.folder, "--write")
    assert f'"1.2.0.dev1+g{clone.began[:7]}.dirty"' in path.read_text()
    said(clone.folder, "--write", PATH="")
    assert f'"{UNKNOWN}"' in path.read_text()


@pytest.mark.timeout(300)
def test_the_wheel_from_an_sdist_is_the_one_from_the_tree(clone: Clone, tmp_path: Path) -> None:
    called = orders(clone.folder)
    made = build(clone.folder, "orders", 10**9, tmp_path / "out")
    assert made.wheel.name == f"souk_orders-{called}-py3-none-any.whl"
    # What hatchling wrote is what ./scripts/up would have written.
    path = clone.folder / "packages/orders/src/souk_orders/_version.py"
    written = path.read_bytes()
    path.unlink()
    said(clone.folder, "--write")
    assert path.read_bytes() == written
    unpacked = tmp_path / "unpacked"
    (unpacked / "images").mkdir(parents=True)
    shutil.copy(ROOT / "images/wheel-tools.lock", unpacked / "images")
    shutil.unpack_archive(made.sdist, unpacked, filter="data")
    (unpacked / "packages").mkdir()
    (unpacked / f"souk_orders-{called}").rename(unpacked / "packages/orders")
    again = build(unpacked, "orders", 10**9, tmp_path / "again")
    assert (again.wheel.name, sha256(again.wheel)) == (made.wheel.name, sha256(made.wheel))
