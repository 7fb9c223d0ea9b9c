"""Two versions of every service side by side, in containers: shares, holds that change hands, and the way back."""

import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from releasing.ledger import SERVICES, Ledger

from tests.conftest import ROOT
from tests.deployments import free_port, wait_until
from tests.image_tree import Tree

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]  # eight images are built first

ORDER = {"customer_id": "canary", "lines": [{"sku": "canary", "quantity": 1}]}
BEHIND = ("orders", "reservations", "loyalty")
ORDERS = 200


def run(*command: str, folder: Path = ROOT, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


class Mixed:
    """compose/mixed.yaml as a project of its own, with the two newest releases of every service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._targets = folder / "targets"
        newest = {name: [each.version for each in Ledger().of(name)[-2:]] for name in SERVICES}
        self.old, self.new = ({name: versions[age] for name, versions in newest.items()} for age in (0, 1))
        self.tree: Tree | None = None
        port = free_port(2)
        self.urls = (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}")
        self._environment = {
            "COMPOSE_PROJECT_NAME": f"souk-test-{uuid4().hex[:8]}",
            "SOUK_PORT": str(port),
            "SOUK_PORT_NEW": str(port + 1),
            "SOUK_TARGETS": str(self._targets),
            **{f"{name.upper()}_OLD": version for name, version in self.old.items()},
            **{f"{name.upper()}_NEW": version for name, version in self.new.items()},
        }

    def build(self) -> None:
        """The releases, on the runtime of the day."""
        releases = [f"{name}@{versions[name]}" for versions in (self.old, self.new) for name in SERVICES]
        run("./scripts/images", "build", *releases, environment={"SOUK_BUILDS": str(self._folder / "builds.toml")})

    def build_broken_orders(self) -> str:
        """A version of orders that fails whenever an order is created."""
        self.tree = Tree(self._folder / "tree", major=9)
        servicer = self.tree.folder / "packages/orders/src/souk_orders/servicer.py"
        create = re.compile(r"(async def create\(.*\) -> .*:\n)( +)")
        text, changed = create.subn(r"\1\2raise RuntimeError('broken by a test')\n\2", servicer.read_text())
        assert changed == 1
        servicer.write_text(text)
        version = f"{self.tree.minor}.0"
        self.tree.release("orders", version)
        self.tree.images("build", f"orders@{version}")
        return version

    def share(self, old: int, new: int) -> None:
        """Puts the weights into the file."""
        self._targets.mkdir(exist_ok=True)
        beside = self._targets / "targets.toml.new"
        beside.write_text(
            "".join(
                f'{name} = "{self.old[name]}={name}-old:50051;{old},{self.new[name]}={name}-new:50051;{new}"\n'
                for name in BEHIND
            )
        )
        beside.replace(self._targets / "targets.toml")

    def start(self) -> None:
        """Starts what does not run, and puts what the tests order."""
        self.compose("up", "--detach", "--wait")
        wait_until(self._is_whole, "all versions to be SERVING at both gateways")
        item = {"name": "Canary", "unit_price": 100, "on_hand": 1_000_000}
        httpx.put(f"{self.urls[0]}/v1/items/canary", json=item).raise_for_status()
        customer = {"name": "Canary", "tier": "gold", "points": 0}
        httpx.put(f"{self.urls[0]}/v1/customers/canary", json=customer).raise_for_status()

    def _is_whole(self) -> bool:
        return all(
            target["status"] == "SERVING"
            for url in self.urls
            for targets in httpx.get(f"{url}/health/targets").json()["services"].values()
            for target in targets
        )

    def script(self, *arguments: str, code: int = 0, **environment: str) -> str:
        return run("./scripts/mixed", *arguments, environment=self._environment | environment, code=code)

    def compose(self, *arguments: str) -> str:
        return run("docker", "compose", "--file=compose/mixed.yaml", *arguments, environment=self._environment)

    def destroy(self) -> None:
        self.compose("down", "--volumes", "--timeout=1")
        if self.tree is not None:
            self.tree.remove_images()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    folder = tmp_path_factory.mktemp("mixed")
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    made = Mixed(folder)
    try:
        made.build()
        made.share(70, 30)
        made.start()
        yield made
    finally:
        made.destroy()


def place(client: httpx.Client, prefer: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": str(uuid4()), "Souk-Prefer": prefer}
    return client.post("/v1/orders", json=ORDER, headers=headers)


def created_by(mixed: Mixed, gateway: int = 0) -> Counter[str]:
    """How many of 200 orders each version of orders created, as the answers say."""
    with httpx.Client(base_url=mixed.urls[gateway], timeout=30) as client, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(place, [client] * ORDERS))
    assert {answer.status_code for answer in answers} == {201}
    return Counter(
        peer for answer in answers for peer in answer.headers["souk-served-by"].split() if peer.startswith("orders/")
    )


def test_each_version_creates_about_the_share_of_orders_that_the_file_gives_it(mixed: Mixed) -> None:
    for gateway in (0, 1):
        created = created_by(mixed, gateway)
        assert sum(created.values()) == ORDERS
        # Five standard deviations: once in two million runs.
        assert abs(created[f"orders/{mixed.new['orders']}"] - 0.3 * ORDERS) < 5 * math.sqrt(ORDERS * 0.3 * 0.7)


def is_confirmed(client: httpx.Client, path: str) -> bool:
    return bool(client.get(path).json()["status"] == "CONFIRMED")


@pytest.mark.parametrize(("creator", "holder"), [("new", "old"), ("old", "new")])
def test_a_hold_that_one_version_took_is_confirmed_by_the_other(mixed: Mixed, creator: str, holder: str) -> None:
    versions = {"old": mixed.old, "new": mixed.new}
    prefer = ", ".join(f"{name}={versions[creator if name == 'orders' else holder][name]}" for name in BEHIND)
    confirmed_by: Counter[str] = Counter()
    with httpx.Client(base_url=mixed.urls[0], timeout=30) as client:
        for _ in range(20):
            placed = place(client, prefer)
            assert placed.status_code == 201
            assert f" reservations/{versions[holder]['reservations']} " in placed.headers["souk-served-by"]
            path = placed.headers["location"]
            wait_until(partial(is_confirmed, client, path), "the order to be confirmed")
            history = client.get(path).json()["history"]
            confirmed_by.update(step["by"] for step in history if step["step"].endswith("S_CONFIRMED"))
    # The relays of both versions see to one outbox; the creator's, which confirms at its own generation, is the first
    # to hear of an order.
    assert confirmed_by[f"reservations/{versions[creator]['reservations']}"] > 0


def test_a_canary_gets_its_share_step_by_step_and_is_taken_out_in_one_command(mixed: Mixed) -> None:
    old, new = mixed.old["orders"], mixed.new["orders"]
    walked = mixed.script("--orders=100")
    steps = re.findall(r"^(\d+) % to the new versions", walked, re.MULTILINE)
    assert steps == ["0", "10", "50", "100"]
    rows = re.findall(rf"^  orders +{re.escape(new)} +(\d+) +(\d+) +\d+% +(\d+)$", walked, re.MULTILINE)
    assert [(weight, errors) for weight, _, errors in rows] == [(step, "0") for step in steps]
    assert (rows[0][1], rows[3][1]) == ("0", "100")
    for gateway in (0, 1):
        assert created_by(mixed, gateway) == {f"orders/{new}": ORDERS}

    assert "; the change took " in mixed.script("rollback")
    for gateway in (0, 1):
        assert created_by(mixed, gateway) == {f"orders/{old}": ORDERS}
    shown = mixed.script("status")
    assert re.search(rf"orders +{re.escape(new)} +0  NOT_SERVING", shown)


def test_a_canary_that_fails_is_taken_out_at_once(mixed: Mixed) -> None:
    broken = mixed.build_broken_orders()
    walked = mixed.script("--orders=100", code=1, ORDERS_NEW=broken)
    steps = re.findall(r"^(\d+) % to the new versions", walked, re.MULTILINE)
    assert steps in (["0", "10"], ["0", "10", "50"])  # with a luck of 1 in 30,000 it gets through the first
    (errors,) = re.findall(rf"^  orders +{re.escape(broken)} .* ([1-9]\d*)$", walked, re.MULTILINE)
    assert int(errors) <= 100
    assert "; the change took " in walked
    assert created_by(mixed) == {f"orders/{mixed.old['orders']}": ORDERS}


def test_an_image_that_is_missing_is_said_before_anything_starts(mixed: Mixed) -> None:
    done = subprocess.run(
        ["./scripts/mixed"],
        cwd=ROOT,
        env={**os.environ, "LOYALTY_NEW": "1.1.99"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "There is no image souk/loyalty:1.1.99. Build what is missing: ./scripts/images build loyalty@1.1.99\n"
    )
