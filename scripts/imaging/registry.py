"""Puts images into a registry. A version that is there is never replaced by other bytes."""

import hashlib
import json
import subprocess
from dataclasses import dataclass

from imaging.origin import Image


class CannotPush(Exception):
    """An image was not pushed; the text says why, and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a registry has under a tag."""

    digest: str
    config: str
    """The digest of the image's configuration, which names the bytes of its layers, however they were compressed."""


def push(image: Image, registry: str) -> None:
    """Pushes an image with all its tags, and prints the digests. Raises CannotPush.

    Minor and major tags come last, so that they never name what is refused.
    """
    local = _checked(image)
    repository = f"{registry}/souk/{image.service}"
    for tag in image.tags:
        remote = f"{repository}:{tag}"
        there = find(remote)
        same = there is not None and local in (there.config, there.digest)
        if there is not None and not same and tag == image.version:
            raise CannotPush(
                f"{remote} is there with other bytes ({there.digest}), and a version is never replaced; "
                "release a new one."
            )
        if not same:
            _push(f"souk/{image.service}:{image.version}", remote)
            there = find(remote)
        if there is None or local not in (there.config, there.digest):
            raise CannotPush(f"{remote} is not what was pushed; did somebody else push it at the same time?")
        print(f"{remote}@{there.digest}{' (was there already)' if same else ''}")


def find(remote: str) -> Manifest | None:
    """What is there under a tag; None where nothing is. Raises CannotPush when the registry does not say."""
    command = ["docker", "buildx", "imagetools", "inspect", "--raw", remote]
    done = subprocess.run(command, capture_output=True, check=False)
    error = done.stderr.decode().strip()
    if done.returncode and error.endswith("not found"):
        return None
    if done.returncode:
        raise CannotPush(f"{remote.partition('/')[0]} does not say what it has: {error}")
    # One that lists several platforms has no configuration of its own, and is not what is pushed here.
    config = json.loads(done.stdout).get("config", {}).get("digest", "")
    return Manifest(f"sha256:{hashlib.sha256(done.stdout).hexdigest()}", config)


def _checked(image: Image) -> str:
    """The id of the image that the engine has. Raises CannotPush unless it was built from what is committed."""
    done = subprocess.run(
        ["docker", "inspect", "--type=image", image.name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotPush(f"There is no image {image.name}; build it first: ./scripts/images build {image}")
    (inspected,) = json.loads(done.stdout)
    revision = inspected["Config"]["Labels"]["org.opencontainers.image.revision"]
    if image.revision == "unknown" or image.revision.endswith("-dirty"):
        raise CannotPush(f"{image} has changes that are not committed ({image.revision}); commit them and build again.")
    if revision != image.revision:
        raise CannotPush(
            f"{image.name} was built from {revision}, and {image} is {image.revision}; "
            f"build it first: ./scripts/images build {image}"
        )
    return str(inspected["Id"])


def _push(name: str, remote: str) -> None:
    """Raises CannotPush. The name in the registry is the engine's for as long as it takes."""
    subprocess.run(["docker", "tag", name, remote], check=True)
    try:
        done = subprocess.run(["docker", "push", "--quiet", remote], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotPush(f"{remote} cannot be pushed: {done.stderr.strip()}")
    finally:
        subprocess.run(["docker", "rmi", "--no-prune", remote], check=True, stdout=subprocess.DEVNULL)
