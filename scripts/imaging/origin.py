"""What an image is made from: a version of a service, and the commit that says how old it is."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from releasing.build import CannotBuild, git, is_cut_off
from releasing.ledger import ROOT, SERVICES, Ledger, Release, folder, numbers, version_of_tree

IMAGES = (*SERVICES, "single")

SHARED = ("images",)
OF_CONTRACTS = ("README.md", "generator", "hatch_build.py", "openapi", "proto", "pyproject.toml", "src")
OF_A_SERVICE = ("README.md", "pyproject.toml", "requirements.lock", "src")
"""As images/Dockerfile.dockerignore lets in."""


@dataclass(frozen=True)
class Image:
    """An image to be built."""

    service: str
    version: str
    revision: str
    """The last commit that touched what the image is made of, so that no other one makes another image of it."""
    epoch: int
    """When that was committed, in seconds since 1970."""
    tags: tuple[str, ...]
    """The version first; then those of its major and minor versions, where it is the newest."""
    release: Release | None = None
    """None when it is built from the working tree."""

    def __str__(self) -> str:
        return f"{self.service}@{self.version}" if self.release else self.service

    @property
    def name(self) -> str:
        """As the engine knows it."""
        return f"souk/{self.service}:{self.version}"

    @property
    def created(self) -> str:
        """As RFC 3339 has it."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str, ledger: Ledger) -> Image:
    """The image that somebody means by `orders` or `orders@1.0.0`. Raises CannotBuild and NotReleased."""
    service, _, version = text.partition("@")
    if service not in IMAGES:
        raise CannotBuild(f"There is no image '{service}'; there are {', '.join(IMAGES)}.")
    if not version:
        return from_tree(service, ledger)
    if service == "single":
        raise CannotBuild("The image 'single' is built from the working tree only: it has no release of its own.")
    return from_release(ledger.find(service, version), ledger)


def from_tree(service: str, ledger: Ledger) -> Image:
    """The image of the working tree; it goes by the version that the package names. Raises CannotBuild."""
    package = "gateway" if service == "single" else service
    version = version_of_tree(package)
    image = Image(service, version, "unknown", 0, tags(package, version, ledger))
    services = SERVICES if service == "single" else (service,)
    extra = ("scripts/launch",) if service == "single" else ()
    own = [*SHARED, *extra, *(f"packages/{each}/{path}" for each in services for path in OF_A_SERVICE)]
    contracts = [f"contracts/{path}" for path in OF_CONTRACTS]
    try:
        epoch, revision = max(last("HEAD", own), last("HEAD", contracts))
        dirty = git("status", "--porcelain", "--", *own, *contracts)
    except (CannotBuild, FileNotFoundError) as error:  # an unpacked archive, a shallow clone, or no git
        print(f"{image.name} will not name its revision. {error}", file=sys.stderr)
        return image
    return replace(image, revision=f"{revision}-dirty" if dirty else revision, epoch=epoch)


def from_release(release: Release, ledger: Ledger) -> Image:
    """The image of a release, with the contracts that it was released with. Raises CannotBuild, NotReleased."""
    contracts = ledger.find("contracts", release.contracts)
    own = [*SHARED, *(f"{folder(release.package)}/{path}" for path in OF_A_SERVICE)]
    epoch, revision = max(
        last(release.commit, own),
        last(contracts.commit, [f"contracts/{path}" for path in OF_CONTRACTS]),
    )
    versions = tags(release.package, release.version, ledger)
    return Image(release.package, release.version, revision, epoch, versions, release)


def last(commit: str, paths: list[str], root: Path = ROOT) -> tuple[int, str]:
    """The last commit up to this one that touched any of these paths, after its time. Raises CannotBuild."""
    found = git("rev-list", "--max-count=1", "--timestamp", commit, "--", *paths, root=root).split()
    if not found:
        raise CannotBuild(f"Git knows nothing of {', '.join(paths)} at {commit}.")
    if is_cut_off(found[1], root):
        raise CannotBuild(
            f"This clone is shallow, and does not say which commit last changed {paths[0]} and the like: "
            "'git fetch --unshallow --tags' fetches the history that it lacks."
        )
    return int(found[0]), found[1]


def tags(package: str, version: str, ledger: Ledger) -> tuple[str, ...]:
    """1.2.3, and 1.2 and 1 unless a higher version of that series was released. Raises CannotBuild."""
    try:
        own = numbers(version)
    except ValueError as error:
        raise CannotBuild(f"{package}: {error}.") from None
    released = [numbers(each.version) for each in ledger.of(package)]
    newest = (length for length in (2, 1) if not any(each[:length] == own[:length] and each > own for each in released))
    return version, *(".".join(map(str, own[:length])) for length in newest)
