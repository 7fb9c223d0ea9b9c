"""The runtime: what an image is put on, whatever a release's lock says, or just as it says."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from releasing.ledger import SERVICES, Ledger

from tests.conftest import LONG, ROOT
from tests.image_tree import Tree, image_id, layers, run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

FILL = r"""
set -eu
/images/layer packages /images/debian-packages /none /mirror/pool newest
cd /mirror/pool
dpkg-deb --raw-extract zlib1g_*.deb /zlib
sed -i '/^Version:/s/$/~older/' /zlib/DEBIAN/control
rm zlib1g_*.deb
dpkg-deb --build /zlib zlib1g_older.deb
mkdir -p /mirror/dists/trixie/main/binary-amd64
for package in *.deb; do
  dpkg-deb --field "$package"
  echo "Filename: pool/$package"
  echo "Size: $(stat -c %s "$package")"
  echo "SHA256: $(sha256sum "$package" | cut -d ' ' -f 1)"
  echo
done >/mirror/dists/trixie/main/binary-amd64/Packages
hash=$(sha256sum zlib1g_older.deb | cut -d ' ' -f 1)
awk -v hash="$hash" '$3 == "zlib1g" {$4 = $4 "~older"; $5 = hash} {print}' debian-packages.lock >/mirror/lock
chmod -R a+rX /mirror
"""


@dataclass(frozen=True)
class Mirror:
    """A mirror of a few packages, among them a version of zlib1g that Debian has not (any more)."""

    folder: Path
    lock: str


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("mirror")
    volumes = [f"--volume={folder}:/mirror", f"--volume={ROOT}/images:/images:ro"]
    run("docker", "run", "--rm", *volumes, "debian:trixie-slim", "bash", "-c", FILL)
    yield Mirror(folder, (folder / "lock").read_text())
    shutil.rmtree(folder)


@pytest.fixture
def tree(tmp_path: Path, mirror: Mirror) -> Iterator[Tree]:
    """A clone whose lock is older than what Debian's own mirror has, with a release of orders."""
    made = Tree(tmp_path / "souk")
    (made.folder / "images/debian-packages.lock").write_text(mirror.lock)
    made.commit("Debian's packages are locked")
    made.release("orders", f"{made.minor}.0")
    yield made
    made.remove_images()


def test_a_release_is_built_on_any_day_and_its_lock_is_used_where_that_is_demanded(
    tree: Tree, mirror: Mirror, registry: str, tmp_path: Path
) -> None:
    version = f"{tree.minor}.0"
    orders = f"orders@{version}"
    said = tree.images("build", orders).stderr
    assert "is newer than images/debian-packages.lock: zlib1g" in said
    assert f"{orders} is souk/orders:{version}-r1" in said
    first = image_id(f"souk/orders:{version}-r1")
    assert image_id(f"souk/orders:{version}") == first
    tree.images("push", orders, SOUK_REGISTRY=registry)

    refused = tree.images("build", "--locked", orders, code=1).stderr
    assert "The mirror does not have zlib1g" in refused
    assert "Build without --locked" in refused
    assert "--mirror needs --locked" in tree.images("build", "--mirror", str(mirror.folder), orders, code=2).stderr
    for wrong, said in (("nowhere", "name an http"), ("http://127.0.0.1:1", "name the mirror's folder instead")):
        assert said in tree.images("build", "--locked", "--mirror", wrong, orders, code=1).stderr

    tree.images("build", "--locked", "--mirror", str(mirror.folder), orders)
    second = image_id(f"souk/orders:{version}-r2")
    assert layers(second)[0] != layers(first)[0]
    tree.images("build", "--no-cache", "--locked", "--mirror", str(mirror.folder), orders)
    assert image_id(f"souk/orders:{version}-r2") == image_id(f"souk/orders:{version}") == second
    assert image_id(f"souk/orders:{version}-r1") == first

    tree.images("build", orders)
    assert image_id(f"souk/orders:{version}") == second
    assert [each["revision"] for each in tree.builds()] == [1, 2]

    # In a registry a revision stays what it is, and the version goes on to the newest one.
    pushed = tree.images("push", orders, SOUK_REGISTRY=registry).stdout.splitlines()
    assert [line.split("@")[0].rpartition(":")[2] for line in pushed][:2] == [f"{version}-r2", version]
    assert not any("was there" in line for line in pushed)
    other = str(tmp_path / "elsewhere.toml")
    tree.images("build", "--locked", "--mirror", str(mirror.folder), orders, SOUK_BUILDS=other)
    refused = tree.images("push", orders, code=1, SOUK_REGISTRY=registry, SOUK_BUILDS=other).stderr
    assert f"{registry}/souk/orders:{version}-r1 is there on another runtime" in refused
    assert "get their builds.toml" in refused


def test_a_release_from_before_runtimes_could_be_locked_says_so() -> None:
    refused = run("./scripts/images", "build", "--locked", "orders@1.0.0", code=1).stderr
    assert "orders@1.0.0 was released before runtimes could be locked. Build it without --locked" in refused


NEWEST = [f"orders@{each.version}" for each in Ledger().of("orders")[-2:]]
RELEASES = [str(each) for service in SERVICES for each in Ledger().of(service)]


@pytest.mark.parametrize("release", RELEASES if LONG else NEWEST)
def test_a_released_image_starts_and_serves(release: str, tmp_path: Path) -> None:
    service, _, version = release.partition("@")
    run("./scripts/images", "build", release, SOUK_BUILDS=str(tmp_path / "builds.toml"))
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/data:uid=65532"]
    others = [f"--env=SOUK_{each.upper()}_TARGET=127.0.0.1:1" for each in SERVICES if each not in (service, "gateway")]
    started = run("docker", "run", "--detach", *hardened, *others, f"souk/{service}:{version}").stdout.strip()
    try:
        python = ["docker", "exec", started, "/usr/bin/python3.13", "-m", f"souk_{service}"]
        assert run(*python, "--version").stdout.strip() == version
        run("docker", "exec", started, "/usr/bin/python3.13", "-c", WAIT.format(service=service))
    finally:
        run("docker", "rm", "--force", started)


WAIT = """
import subprocess, sys, time
deadline = time.monotonic() + 60
while subprocess.run([sys.executable, "-m", "souk_{service}", "health"]).returncode:
    if time.monotonic() > deadline:
        sys.exit("it does not serve")
    time.sleep(0.1)
"""
