"""Wheels and sdists, built so that the same sources give the same bytes, whoever builds them, when and where."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from releasing import version
from releasing.ledger import ROOT, Release, folder

CACHE = ROOT / (os.environ.get("SOUK_VENV") or ".venv") / "releases"
TOOLS_LOCK = "images/wheel-tools.lock"


class CannotBuild(Exception):
    """A release cannot be built, or is not what the ledger says; the text says which and why."""


def git(*arguments: str, root: Path = ROOT) -> str:
    """What git says of the repository at `root`, whatever its user has set. Raises CannotBuild with what is wrong."""
    done = version.run_git(*arguments, root=root)
    if done.returncode:
        said = f"'git {' '.join(arguments)}' failed: {done.stderr.strip()}"
        if _shallow_file(root).exists():
            said += "\nThis clone is shallow: 'git fetch --unshallow --tags' fetches the history that it lacks."
        raise CannotBuild(said)
    return done.stdout.strip()


def is_cut_off(commit: str, root: Path = ROOT) -> bool:
    """Whether a shallow clone lacks what came before a commit, which then seems to have made every file."""
    file = _shallow_file(root)
    return file.exists() and commit in file.read_text().split()


def _shallow_file(root: Path) -> Path:
    """Where git keeps the commits whose parents it lacks; in a linked worktree that is the main one's."""
    place = root / ".git"
    if place.is_file():
        folder = root / place.read_text().partition("gitdir:")[2].strip()
        common = folder / "commondir"
        place = folder / common.read_text().strip() if common.exists() else folder
    return place / "shallow"


def time_of(commit: str, root: Path = ROOT) -> int:
    """When it was made, in seconds since 1970: what all files that are built from it bear."""
    return int(git("rev-list", "--max-count=1", "--timestamp", commit, root=root).partition(" ")[0])


def sha256(path: Path) -> str:
    """In hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def checkout(commit: str, *paths: str, root: Path = ROOT) -> Iterator[Path]:
    """The files of a commit, all or those below `paths`, in a folder of their own that is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="souk-") as into:
        archive = Path(into) / ".archive"
        # With the line ends of the repository, whatever the clone's own settings are.
        as_committed = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
        git(*as_committed, "archive", "--format=tar", f"--output={archive}", commit, *paths, root=root)
        with tarfile.open(archive) as files:
            files.extractall(into, filter="tar")
        archive.unlink()
        yield Path(into)


@dataclass(frozen=True)
class Built:
    """What was built of a package."""

    wheel: Path
    sdist: Path


def build(tree: Path, package: str, epoch: int, out: Path, called: str = "") -> Built:
    """Builds a package of a checkout, with the tools that the checkout pins.

    `epoch` is the time in seconds since 1970 that all files bear: that of the commit. `called` is the version of what
    is in no release; a release's commit says it itself.
    """
    python = _tools(tree / TOOLS_LOCK)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["SOUK_VERSION"] = called
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # the generator calls tools by name
    out.mkdir(parents=True, exist_ok=True)
    source = tree / folder(package)
    command = [str(python), "-m", "hatchling", "build", "--directory", str(out.absolute())]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"hatch cannot build {package}:\n{done.stderr}")
    (wheel,), (sdist,) = out.glob(f"souk_{package}-*.whl"), out.glob(f"souk_{package}-*.tar.gz")
    return Built(wheel, sdist)


def built(release: Release) -> Built:
    """A release's files, built from its commit unless they are in the cache. Raises CannotBuild if they differ."""
    place = CACHE / f"{release.package}-{release.version}-{release.wheel[:12]}"
    if not place.exists():
        with checkout(release.commit) as tree:  # all of it: what stands at the root has a say in what is generated
            made = build(tree, release.package, time_of(release.commit), tree / "out")
            for path, wanted in ((made.wheel, release.wheel), (made.sdist, release.sdist)):
                if sha256(path) != wanted:
                    raise CannotBuild(
                        f"{release}: {path.name} has the SHA-256 {sha256(path)}, the ledger says {wanted}."
                    )
            partial = place.with_name(f"{place.name}.{os.getpid()}")
            shutil.copytree(tree / "out", partial)
            if place.exists():
                shutil.rmtree(partial)  # somebody else was faster
            else:
                partial.rename(place)
    (wheel,), (sdist,) = place.glob("*.whl"), place.glob("*.tar.gz")
    return Built(wheel, sdist)


def _tools(lock: Path) -> Path:
    """The Python of an environment with what a lock pins, made if it is not there yet. Raises CannotBuild."""
    place = CACHE / f"tools-{sha256(lock)[:12]}"
    python = place / "bin/python"
    options = ("-qq", "--disable-pip-version-check", "--require-hashes", "--no-deps", f"--requirement={lock}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            try:
                subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
                subprocess.run([python, "-m", "pip", "install", *options], check=True)
            except subprocess.CalledProcessError as error:
                raise CannotBuild(f"The tools that {TOOLS_LOCK} pins cannot be installed; see above.") from error
            (place / "ready").touch()
    return python
