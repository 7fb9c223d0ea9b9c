"""What the container engine has."""

import hashlib
import json
import subprocess
from dataclasses import dataclass

from releasing.build import CannotBuild


@dataclass(frozen=True)
class Stored:
    """An image in the engine, or in a registry."""

    layers: tuple[str, ...]
    """The digests of its layers, uncompressed: the same however a registry compressed them."""
    architecture: str
    labels: dict[str, str]

    @property
    def content(self) -> str:
        """One digest for all layers."""
        return hashlib.sha256("\n".join(self.layers).encode()).hexdigest()

    @property
    def revision(self) -> str:
        """The commit that it was built from; empty where it does not say."""
        return self.labels.get("org.opencontainers.image.revision", "")

    @property
    def runtime(self) -> str:
        """The name of the runtime below it; empty in images that were built before there were runtimes."""
        return self.labels.get("org.opencontainers.image.base.name", "")


def find(name: str) -> Stored | None:
    """An image that the engine has, by its name or id. Raises CannotBuild where the engine does not say."""
    done = subprocess.run(["docker", "inspect", "--type=image", name], capture_output=True, text=True, check=False)
    if done.returncode and "no such" in done.stderr.lower():
        return None
    if done.returncode:
        raise CannotBuild(f"Docker does not say whether it has {name}: {done.stderr.strip()}")
    (image,) = json.loads(done.stdout)
    return Stored(tuple(image["RootFS"]["Layers"]), image["Architecture"], image["Config"].get("Labels") or {})


def tag(name: str, *others: str) -> None:
    """Gives an image further names."""
    for other in others:
        subprocess.run(["docker", "tag", name, other], check=True)
