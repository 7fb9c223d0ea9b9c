"""The versions that meet, each service of each version installed in a virtual environment of its own.

"New" is the working tree, "old" the latest release.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from releasing import version
from releasing.build import CACHE, TOOLS_LOCK, CannotBuild, build, built, checkout, git, sha256, time_of
from releasing.ledger import ROOT, SERVICES, Ledger, Release, folder

Age = Literal["old", "new"]
BUILT_WITH = (TOOLS_LOCK, "ruff.toml", ".gitignore", "packages/version.py")
"""What has a say in a package's wheel, beside its folder."""
_UV = Path(sys.executable).parent / "uv"


@dataclass(frozen=True)
class Installed:
    """A version of a service that can be started."""

    service: str
    age: Age
    version: str
    """What it says of itself."""
    python: Path
    """The interpreter of its environment."""
    commit: str
    """Of its release; the tree has none."""

    def __str__(self) -> str:
        return f"{self.service} {self.version}"


def installed(say: Callable[[str], None]) -> Mapping[str, Sequence[Installed]]:
    """Of each service the old version, where there is one, and the new one. Raises CannotBuild, NotReleased."""
    ledger = Ledger()
    contracts = wheel_of_tree("contracts")
    found = {}
    for service in SERVICES:
        latest = ledger.latest(service)
        old = [_old(latest, ledger)] if latest else []
        found[service] = [*old, _new(service, contracts)]
        say(f"{service}: {' and '.join(each.version for each in found[service])}")
    return found


def of_tree() -> Mapping[str, Installed]:
    """Of each service the new version. Raises CannotBuild."""
    contracts = wheel_of_tree("contracts")
    return {service: _new(service, contracts) for service in SERVICES}


def of_revision(revision: str) -> Mapping[str, Installed]:
    """Of each service the version at a revision of this repository. Raises CannotBuild."""
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    contracts = _wheel_of(commit, "contracts")
    found = {}
    for service in SERVICES:
        lock = git("cat-file", "blob", f"{commit}:{folder(service)}/requirements.lock") + "\n"
        python = _environment(service, lock, [_wheel_of(commit, service), contracts])
        found[service] = Installed(service, "old", _called(commit, service), python, commit)
    return found


def _called(commit: str, package: str) -> str:
    """As this tree is called, so that it may work on the same schema; but which revision it is."""
    return f"{version.of_tree(package).text.partition('+')[0]}+g{commit[:7]}"


def _wheel_of(commit: str, package: str) -> Path:
    called = _called(commit, package)

    def make(place: Path) -> None:
        with checkout(commit, folder(package), *BUILT_WITH) as tree:
            build(tree, package, time_of(commit), place, called)

    (wheel,) = _made(f"commit-{package}-{called}-{commit[:12]}", make).glob("*.whl")
    return wheel


def wheel_of_tree(package: str) -> Path:
    """Built from the working tree, unless that has been done."""
    options = ("--cached", "--others", "--exclude-standard", "--deduplicate")
    paths = git("ls-files", *options, "--", folder(package), *BUILT_WITH)
    files = [ROOT / path for path in paths.splitlines() if "/tests/" not in path and (ROOT / path).is_file()]
    called = version.of_tree(package).text
    digest = hashlib.sha256(called.encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)

    def make(place: Path) -> None:
        with TemporaryDirectory(prefix="souk-") as tree:
            for file in files:
                copy = tree / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
            build(Path(tree), package, time_of("HEAD"), place, called)

    (wheel,) = _made(f"tree-{package}-{digest.hexdigest()[:12]}", make).glob("*.whl")
    return wheel


def _old(release: Release, ledger: Ledger) -> Installed:
    lock = git("cat-file", "blob", f"{release.commit}:{folder(release.package)}/requirements.lock") + "\n"
    contracts = built(ledger.find("contracts", release.contracts)).wheel
    python = _environment(release.package, lock, [built(release).wheel, contracts])
    return Installed(release.package, "old", release.version, python, release.commit)


def _new(service: str, contracts: Path) -> Installed:
    wheel = wheel_of_tree(service)
    lock = (ROOT / folder(service) / "requirements.lock").read_text()
    python = _environment(service, lock, [wheel, contracts])
    return Installed(service, "new", version.of_tree(service).text, python, "")


def _environment(service: str, lock: str, wheels: Sequence[Path]) -> Path:
    """The Python of an environment with these wheels in it, and what the lock pins."""
    pinned = _third_party(lock)
    name = hashlib.sha256("".join([pinned.name, *map(sha256, wheels)]).encode()).hexdigest()[:12]

    def make(place: Path) -> None:
        _run(_UV, "venv", "--quiet", "--no-project", "--no-config", "--python", sys.executable, place)
        _run(_UV, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", place / "bin/python", *wheels)
        (site_packages,) = place.glob("lib/python*/site-packages")
        (site_packages / "third-party.pth").write_text(f"{pinned}\n")

    return _made(f"{service}-{name}", make) / "bin/python"


def _third_party(lock: str) -> Path:
    """A folder with what a lock pins, which the environments of all services with that lock share."""

    def make(place: Path) -> None:
        with TemporaryDirectory(prefix="souk-") as into:
            requirements = Path(into) / "requirements.lock"
            requirements.write_text(lock)
            options = ("--quiet", "--no-deps", "--require-hashes", "--compile-bytecode", "--python", sys.executable)
            _run(_UV, "pip", "install", *options, "--target", place, "--requirement", requirements)

    python = "{}.{}".format(*sys.version_info)
    return _made(f"third-party-{python}-{hashlib.sha256(lock.encode()).hexdigest()[:12]}", make)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, which is there as a whole or not at all."""
    place = CACHE / name
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{name}.", dir=CACHE) as into:
            partial = Path(into) / name
            make(partial)
            if not place.exists():  # nobody else was faster
                partial.rename(place)
    return place


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"'{' '.join(map(str, command[:3]))} …' failed:\n{done.stderr}")
