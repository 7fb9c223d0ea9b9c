"""What an image is made from: a version of a service, and the commit that says how old it is."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from releasing import version
from releasing.build import CannotBuild, git, is_cut_off
from releasing.ledger import ROOT, SERVICES, Ledger, Release, folder, numbers

IMAGES = (*SERVICES, "single")
TREE = "tree"
"""The tag of the newest image that was built from the working tree."""


@dataclass(frozen=True)
class Image:
    """An image to be built."""

    service: str
    version: str
    """As PEP 440 has it: 1.2.0, or 1.2.0.dev7+g2a7b2b4 of the working tree."""
    revision: str
    """The last commit that touched what the image is made of, so that no other one makes another image of it."""
    epoch: int
    """When that was committed, in seconds since 1970."""
    tags: tuple[str, ...]
    """The version first; then the tags that move: 1.2 and 1 where it is the newest, or `tree`."""
    release: Release | None = None
    """None when it is built from the working tree."""

    def __str__(self) -> str:
        return f"{self.service}@{self.version}" if self.release else self.service

    @property
    def name(self) -> str:
        """As the engine knows it."""
        return f"souk/{self.service}:{self.tags[0]}"

    @property
    def created(self) -> str:
        """As RFC 3339 has it."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str, ledger: Ledger) -> Image:
    """The image that somebody means by `orders` or `orders@1.0.0`. Raises CannotBuild and NotReleased."""
    service, at, number = text.partition("@")
    if service not in IMAGES:
        raise CannotBuild(f"There is no image '{service}'. The images are {', '.join(IMAGES)}.")
    if not at:
        return from_tree(service)
    if not number:
        raise CannotBuild(f"'{text}' names no version. Name one, as in {service}@1.1.0, or the tree's image: {service}")
    if service == "single":
        raise CannotBuild("The image 'single' has no releases. Build it from the working tree: images build single")
    return from_release(ledger.find(service, number), ledger)


def from_tree(service: str) -> Image:
    """The image of the working tree, which has a development version. The single image goes by the gateway's."""
    services = SERVICES if service == "single" else (service,)
    extra = ("scripts/launch",) if service == "single" else ()
    paths = [*extra, *_shared_by_all(), *(path for each in services for path in _of_a_service(each))]
    found = version.of_paths("gateway" if service == "single" else service, paths)
    # A release's commit, checked out, is not the release: that is built from the ledger.
    tag = found.tag if "dev" in found.text else f"{found.text}-{found.revision[:7]}"
    return Image(service, found.text, found.revision, found.epoch, (tag, TREE))


def from_release(release: Release, ledger: Ledger) -> Image:
    """The image of a release, with the contracts that it was released with. Raises CannotBuild, NotReleased."""
    contracts = ledger.find("contracts", release.contracts)
    epoch, revision = max(
        last(release.commit, ["images", *_of_a_service(release.package)]),
        last(contracts.commit, version.contents("contracts")),
    )
    versions = tags(release.package, release.version, ledger)
    return Image(release.package, release.version, revision, epoch, versions, release)


def _shared_by_all() -> tuple[str, ...]:
    return "images", "packages/version.py", *version.contents("contracts")


def _of_a_service(service: str) -> tuple[str, ...]:
    """As images/Dockerfile.dockerignore lets in."""
    return *version.contents(service), f"{folder(service)}/requirements.lock"


def last(commit: str, paths: list[str] | tuple[str, ...], root: Path = ROOT) -> tuple[int, str]:
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


def tags(package: str, released: str, ledger: Ledger) -> tuple[str, ...]:
    """1.2.3, and 1.2 and 1 unless a higher version of that series was released."""
    own = numbers(released)
    others = [numbers(each.version) for each in ledger.of(package)]
    newest = (length for length in (2, 1) if not any(each[:length] == own[:length] and each > own for each in others))
    return released, *(".".join(map(str, own[:length])) for length in newest)
