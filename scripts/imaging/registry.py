"""Puts images into a registry. A version keeps its own content there; a build revision keeps all of its bytes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass

from releasing import version

from imaging import engine
from imaging.builds import Build, Builds
from imaging.engine import Stored
from imaging.origin import Image


class CannotPush(Exception):
    """An image was not pushed; the text says why, and what to do."""


@dataclass(frozen=True)
class Pushed(Stored):
    """An image in a registry."""

    digest: str


def push(image: Image, registry: str) -> None:
    """Pushes an image with all its tags, and prints the digests. Raises CannotPush.

    The tags that move come last, so that they never name what is refused.
    """
    local = _checked(image)
    repository = f"{registry}/souk/{image.service}"
    if image.release is None:
        _push_tag(image.name, local, f"{repository}:{image.tags[0]}")
        return
    builds = Builds().of(image.service, image.version, local.architecture)
    build = next((each for each in builds if each.content == local.content), None)
    if build is None:
        raise CannotPush(f"The list of builds lacks {image.name}. Build it again: ./scripts/images build {image}")
    _check_version(f"{repository}:{image.version}", image, local, builds)
    _check_revision(f"{repository}:{build.tag}", build, local)
    moving = image.tags
    if build != builds[-1]:
        print(f"{image} is {build.tag} here, and {builds[-1].tag} is newer: no other tag moves to it", file=sys.stderr)
        moving = ()
    for tag in moving:
        _check_series(f"{repository}:{tag}", image)
    for tag in (build.tag, *moving):
        _push_tag(image.name, local, f"{repository}:{tag}")


def _check_version(remote: str, image: Image, local: Stored, builds: list[Build]) -> None:
    """Raises CannotPush where the version that is there is not the same release, or is a build that nobody knows."""
    there = find(remote)
    if there is None:
        return
    if there.revision != local.revision:
        raise CannotPush(
            f"{remote} is there with other content ({there.digest}): it was built from {there.revision or 'elsewhere'} "
            f"and {image} from {local.revision}. A version never gets other content; release a new one."
        )
    if there.runtime and there.content not in {each.content for each in builds}:
        raise CannotPush(
            f"{remote} is there as the same release on another runtime, {there.runtime} ({there.digest}), and the list "
            "of builds lacks that build. Somebody else pushed it: get their builds.toml, and build again."
        )


def _check_series(remote: str, image: Image) -> None:
    """Raises CannotPush where a tag that moves, such as 1, is at a later release than the ledger knows of."""
    there = find(remote)
    said = there.labels.get("org.opencontainers.image.version", "") if there else ""
    try:
        is_later = version.order(said) > version.order(image.version)
    except ValueError:
        return
    if is_later:
        raise CannotPush(f"{remote} is {said}, which this tree's ledger lacks: get the newest releases.toml.")


def _check_revision(remote: str, build: Build, local: Stored) -> None:
    """Raises CannotPush where a build revision is there with other bytes."""
    there = find(remote)
    if there is not None and there.layers != local.layers:
        raise CannotPush(
            f"{remote} is there on another runtime, {there.runtime} ({there.digest}), and a build revision never "
            f"changes. Somebody else pushed revision {build.revision}: get their builds.toml, and build again."
        )


def _push_tag(name: str, local: Stored, remote: str) -> None:
    """Pushes an image under one tag, unless it is there, and prints the digest. Raises CannotPush."""
    there = find(remote)
    same = there is not None and there.layers == local.layers
    if not same:
        _push(name, remote)
        there = find(remote)
    if there is None or there.layers != local.layers:
        raise CannotPush(
            f"{remote} is not what was pushed. Somebody else may have pushed it at the same time: try again."
        )
    print(f"{remote}@{there.digest}{' (was there already)' if same else ''}")


def find(remote: str) -> Pushed | None:
    """What is there under a tag; None where nothing is. Raises CannotPush when the registry does not say."""
    raw = _inspect(remote, "--raw")
    image = _inspect(remote, "--format={{json .Image}}") if raw else None
    if raw is None or image is None:
        return None
    # One that lists several platforms has no layers of its own, and is not what is pushed here.
    said = json.loads(image)
    return Pushed(
        tuple(said.get("rootfs", {}).get("diff_ids", ())),
        said.get("architecture", ""),
        said.get("config", {}).get("Labels") or {},
        f"sha256:{hashlib.sha256(raw).hexdigest()}",
    )


def _inspect(remote: str, how: str) -> bytes | None:
    done = subprocess.run(["docker", "buildx", "imagetools", "inspect", how, remote], capture_output=True, check=False)
    error = done.stderr.decode().strip()
    if done.returncode and error.endswith("not found"):
        return None
    if done.returncode:
        raise CannotPush(f"{remote.partition('/')[0]} does not say what it has: {error}")
    return done.stdout


def _checked(image: Image) -> Stored:
    """The image that the engine has. Raises CannotPush unless it was built from what is committed."""
    local = engine.find(image.name)
    if local is None:
        raise CannotPush(f"There is no image {image.name}; build it first: ./scripts/images build {image}")
    if image.revision == "unknown":
        raise CannotPush(f"The commit that {image} was built from is not known, so it is not pushed.")
    if image.revision.endswith("-dirty"):
        raise CannotPush(f"{image} has changes that are not committed ({image.revision}); commit them and build again.")
    if local.revision != image.revision:
        raise CannotPush(
            f"{image.name} was built from {local.revision}, and {image} is {image.revision}; "
            f"build it first: ./scripts/images build {image}"
        )
    return local


def _push(name: str, remote: str) -> None:
    """Raises CannotPush. The name in the registry is the engine's for as long as it takes."""
    subprocess.run(["docker", "tag", name, remote], check=True)
    try:
        done = subprocess.run(["docker", "push", "--quiet", remote], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotPush(f"{remote} cannot be pushed: {done.stderr.strip()}")
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", remote], check=True, stdout=subprocess.DEVNULL)
