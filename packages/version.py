#!/usr/bin/env python3
"""What the packages of this tree are called: the one place that says it. docs/adr/0014-development-versions.md

    python packages/version.py            prints the version of each package
    python packages/version.py --write    brings each package's _version.py up to date, for editable installs

Each pyproject.toml says which version comes next: "1.2.0.dev0" between releases, "1.2.0" in a release's commit. Between
releases the history says the rest: 1.2.0.dev7+g2a7b2b4 is seven commits after the last release, and 2a7b2b4 is the last
one that touched the package. Builds without the history are told the whole by the environment: SOUK_VERSION.

hatchling runs this file with the standard library alone, and an image's build has it beside the package only.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("gateway", "orders", "reservations", "loyalty")
PACKAGES = ("contracts", *SERVICES)
_CONTENTS = ("LICENSE", "README.md", "pyproject.toml", "src")
_WRITTEN = (
    "__pycache__/", "*.py[cdo]", "_version.py*",
    "/contracts/src/souk_contracts/*/", "/contracts/src/souk_contracts/message_pool.py",
)  # fmt: skip
"""What Python and the builds write among the sources: it is in no wheel, or is written anew for each."""

_FORM = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:\.dev(0|[1-9]\d*)(?:\+(?:unknown|g[0-9a-f]{7}(?:\.dirty)?))?)?"
)


@dataclass(frozen=True)
class Version:
    """What a package, or an image, is called, and what that rests on."""

    text: str
    """As PEP 440 has it: 1.2.0, 1.2.0.dev7+g2a7b2b4, 1.2.0.dev7+g2a7b2b4.dirty, 1.2.0.dev0+unknown."""
    revision: str = "unknown"
    """The last commit that touched it, in 40 digits, with "-dirty" after it where there is more than is committed."""
    epoch: int = 0
    """When that was committed, in seconds since 1970; 0 where it is not known."""

    @property
    def tag(self) -> str:
        """As a tag of an image, which may hold no plus: 1.2.0.dev7-g2a7b2b4."""
        return self.text.replace("+", "-")


class _Unknown(Exception):
    """The history does not say it; the text says why, and what to do."""


def order(text: str) -> tuple[int, int, int, bool, int]:
    """By which versions are sorted: a development version comes before its release. Raises ValueError.

    The first three are major, minor and patch.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a version such as 1.2.0 or 1.2.0.dev7+g2a7b2b4")
    major, minor, patch, commits = match.groups()
    return int(major), int(minor), int(patch), commits is None, int(commits or 0)


def is_development(text: str) -> bool:
    """Whether it is the version of a tree between releases. Raises ValueError."""
    return not order(text)[3]


def from_tag(tag: str) -> str:
    """The version that an image's tag names, where it names a whole one: 1.2.0-r2 is a later build of 1.2.0."""
    return re.sub(r"-r\d+$", "", tag).replace("-", "+", 1)


def folder(package: str) -> str:
    """Where a package stands in the repository."""
    return package if package == "contracts" else f"packages/{package}"


def contents(package: str) -> tuple[str, ...]:
    """The paths of all that goes into a package, and so of all that makes another version of it."""
    generated_from = ("generator", "hatch_build.py", "openapi", "proto") if package == "contracts" else ()
    return tuple(f"{folder(package)}/{path}" for path in (*_CONTENTS, *generated_from))


def literal(package: str) -> str:
    """The version that the package's pyproject.toml says. Raises ValueError where it says none."""
    said = str(_pyproject(package)["tool"].get("souk", {}).get("version"))
    if not re.fullmatch(r"\d+\.\d+\.\d+(\.dev0)?", said):
        raise ValueError(f"{folder(package)}/pyproject.toml: [tool.souk] version is {said}, not 1.2.0.dev0 or 1.2.0")
    return said


def of_package(package: str) -> str:
    """What hatchling builds the package as. Raises ValueError where SOUK_VERSION is no version."""
    if told := os.environ.get("SOUK_VERSION"):
        try:
            order(told)
        except ValueError as error:
            raise ValueError(f"SOUK_VERSION: {error}") from None
        return told
    return of_tree(package).text


def of_tree(package: str) -> Version:
    """What the package is called as it is in the tree."""
    return of_paths(package, contents(package))


def of_paths(package: str, paths: Sequence[str]) -> Version:
    """The version of what is made of these paths, which goes by the package's version. Says why it is not known."""
    said = literal(package)
    try:
        commits, revision, epoch = _history(package, paths)
        dirty = _is_dirty(paths)
        if not said.endswith(".dev0"):
            commits = _since_release_commit(package, paths)
            if commits or dirty:  # no longer that release
                major, minor, patch, *_ = order(said)
                said = f"{major}.{minor}.{patch + 1}.dev0"
    except _Unknown as error:
        if not said.endswith(".dev0"):
            return Version(said)
        _say(str(error))
        return Version(f"{said}+unknown")
    if said.endswith(".dev0"):
        said = f"{said[:-1]}{commits}+g{revision[:7]}{'.dirty' if dirty else ''}"
    return Version(said, f"{revision}-dirty" if dirty else revision, epoch)


def write() -> None:
    """Brings each package's _version.py up to date, as hatchling writes it."""
    for package in PACKAGES:
        hook = _pyproject(package)["tool"]["hatch"]["build"]["hooks"]["version"]
        path = ROOT / folder(package) / hook["path"]
        text = hook["template"].format(version=of_tree(package).text)
        if not path.exists() or path.read_text() != text:
            beside = path.with_name(f"{path.name}.{os.getpid()}")  # a service that starts meanwhile reads a whole file
            beside.write_text(text)
            beside.replace(path)


@cache
def _pyproject(package: str) -> dict[str, Any]:
    path = ROOT / folder(package) / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _history(package: str, paths: Sequence[str]) -> tuple[int, str, int]:
    """The number of commits since the package's last release that touched the paths; the last one, and its time."""
    cut_off = _cut_off()
    too_shallow = _Unknown("this clone has only a part of the history; run: git fetch --unshallow")
    since = _last_release(package)
    if since and not _is_there(since):
        if cut_off:
            raise too_shallow
        raise _Unknown(f"{ROOT} lacks {since[:7]}, the last release of {package}; use a clone of Souk's repository")
    touched = _touched(f"{since}..HEAD" if since else "HEAD", paths)
    last = touched or _touched("HEAD", paths, "--max-count=1")
    if not last:
        raise _Unknown(f"no commit of {ROOT} has {paths[-1]}; commit it")
    if any(revision in cut_off for revision, _ in last):
        raise too_shallow  # a commit without its parents seems to have touched everything
    revision, epoch = last[0]
    return len(touched), revision, epoch


def _is_dirty(paths: Sequence[str]) -> bool:
    """Whether something is not committed: what git ignores, too, since wheels and images take it along."""
    ignored = [f"--exclude={pattern}" for pattern in _WRITTEN]
    return bool(
        _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
        or _git("ls-files", "--others", *ignored, "--", *paths)
    )


def _since_release_commit(package: str, paths: Sequence[str]) -> int:
    """The number of commits that touched the paths since the one that set the package's version to a release."""
    release = _touched("HEAD", [f"{folder(package)}/pyproject.toml"], "--max-count=1")
    return len(_touched(f"{release[0][0]}..HEAD", paths)) if release else 0


def _touched(commits: str, paths: Sequence[str], *options: str) -> list[tuple[str, int]]:
    """The commits that touched the paths, the last one first, and their times."""
    lines = _git("rev-list", "--timestamp", *options, commits, "--", *paths).splitlines()
    return [(revision, int(time)) for time, _, revision in (line.partition(" ") for line in lines)]


def _is_there(commit: str) -> bool:
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except _Unknown:
        return False
    return True


@cache
def _cut_off() -> str:
    """The commits whose parents a shallow clone lacks. Raises _Unknown where the repository has no commits."""
    shallow = _git("rev-parse", "--git-path", "shallow").strip()
    if not _is_there("HEAD"):
        raise _Unknown(f"{ROOT} has no commits; use a clone of Souk's repository")
    file = ROOT / shallow
    return file.read_text() if file.exists() else ""


def _last_release(package: str) -> str:
    """Its commit, as the ledger has it: a clone may lack tags."""
    ledger = ROOT / "releases.toml"
    try:
        releases = tomllib.loads(ledger.read_text(encoding="utf-8")).get("release", []) if ledger.exists() else []
    except ValueError as error:
        raise _Unknown(f"{ledger} cannot be read: {error}") from None
    own = [each for each in releases if each["package"] == package]
    return str(max(own, key=lambda each: order(each["version"]))["commit"]) if own else ""


def run_git(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What git says of the repository at `root`, whatever its user has set. Raises OSError where there is no git.

    Commands of git's plumbing only, since settings change what the others print.
    """
    settings = [word for name, value in _GIT_SETTINGS.items() for word in ("-c", f"{name}={value}")]
    # The repository is named, so that it is no other one that this stands in, or that a hook has put into the
    # environment. Git then reads it whoever owns it: this file is out of it, too.
    command = ["git", "--no-optional-locks", f"--git-dir={root}/.git", f"--work-tree={root}", *settings, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _OTHER_REPOSITORY}
    return subprocess.run(
        command, cwd=root, env={**environment, "LC_ALL": "C"}, capture_output=True, encoding="utf-8",
        errors="replace", check=False,
    )  # fmt: skip


_GIT_SETTINGS = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.quotePath": "false",
    "core.useReplaceRefs": "false",
    "tar.umask": "0022",
    "status.showUntrackedFiles": "all",
    "diff.renames": "false",
    "column.ui": "never",
    "column.tag": "never",
    "log.showSignature": "false",
}
"""What a user may have set otherwise, and what then would make other files, or other answers, of the same commit."""
_OTHER_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_PREFIX",
)  # fmt: skip


def _git(*arguments: str) -> str:
    """What git says. Raises _Unknown."""
    try:
        done = run_git(*arguments)
    except OSError as error:
        raise _Unknown(f"git cannot be run ({error.strerror}); install git") from None
    if done.returncode == 0:
        return done.stdout
    if "not a git repository" in done.stderr:
        raise _Unknown(f"{ROOT} is not a git repository; use a clone of Souk, or set SOUK_VERSION")
    first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
    raise _Unknown(f"'git {' '.join(arguments[:3])} …' failed: {first}")


@cache
def _say(reason: str) -> None:
    """Once, for however many packages."""
    print(f"The versions of this tree are not known: {reason}", file=sys.stderr)


def try_to_write() -> None:
    """Where versions cannot be written, says so: no start fails for that."""
    try:
        write()
    except (OSError, ValueError) as error:
        print(f"The versions that services give may be out of date: {error}", file=sys.stderr)


def main() -> None:
    """Does what the command line says."""
    match sys.argv[1:]:
        case []:
            try:
                for package in PACKAGES:
                    print(f"{package:<14}{of_tree(package).text}")
            except ValueError as error:
                sys.exit(str(error))
        case ["--write"]:
            try_to_write()
        case _:
            sys.exit(f"usage: {sys.argv[0]} [--write]")


if __name__ == "__main__":
    main()
