"""Images of releases: what changes with which, what is built again from the ledger, and what a registry is given."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from imaging import engine
from imaging import registry as registry_of_images
from imaging.builds import Build, Builds
from imaging.origin import Image, tags
from imaging.registry import CannotPush, Pushed, push
from releasing.build import CannotBuild
from releasing.ledger import Ledger, Release

from tests.conftest import ROOT
from tests.image_tree import Tree, image_id, layers, run

pytestmark = pytest.mark.timeout(300)  # each builds images, several times over


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path / "souk")
    yield made
    made.remove_images()


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


class FakeRegistry:
    """What is there under which tag of orders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tags: dict[str, Pushed] = {}
        self.local = stored("1.2.0", "one")
        monkeypatch.setattr(registry_of_images, "find", lambda remote: self.tags.get(remote.rpartition(":")[2]))
        monkeypatch.setattr(registry_of_images, "_push", self.push)
        monkeypatch.setattr(engine, "find", lambda _: self.local)

    def push(self, _: str, remote: str) -> None:
        self.tags[remote.rpartition(":")[2]] = self.local

    def layers(self) -> dict[str, str]:
        """The runtime that each tag is on."""
        return {tag: there.layers[0] for tag, there in self.tags.items()}


def stored(number: str, runtime: str) -> Pushed:
    labels = {"version": number, "revision": "c" * 40, "base.name": runtime}
    named = {f"org.opencontainers.image.{name}": value for name, value in labels.items()}
    return Pushed((runtime, f"orders {number}"), "amd64", named, "sha256:0")


ORDERS = Image("orders", "1.2.0", "c" * 40, 0, ("1.2.0", "1.2", "1"), Release("orders", "1.2.0", "c" * 40, "", ""))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRegistry:
    """A registry, and a list of builds that has an older and a newer one of orders 1.2.0."""
    monkeypatch.setenv("SOUK_BUILDS", str(tmp_path / "builds.toml"))
    for runtime in ("one", "two"):
        Builds().record("orders", "1.2.0", "amd64", runtime, stored("1.2.0", runtime).content)
    return FakeRegistry(monkeypatch)


def test_tags_that_move_stay_at_the_newest_build_when_an_older_one_is_pushed(
    fake: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.local = stored("1.2.0", "two")
    push(ORDERS, "localhost:5000")
    fake.local = stored("1.2.0", "one")  # as on the machine of somebody who built before the other did
    push(ORDERS, "localhost:5000")
    assert fake.layers() == {"1.2.0-r1": "one"} | dict.fromkeys(("1.2.0-r2", "1.2.0", "1.2", "1"), "two")
    assert "orders@1.2.0 is 1.2.0-r1 here, and 1.2.0-r2 is newer" in capsys.readouterr().err


def test_a_tag_of_a_series_never_goes_back_to_an_older_release(fake: FakeRegistry) -> None:
    fake.local = stored("1.2.0", "two")
    fake.tags["1"] = stored("1.3.0", "one")
    with pytest.raises(CannotPush, match=r"^localhost:5000/souk/orders:1 is 1\.3\.0, which this tree's ledger lacks"):
        push(ORDERS, "localhost:5000")
    assert list(fake.tags) == ["1"]


def test_the_number_of_a_build_is_above_all_others_and_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "builds.toml"
    monkeypatch.setenv("SOUK_BUILDS", str(path))
    path.write_text(Build("orders", "1.2.0", "amd64", 3, "three", "3").entry())
    assert Builds().record("orders", "1.2.0", "amd64", "four", "4")[0].tag == "1.2.0-r4"
    with path.open("a") as file:  # as from a merge of two lists
        file.write(Build("orders", "1.2.0", "amd64", 4, "other", "5").entry())
    with pytest.raises(CannotBuild, match=r"has orders:1\.2\.0-r4 twice"):
        Builds().of("orders", "1.2.0", "amd64")


@pytest.mark.parametrize(
    "mirror",
    ["", "nowhere", "http://[", "[trusted=yes] http://example.com", "http://localhost trixie main", "http://a\nb"],
)
def test_a_mirror_that_is_none_is_told_in_a_sentence(tmp_path: Path, mirror: str) -> None:
    command = ("./scripts/images", "build", "--locked", "--mirror", mirror, "orders")
    refused = run(*command, code=1, SOUK_BUILDS=str(tmp_path / "none"), DOCKER_HOST="unix:///none").stderr
    assert refused.startswith(
        f"--mirror is {mirror}" if "localhost" in mirror else f"--mirror is '{mirror}'; name an http"
    )


@pytest.mark.containers
def test_the_same_version_is_the_same_image_whoever_builds_it(tree: Tree, tmp_path: Path) -> None:
    tree.images("build", "orders")
    (tag,) = tree.tags("orders")
    assert re.fullmatch(rf"{re.escape(tree.minor)}\.0\.dev\d+-g[0-9a-f]{{7}}", tag)
    first = image_id(f"souk/orders:{tag}")
    other = tmp_path / "elsewhere"
    run("git", "clone", "--quiet", str(tree.folder), str(other))
    run("chmod", "-R", "go=", str(other / "packages/orders/src"))  # as from another umask; and nothing is cached
    (other / "docs/more.md").write_text("Nothing of this is in an image.\n")
    (other / "packages/orders/tests/more.py").write_text("MORE = True\n")
    identity = ["-c", "user.name=Amina", "-c", "user.email=amina@example.com"]
    run("git", "add", "--all", folder=other)
    run("git", *identity, "commit", "--quiet", "--message=more", folder=other)
    run("./scripts/images", "build", "orders", folder=other)
    assert tree.tags("orders") == [tag]
    assert image_id(f"souk/orders:{tag}") == first

    tree.change_code("orders")
    tree.images("build", "orders")
    assert tree.tags("orders") == [tag, f"{tag}.dirty"]
    assert image_id("souk/orders:tree") == image_id(f"souk/orders:{tag}.dirty") != first


@pytest.mark.containers
def test_a_release_of_code_alone_adds_one_layer_of_at_most_128_kib(tree: Tree, registry: str) -> None:
    # The gateway is the one with the most code.
    old, new = f"{tree.minor}.0", f"{tree.minor}.1"
    tree.release("gateway", old)
    tree.images("build", f"gateway@{old}")
    tree.images("push", f"gateway@{old}", SOUK_REGISTRY=registry)
    tree.change_code("gateway")
    tree.release("gateway", new)
    tree.images("build", f"gateway@{new}")
    tree.images("push", f"gateway@{new}", SOUK_REGISTRY=registry)

    assert layers(f"souk/gateway:{new}")[:-1] == layers(f"souk/gateway:{old}")[:-1]
    assert layers(f"souk/gateway:{new}")[-1] != layers(f"souk/gateway:{old}")[-1]
    was, _, _ = pushed(registry, "gateway", old)
    now, _, length = pushed(registry, "gateway", new)
    added = sum(size for digest, size in blobs(now).items() if digest not in blobs(was)) + length
    assert added <= 128 * 1024


@pytest.mark.long
@pytest.mark.containers
def test_a_released_image_is_built_again_from_its_commits(tree: Tree) -> None:
    version, second = f"{tree.minor}.0", f"{tree.minor}.1"
    tree.release("orders", version)
    tree.images("build", f"orders@{version}")
    first = image_id(f"souk/orders:{version}")
    assert tree.tags("orders") == [tree.minor, version, f"{version}-r1"]
    with (tree.folder / "contracts/src/souk_contracts/errors.py").open("a") as file:
        file.write(f'\nADDED = "{uuid4()}"\n')
    tree.change_code("orders")
    tree.commit("The contracts move on, and are not released")
    tree.release("orders", second)

    tree.images("build", f"orders@{version}")
    assert image_id(f"souk/orders:{version}") == first
    assert len(tree.builds()) == 1

    tree.images("build", f"orders@{second}")
    assert layers(f"souk/orders:{second}")[:-1] == layers(f"souk/orders:{version}")[:-1]
    assert image_id(f"souk/orders:{tree.minor}") == image_id(f"souk/orders:{second}")
    assert "released: " in tree.images("build", "orders@7.7.7", code=1).stderr


@pytest.mark.containers
def test_a_version_in_a_registry_keeps_its_content(tree: Tree, registry: str, tmp_path: Path) -> None:
    version = f"{tree.minor}.0"
    loyalty = f"loyalty@{version}"
    tree.release("loyalty", version)
    assert "SOUK_REGISTRY is not set" in tree.images("push", loyalty, code=1, SOUK_REGISTRY="").stderr
    assert "build it first" in tree.images("push", loyalty, code=1, SOUK_REGISTRY=registry).stderr
    tree.images("build", loyalty)
    unreachable = tree.images("push", loyalty, code=1, SOUK_REGISTRY="127.0.0.1:1").stderr
    assert "127.0.0.1:1 does not say what it has" in unreachable
    unlisted = tree.images("push", loyalty, code=1, SOUK_REGISTRY=registry, SOUK_BUILDS=str(tmp_path / "none")).stderr
    assert "Build it again" in unlisted
    said = tree.images("push", loyalty, SOUK_REGISTRY=registry).stdout.splitlines()
    _, digest, _ = pushed(registry, "loyalty", version)
    names = (f"{version}-r1", version, tree.minor, "0")
    assert said == [f"{registry}/souk/loyalty:{tag}@{digest}" for tag in names]
    again = tree.images("push", loyalty, SOUK_REGISTRY=registry).stdout
    assert f"{registry}/souk/loyalty:{version}@{digest} (was there already)" in again

    # Somebody releases the same version from another commit.
    tree.change_code("loyalty")
    (tree.folder / "releases.toml").write_text("")
    tree.release("contracts", "1.9.0")
    tree.release("loyalty", version)
    tree.images("build", loyalty)
    refused = tree.images("push", loyalty, code=1, SOUK_REGISTRY=registry).stderr
    assert f"is there with other content ({digest})" in refused
    assert [pushed(registry, "loyalty", tag)[1] for tag in names] == [digest] * 4
    assert registry not in run("docker", "images", "--format={{.Repository}}").stdout


@pytest.mark.containers
def test_what_the_tree_has_is_pushed_under_its_development_version_once_it_is_committed(
    tree: Tree, registry: str
) -> None:
    tree.change_code("loyalty")
    tree.images("build", "loyalty")
    assert "not committed" in tree.images("push", "loyalty", code=1, SOUK_REGISTRY=registry).stderr
    tree.commit("More")
    tree.images("build", "loyalty")
    tag = tree.tags("loyalty")[-1]
    said = tree.images("push", "loyalty", SOUK_REGISTRY=registry).stdout
    assert said == f"{registry}/souk/loyalty:{tag}@{pushed(registry, 'loyalty', tag)[1]}\n"


def layer(tmp_path: Path, *arguments: str, code: int = 0, **files: str) -> subprocess.CompletedProcess[str]:
    """`images/layer` on Debian, with files of this content in /given."""
    shutil.copy(ROOT / "images/layer", tmp_path / "layer")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    debian = ["docker", "run", "--rm", f"--volume={tmp_path}:/given:ro", "debian:trixie-slim"]
    return run(*debian, "/given/layer", *arguments, code=code)


@pytest.mark.containers
def test_debian_packages_are_locked_by_version_and_hash(tmp_path: Path) -> None:
    listed = "# comment\npython zlib1g\ntools binutils-x86-64-linux-gnu amd64\n"
    lock = layer(tmp_path, "lock", "/given/list", list=listed).stdout
    locked = [line for line in lock.splitlines() if not line.startswith("#")]
    wanted = [["python", "amd64", "zlib1g"], ["tools", "amd64", "binutils-x86-64-linux-gnu"]]
    assert [line.split()[:3] for line in locked] == [*wanted, ["python", "arm64", "zlib1g"]]
    assert all(len(line.split()[4]) == 64 for line in locked)

    version = locked[0].split()[3]
    command = ("packages", "/given/list", "/given/lock", "/out", "locked")
    gone = layer(tmp_path, *command, code=1, lock=lock.replace(version, "1:0.9")).stderr
    assert f"The mirror does not have zlib1g 1:0.9, which images/debian-packages.lock pins; it has {version}." in gone
    assert "Build without --locked" in gone
    assert "SHA-256" in layer(tmp_path, *command, code=1, lock=re.sub("[0-9a-f]{64}", "0" * 64, lock)).stderr
    layer(tmp_path, "lock", "/given/list", code=100, list="python no-such-package\n")


@pytest.mark.containers
def test_the_name_of_a_mirror_is_taken_as_it_is(tmp_path: Path) -> None:
    mirror = str(tmp_path / "a $(date) ${HOME} %{ of 'ours'")  # which bake files would fill in
    refused = run("./scripts/images", "build", "--locked", "--mirror", mirror, "orders", code=1).stderr
    assert f"{mirror}: no such file or directory" in refused


SWAPPED = r"""
set -eu
/given/layer packages /given/list /none /mirror/pool newest
cd /mirror/pool
mkdir -p /mirror/dists/trixie/main/binary-amd64
for package in zlib1g libexpat1; do
  dpkg-deb --field "$(echo "$package"_*.deb)"
  echo "Filename: pool/$(echo libexpat1_*.deb)"
  echo "Size: $(stat -c %s libexpat1_*.deb)"
  echo "SHA256: $(sha256sum libexpat1_*.deb | cut -d ' ' -f 1)"
  echo
done >/mirror/dists/trixie/main/binary-amd64/Packages
chmod -R a+rX /mirror
/given/layer packages /given/list debian-packages.lock /out locked file:/mirror
"""


@pytest.mark.containers
def test_a_mirror_that_gives_one_locked_package_for_another_is_found_out(tmp_path: Path) -> None:
    shutil.copy(ROOT / "images/layer", tmp_path)
    (tmp_path / "list").write_text("python zlib1g\npython libexpat1\n")
    debian = ["docker", "run", "--rm", f"--volume={tmp_path}:/given:ro", "debian:trixie-slim"]
    refused = run(*debian, "bash", "-c", SWAPPED, code=1).stderr
    assert re.search(r"zlib1g_\S+ does not have the SHA-256", refused)


def test_the_lock_pins_what_is_listed_for_each_architecture() -> None:
    listed = [line.split() for line in (ROOT / "images/debian-packages").read_text().splitlines() if line[0] != "#"]
    lock = [line.split() for line in (ROOT / "images/debian-packages.lock").read_text().splitlines() if line[0] != "#"]
    pinned = [(use, architecture, name) for use, architecture, name, _, _ in lock]
    assert pinned == [
        (use, architecture, name)
        for architecture in ("amd64", "arm64")
        for use, name, *only in listed
        if architecture in (only or [architecture])
    ]
