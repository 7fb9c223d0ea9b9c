"""Builds images with buildx, so that the same commit gives the same bytes, whoever builds them, when and where."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from releasing.build import TOOLS_LOCK, checkout
from releasing.ledger import ROOT, SERVICES, Ledger

from imaging.origin import Image, from_tree

BASE = "debian:trixie-slim"
"""The image in which others are built, and nothing of which is in them; as images/Dockerfile says."""


def build(images: Sequence[Image], ledger: Ledger, *options: str) -> None:
    """Builds and tags images; `options` are for buildx.

    Raises CannotBuild, NotReleased and subprocess.CalledProcessError.
    """
    if from_the_tree := [image for image in images if image.release is None]:
        targets = {image.service: _target(image) for image in from_the_tree}
        if "single" in targets:
            for service in SERVICES:
                targets.setdefault(service, _target(from_tree(service, ledger)))
            targets["single"]["contexts"] = {f"{service}-image": f"target:{service}" for service in SERVICES}
        _bake(ROOT, targets, [image.service for image in from_the_tree], options)
    for image in images:
        if image.release is not None:
            with _released(image, ledger) as (tree, contracts):
                target = _target(image) | {"contexts": {"contracts-tree": str(contracts)}}
                _bake(tree, {image.service: target}, [image.service], options)


@contextmanager
def _released(image: Image, ledger: Ledger) -> Iterator[tuple[Path, Path]]:
    """What a release is built from: its own tree, and that of its contracts with the tools that made them."""
    assert image.release is not None
    contracts = ledger.find("contracts", image.release.contracts)
    with checkout(image.release.commit) as tree, checkout(contracts.commit, "contracts", TOOLS_LOCK) as theirs:
        shutil.copy(tree / "images/Dockerfile.dockerignore", theirs / ".dockerignore")
        yield tree, theirs


def _target(image: Image) -> dict[str, object]:
    """What the Dockerfile is to be told. Released Dockerfiles are told it, too: take nothing away from here."""
    arguments = {
        "SERVICE": image.service,
        "VERSION": image.version,
        "REVISION": image.revision,
        "CREATED": image.created,
        "SOURCE_DATE_EPOCH": str(image.epoch),
    }
    return {
        "dockerfile": "images/Dockerfile",
        "target": image.service,
        "args": arguments,
        "tags": [f"souk/{image.service}:{tag}" for tag in image.tags],
    }


def _bake(tree: Path, targets: dict[str, dict[str, object]], services: list[str], options: Sequence[str]) -> None:
    """`targets` as a bake file has them; those of `services` are kept."""
    subprocess.run(
        ["docker", "buildx", "bake", "--file", "-", *options, *services],
        cwd=tree,
        check=True,
        input=json.dumps({"target": targets}),
        text=True,
        # An attestation says when and where an image was built: no two would be the same.
        env={**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
    )


def lock() -> str:
    """The versions of Debian's packages that its mirror has now, as images/debian-packages.lock has them."""
    command = ["docker", "run", "--rm", f"--volume={ROOT}/images:/images:ro", BASE, "/images/layer", "lock"]
    return subprocess.run([*command, "/images/debian-packages"], check=True, stdout=subprocess.PIPE, text=True).stdout
