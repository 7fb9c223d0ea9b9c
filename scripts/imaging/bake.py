"""Builds images with buildx, so that the same commit on the same runtime gives the same bytes, whoever builds them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from releasing import version
from releasing.build import CannotBuild, checkout
from releasing.ledger import ROOT, SERVICES, Ledger

from imaging import engine
from imaging.builds import Builds
from imaging.origin import Image, from_tree

BASE = "debian:trixie-slim"
"""The image in which others are built, and nothing of which is in them; as images/Dockerfile says."""
LOCK = "images/debian-packages.lock"
RUNTIME = ("lock", "tools", "python", "runtime")
"""The stages of images/Dockerfile that are not part of a release."""

Target = dict[str, object]

_UNKEPT: Target = {"output": ["type=cacheonly"]}
"""Of what others are built from, and that is no image of its own."""


@dataclass(frozen=True)
class Options:
    """How images are built."""

    no_cache: bool = False
    locked: bool = False
    """Whether the runtime is made of exactly the packages that the lock pins, rather than of the newest ones."""
    mirrors: tuple[str, ...] = ()
    """Where locked packages come from; Debian's own mirror where none is named."""
    quiet: bool = False


@dataclass(frozen=True)
class Runtime:
    """Debian's Python and its libraries, as an image."""

    name: str
    lock: str
    """The versions and hashes of its packages, as images/debian-packages.lock has them."""
    targets: Mapping[str, Target]
    """What a bake file says of its stages, which are not kept as images."""


def build(images: Sequence[Image], ledger: Ledger, options: Options) -> list[str]:
    """Builds and tags images; gives the names of what was built.

    Raises CannotBuild, NotReleased and subprocess.CalledProcessError.
    """
    if of_tree := [image for image in images if image.release is None]:
        runtime = _runtime(ROOT, options)
        targets = {image.service: _target(image, runtime) for image in of_tree}
        if "single" in targets:
            for service in SERVICES:
                targets.setdefault(service, _target(from_tree(service), runtime) | _UNKEPT)
            contexts = {f"{service}-image": f"target:{service}" for service in SERVICES}
            targets["single"] = _with_contexts(targets["single"], contexts)
        ids = _bake(ROOT, {**targets, **runtime.targets}, [image.service for image in of_tree], options)
        for image in of_tree:
            engine.tag(ids[image.service], *(f"souk/{image.service}:{tag}" for tag in image.tags))
    return [image.name if image.release is None else _build_release(image, ledger, options) for image in images]


def _build_release(image: Image, ledger: Ledger, options: Options) -> str:
    """A release is built from its own tree, but for the runtime, which is that of the working tree unless locked."""
    assert image.release is not None
    contracts = ledger.find("contracts", image.release.contracts)
    with checkout(image.release.commit) as tree, checkout(contracts.commit) as theirs:
        if options.locked and " AS packages" not in (tree / "images/Dockerfile").read_text():
            raise CannotBuild(
                f"{image} was released before runtimes could be locked. Build it without --locked: it is then put on "
                "the newest runtime."
            )
        shutil.copy(tree / "images/Dockerfile.dockerignore", theirs / ".dockerignore")
        runtime = _runtime(tree if options.locked else ROOT, options)
        if not options.locked:
            (tree / LOCK).write_text(runtime.lock)  # the first releases read it from their own tree
        target = _with_contexts(_target(image, runtime), {"contracts-tree": str(theirs)})
        built = _bake(tree, {image.service: target, **runtime.targets}, [image.service], options)[image.service]
    found = engine.find(built)
    assert found is not None, f"the engine has {built}, which it has built"
    build, is_newest = Builds().record(image.service, image.version, found.architecture, runtime.name, found.content)
    moving = image.tags if is_newest else ()
    engine.tag(built, *(f"souk/{image.service}:{tag}" for tag in (build.tag, *moving)))
    name = f"souk/{image.service}:{build.tag}"
    print(f"{image} is {name}, on {runtime.name}; the list of builds, builds.toml, has it", file=sys.stderr)
    return name


def _runtime(tree: Path, options: Options) -> Runtime:
    """Builds the runtime that a tree describes, and says what is newer in it than the tree's lock."""
    with tempfile.TemporaryDirectory(prefix="souk-runtime-") as into:
        targets = {stage: _runtime_target(tree, stage, options) for stage in RUNTIME}
        exported = {**targets["lock"], "output": [f"type=local,dest={into}"]}
        ids = _bake(ROOT, {"exported": exported, "runtime": targets["runtime"]}, ["exported", "runtime"], options)
        lock = (Path(into) / "debian-packages.lock").read_text()
    built = engine.find(ids["runtime"])
    assert built is not None, "the engine has the runtime, which it has built"
    name = f"souk/runtime:trixie-{built.layers[-1].partition(':')[2][:12]}"
    engine.tag(ids["runtime"], name)
    if moved := _moved((tree / LOCK).read_text(), lock):
        print(f"{name} is newer than {LOCK}: {', '.join(moved)}", file=sys.stderr)
    return Runtime(name, lock, {stage: target | _UNKEPT for stage, target in targets.items()})


def _moved(was: str, now: str) -> list[str]:
    """What differs between two locks, for the packages that the second one has."""

    def versions(lock: str) -> dict[tuple[str, str], str]:
        rows = (line.split() for line in lock.splitlines() if line and not line.startswith("#"))
        return {(architecture, name): number for _, architecture, name, number, _ in rows}

    before = versions(was)
    changed = {name: (before.get((arch, name), "not locked"), new) for (arch, name), new in versions(now).items()}
    return [f"{name} {old} → {new}" for name, (old, new) in sorted(changed.items()) if old != new]


def _runtime_target(tree: Path, stage: str, options: Options) -> Target:
    """A stage of the runtime. Its arguments are the same for every image, so that each is built once."""
    folders = [mirror for mirror in options.mirrors if Path(mirror).is_absolute()]
    if len(folders) > 1:
        raise CannotBuild(f"--mirror names {len(folders)} folders; name one, and URLs.")
    sources = ["file:/mirror" if mirror in folders else mirror for mirror in options.mirrors]
    for source in sources:
        _check_mirror(source)
    arguments = {
        "MODE": "locked" if options.locked else "newest",
        "DAY": "" if options.locked else datetime.now(UTC).date().isoformat(),
        "MIRRORS": "\n".join(sources),
        "SOURCE_DATE_EPOCH": "0",
    }
    target: Target = {
        "context": str(tree),
        "dockerfile": "images/Dockerfile",
        "target": stage,
        "args": arguments,
    }
    if folders:
        target["contexts"] = {"mirror": folders[0]}
    return target


def _check_mirror(mirror: str) -> None:
    """Raises CannotBuild unless it is 'URL' or 'URL SUITE COMPONENT' of what builds can reach."""
    try:
        url = urlsplit(mirror.partition(" ")[0])
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https", "file") or "\n" in mirror:
        raise CannotBuild(f"--mirror is '{mirror}'; name an http or https URL, or the absolute path of a folder.")
    if url.hostname in ("localhost", "127.0.0.1", "::1"):
        raise CannotBuild(f"--mirror is {mirror}, which builds cannot reach: name the mirror's folder instead.")


def _target(image: Image, runtime: Runtime) -> Target:
    """What the Dockerfile is to be told. Released Dockerfiles are told it, too: take nothing away from here."""
    arguments = {
        "SERVICE": image.service,
        "VERSION": image.version,
        "REVISION": image.revision,
        "CREATED": image.created,
        "SOURCE_DATE_EPOCH": str(image.epoch),
    }
    if image.release is None:  # a release's packages say their versions themselves
        package = "gateway" if image.service == "single" else image.service
        arguments["CONTRACTS_VERSION"] = version.of_tree("contracts").text
        arguments["PACKAGE_VERSION"] = version.of_tree(package).text
    return {
        "dockerfile": "images/Dockerfile",
        "target": image.service,
        "args": arguments,
        "contexts": {stage: f"target:{stage}" for stage in RUNTIME},
        "labels": {"org.opencontainers.image.base.name": runtime.name},
    }


def _with_contexts(target: Target, contexts: Mapping[str, str]) -> Target:
    there = target["contexts"]
    assert isinstance(there, dict)
    return {**target, "contexts": {**there, **contexts}}


def _bake(tree: Path, targets: Mapping[str, Target], wanted: Sequence[str], options: Options) -> dict[str, str]:
    """`targets` as a bake file has them; those `wanted` are kept. Gives their ids, where they are images."""
    with tempfile.TemporaryDirectory(prefix="souk-bake-") as folder:
        metadata = Path(folder) / "metadata.json"
        subprocess.run(
            [
                *("docker", "buildx", "bake", "--file", "-", f"--metadata-file={metadata}"),
                *(["--no-cache"] if options.no_cache else []),
                *(["--progress=quiet"] if options.quiet else []),
                *wanted,
            ],
            cwd=tree,
            check=True,
            # Without its templates, which a folder or a mirror may look like.
            input=json.dumps({"target": targets}).replace("${", "$${").replace("%{", "%%{"),
            text=True,
            env={
                **os.environ,
                # An attestation says when and where an image was built: no two would be the same.
                "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
                # Newer versions of buildx ask before they read folders outside of the current one. These are our own.
                "BUILDX_BAKE_ENTITLEMENTS_FS": "0",
            },
        )
        said = json.loads(metadata.read_text())
    found = {name: said.get(name, {}) for name in wanted}
    return {
        name: each.get("containerimage.config.digest") or each["containerimage.digest"]
        for name, each in found.items()
        if "containerimage.digest" in each or "containerimage.config.digest" in each
    }


def lock() -> str:
    """The versions of Debian's packages that its mirror has now, as images/debian-packages.lock has them."""
    command = ["docker", "run", "--rm", f"--volume={ROOT}/images:/images:ro", BASE, "/images/layer", "lock"]
    return subprocess.run([*command, "/images/debian-packages"], check=True, stdout=subprocess.PIPE, text=True).stdout
