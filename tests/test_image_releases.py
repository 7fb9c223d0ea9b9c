"""Images of releases: what changes with which, what is built again from the ledger, and what a registry is given."""

import json
import os
import random
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from imaging.origin import tags
from releasing.ledger import SERVICES, Ledger, Release

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(300)  # each builds images, several times over

NEXT_MINOR = iter(range(random.randrange(1000, 1_000_000_000), 2_000_000_000))
"""Versions below 1.0 that no other run has, since all runs on a machine share its engine."""


def run(*command: str, folder: Path = ROOT, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def image_id(name: str) -> str:
    return run("docker", "inspect", "--type=image", "--format={{.Id}}", name).stdout.strip()


def layers(name: str) -> list[str]:
    found: list[str] = json.loads(run("docker", "inspect", "--type=image", name).stdout)[0]["RootFS"]["Layers"]
    return found


class Tree:
    """A clone of this repository that a test may change; its services have a version that nobody else has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.minor = next(NEXT_MINOR)
        run("git", "clone", "--quiet", str(ROOT), str(folder))
        self.git("config", "user.name", "Amina")
        self.git("config", "user.email", "amina@example.com")
        (folder / "releases.toml").unlink(missing_ok=True)
        for service in SERVICES:
            self.set_version(service, f"0.{self.minor}.0")
        self.commit("versions")

    def git(self, *arguments: str) -> str:
        return run("git", *arguments, folder=self.folder).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def set_version(self, package: str, version: str) -> None:
        place = "contracts" if package == "contracts" else f"packages/{package}"
        path = self.folder / place / f"src/souk_{package}/__init__.py"
        path.write_text(re.sub('__version__ = ".+"', f'__version__ = "{version}"', path.read_text()))

    def change_code(self, service: str) -> None:
        with (self.folder / f"packages/{service}/src/souk_{service}/settings.py").open("a") as file:
            file.write(f'\nADDED = "{uuid4()}"\n')

    def add_release(self, package: str, version: str, commit: str) -> None:
        contracts = "" if package == "contracts" else Ledger(self.folder).of("contracts")[-1].version
        Ledger(self.folder).add(Release(package, version, commit, "0" * 64, "0" * 64, contracts=contracts))

    def images(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`scripts/images` of this clone."""
        return run("./scripts/images", *arguments, folder=self.folder, code=code, **environment)

    def ids(self) -> dict[str, str]:
        return {service: image_id(f"souk/{service}:0.{self.minor}.0") for service in SERVICES}

    def remove_images(self) -> None:
        """With the tag `0`, unless another run has it now."""
        listed = run("docker", "images", "--format={{.Repository}}:{{.Tag}} {{.ID}}", "souk/*").stdout.splitlines()
        own = {line.split()[1] for line in listed if f":0.{self.minor}" in line}
        if own:
            run("docker", "rmi", *(line.split()[0] for line in listed if line.split()[1] in own))


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "souk")
    yield made
    made.remove_images()


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """Debian's registry, on loopback, as host and port."""
    run("docker", "build", "--quiet", "--tag=souk-test/registry", "tests/registry")
    name = f"souk-test-registry-{uuid4().hex[:8]}"
    run("docker", "run", "--detach", "--rm", f"--name={name}", "--publish=127.0.0.1::5000", "souk-test/registry")
    try:
        (logged,) = [line for line in follow(name) if "listening on" in line]
        assert logged
        yield run("docker", "port", name, "5000").stdout.strip()
    finally:
        run("docker", "rm", "--force", name)


def follow(container: str) -> Iterator[str]:
    """What a container logs, up to the line that says that it listens."""
    command = ["docker", "logs", "--follow", container]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as logs:
        assert logs.stdout is not None
        for line in logs.stdout:
            yield line
            if "listening on" in line:
                break
        logs.kill()


def pushed(registry: str, service: str, tag: str) -> tuple[dict[str, Any], str, int]:
    """A manifest as the registry has it, its digest, and its length in bytes."""
    request = urllib.request.Request(f"http://{registry}/v2/souk/{service}/manifests/{tag}")
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
        return json.loads(content), answer.headers["Docker-Content-Digest"], len(content)


def blobs(manifest: dict[str, Any]) -> dict[str, int]:
    """The sizes of what a manifest names, in bytes."""
    return {each["digest"]: each["size"] for each in (manifest["config"], *manifest["layers"])}


@pytest.mark.parametrize(
    ("version", "released", "wanted"),
    [
        ("1.0.0", [], ["1.0.0", "1.0", "1"]),
        ("1.1.0", ["1.0.0", "1.1.0"], ["1.1.0", "1.1", "1"]),
        ("1.0.0", ["1.0.0", "1.1.0"], ["1.0.0", "1.0"]),
        ("1.0.9", ["1.0.10", "2.0.0"], ["1.0.9"]),
        ("1.0.11", ["1.0.10", "1.1.0"], ["1.0.11", "1.0"]),
        ("1.10.0", ["1.9.0", "2.0.0"], ["1.10.0", "1.10", "1"]),
    ],
)
def test_a_tag_of_a_series_goes_to_its_newest_version(
    tmp_path: Path, version: str, released: list[str], wanted: list[str]
) -> None:
    ledger = Ledger(tmp_path)
    for each in released:
        ledger.add(Release("orders", each, "c" * 40, "0" * 64, "0" * 64))
    ledger.add(Release("loyalty", "1.99.99", "c" * 40, "0" * 64, "0" * 64))
    assert list(tags("orders", version, ledger)) == wanted


@pytest.mark.containers
def test_the_same_version_is_the_same_image_whoever_builds_it(tree: Tree, tmp_path: Path) -> None:
    tree.images("build", "orders")
    first = image_id(f"souk/orders:0.{tree.minor}.0")
    other = tmp_path / "elsewhere"
    run("git", "clone", "--quiet", str(tree.folder), str(other))
    run("chmod", "-R", "go=", str(other / "packages/orders/src"))  # as from another umask; and nothing is cached
    (other / "docs/more.md").write_text("Nothing of this is in an image.\n")
    (other / "packages/orders/tests/more.py").write_text("MORE = True\n")
    identity = ["-c", "user.name=Amina", "-c", "user.email=amina@example.com"]
    run("git", "add", "--all", folder=other)
    run("git", *identity, "commit", "--quiet", "--message=more", folder=other)
    run("./scripts/images", "build", "orders", folder=other)
    assert image_id(f"souk/orders:0.{tree.minor}.0") == first


@pytest.mark.containers
def test_a_release_of_code_alone_adds_one_layer_and_64_kib_and_leaves_other_images_alone(
    tree: Tree, registry: str
) -> None:
    # The gateway is the one with the most code.
    old, new = f"0.{tree.minor}.0", f"0.{tree.minor}.1"
    tree.images("build")
    before = tree.ids()
    tree.images("push", "gateway", SOUK_REGISTRY=registry)
    tree.change_code("gateway")
    tree.set_version("gateway", new)
    tree.commit("Release gateway")
    tree.images("build")
    tree.images("push", "gateway", SOUK_REGISTRY=registry)

    assert tree.ids() == before
    assert layers(f"souk/gateway:{new}")[:-1] == layers(f"souk/gateway:{old}")[:-1]
    assert layers(f"souk/gateway:{new}")[-1] != layers(f"souk/gateway:{old}")[-1]
    was, _, _ = pushed(registry, "gateway", old)
    now, _, length = pushed(registry, "gateway", new)
    added = sum(size for digest, size in blobs(now).items() if digest not in blobs(was)) + length
    assert added <= 64 * 1024


@pytest.mark.containers
def test_a_released_image_is_built_again_from_its_commits(tree: Tree) -> None:
    version = f"0.{tree.minor}.0"
    released = tree.git("rev-parse", "HEAD")
    tree.images("build", "orders")
    first = image_id(f"souk/orders:{version}")
    tree.add_release("contracts", "1.0.0", released)
    tree.set_version("contracts", "1.9.0")
    tree.commit("The contracts move on, and are not released")
    tree.change_code("orders")
    both = tree.commit("Orders is released with the contracts of before")
    tree.add_release("orders", version, released)
    tree.add_release("orders", f"0.{tree.minor}.1", both)
    tree.set_version("orders", f"0.{tree.minor}.2")
    tree.commit("Later")

    tree.images("build", f"orders@{version}")
    assert image_id(f"souk/orders:{version}") == first
    assert run("docker", "images", "--quiet", f"souk/orders:0.{tree.minor}").stdout.strip() in first

    tree.images("build", f"orders@0.{tree.minor}.1")
    assert layers(f"souk/orders:0.{tree.minor}.1")[:-1] == layers(f"souk/orders:{version}")[:-1]
    assert image_id(f"souk/orders:0.{tree.minor}") == image_id(f"souk/orders:0.{tree.minor}.1")
    assert "released: " in tree.images("build", "orders@7.7.7", code=1).stderr


@pytest.mark.containers
def test_a_version_in_a_registry_is_never_replaced(tree: Tree, registry: str) -> None:
    version = f"0.{tree.minor}.0"
    assert "SOUK_REGISTRY is not set" in tree.images("push", "loyalty", code=1, SOUK_REGISTRY="").stderr
    assert "build it first" in tree.images("push", "loyalty", code=1, SOUK_REGISTRY=registry).stderr
    tree.images("build", "loyalty")
    unreachable = tree.images("push", "loyalty", code=1, SOUK_REGISTRY="127.0.0.1:1").stderr
    assert "127.0.0.1:1 does not say what it has" in unreachable
    said = tree.images("push", "loyalty", SOUK_REGISTRY=registry).stdout.splitlines()
    _, digest, _ = pushed(registry, "loyalty", version)
    assert said == [f"{registry}/souk/loyalty:{tag}@{digest}" for tag in (version, f"0.{tree.minor}", "0")]
    again = tree.images("push", "loyalty", SOUK_REGISTRY=registry).stdout
    assert f"{registry}/souk/loyalty:{version}@{digest} (was there already)" in again

    tree.change_code("loyalty")
    assert "not committed" in tree.images("push", "loyalty", code=1, SOUK_REGISTRY=registry).stderr
    tree.commit("another 1.0")
    assert "was built from" in tree.images("push", "loyalty", code=1, SOUK_REGISTRY=registry).stderr
    tree.images("build", "loyalty")
    assert f"is there with other bytes ({digest})" in (
        tree.images("push", "loyalty", code=1, SOUK_REGISTRY=registry).stderr
    )
    assert [pushed(registry, "loyalty", tag)[1] for tag in (version, "0")] == [digest, digest]
    assert registry not in run("docker", "images", "--format={{.Repository}}").stdout


def layer(tmp_path: Path, command: str, content: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`images/layer` on Debian, with a file of this content."""
    shutil.copy(ROOT / "images/layer", tmp_path / "layer")
    (tmp_path / "file").write_text(content)
    debian = ["docker", "run", "--rm", f"--volume={tmp_path}:/given:ro", "debian:trixie-slim"]
    return run(*debian, "/given/layer", command, "/given/file", "/out", code=code)


@pytest.mark.containers
def test_debian_packages_are_locked_by_version_and_hash(tmp_path: Path) -> None:
    lock = layer(tmp_path, "lock", "# comment\npython zlib1g\n").stdout
    locked = [line for line in lock.splitlines() if not line.startswith("#")]
    assert [line.split()[:3] for line in locked] == [["python", each, "zlib1g"] for each in ("amd64", "arm64")]
    assert all(len(line.split()[4]) == 64 for line in locked)

    version = locked[0].split()[3]
    gone = layer(tmp_path, "python", lock.replace(version, "1:0.9"), code=1).stderr
    assert (
        f"Debian's mirror has no zlib1g 1:0.9 any more, which images/debian-packages.lock pins; it has {version}."
        in gone
    )
    assert "./scripts/images lock" in gone
    assert "SHA-256" in layer(tmp_path, "python", re.sub("[0-9a-f]{64}", "0" * 64, lock), code=1).stderr
    layer(tmp_path, "lock", "python no-such-package\n", code=100)


def test_the_lock_pins_what_is_listed_for_each_architecture() -> None:
    listed = [line.split() for line in (ROOT / "images/debian-packages").read_text().splitlines() if line[0] != "#"]
    lock = [line.split() for line in (ROOT / "images/debian-packages.lock").read_text().splitlines() if line[0] != "#"]
    pinned = [(use, architecture, name) for use, architecture, name, _, _ in lock]
    assert pinned == [(use, architecture, name) for architecture in ("amd64", "arm64") for use, name in listed]
