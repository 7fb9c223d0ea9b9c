"""Runs two versions of every service side by side, with compose/mixed.yaml.

  ./scripts/mixed            starts both, and sends 0, 10, 50 and then 100 % of its own test orders to the new versions;
                             after a step in which a new version failed, all requests go back to the old ones
  ./scripts/mixed rollback   sends all requests to the old versions, then stops the new ones
  ./scripts/mixed status     shows the versions, their weights and whether they serve
  ./scripts/mixed down       removes everything, with its data

ORDERS_OLD, ORDERS_NEW and so on choose the versions, SOUK_PORT and SOUK_PORT_NEW the gateways' ports;
compose/mixed.yaml lists all variables. The weights are in data/mixed/targets.toml, or in the folder that SOUK_TARGETS
names.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener
from uuid import uuid4

from releasing import version

ROOT = version.ROOT
FILE = ROOT / "compose/mixed.yaml"
FOLDER = Path(os.environ.get("SOUK_TARGETS") or ROOT / "data/mixed").absolute()
SERVICES = ("orders", "reservations", "loyalty")
SHARES = (0, 10, 50, 100)
CLIENTS = 8
PATIENCE_S = 180.0
_open = build_opener(ProxyHandler({})).open  # a proxy for the way out, which `http_proxy` names, is not for Souk
ORDER = {"customer_id": "canary", "lines": [{"sku": "canary", "quantity": 1}]}


class Stopped(Exception):
    """It cannot go on; the message says why."""


@dataclass
class Deployment:
    """What the compose file brings up, with the environment's variables."""

    gateways: tuple[str, str]
    """The URLs of the old one and the new one."""
    versions: dict[str, tuple[str, str]]
    """The old and the new version of each service, and of the gateway."""

    @staticmethod
    def configured() -> "Deployment":
        services = json.loads(compose("config", "--format=json"))["services"]

        called = labels(each["image"] for each in services.values())

        def of(service: str) -> tuple[str, str]:
            images = (services[f"{service}-{age}"]["image"] for age in ("old", "new"))
            old, new = (called.get(image) or version.from_tag(image.rpartition(":")[2]) for image in images)
            return old, new

        def url(name: str) -> str:
            port = services[name]["ports"][0]
            return f"http://{port.get('host_ip', '127.0.0.1').replace('0.0.0.0', '127.0.0.1')}:{port['published']}"  # noqa: S104

        versions = {service: of(service) for service in ("gateway", *SERVICES)}
        for service in SERVICES:
            old, new = versions[service]
            if old == new:
                name = service.upper()
                raise Stopped(f"Both versions of {service} are {old}; set {name}_OLD and {name}_NEW to two versions.")
        return Deployment((url("gateway-old"), url("gateway-new")), versions)

    @property
    def width(self) -> int:
        """Of the column that names the versions."""
        return max(len(each) for both in self.versions.values() for each in both) + 2

    def write(self, percent: int) -> None:
        """Has the file give so many of a hundred requests to the new versions."""
        content = "".join(
            f'{service} = "{old}={service}-old:50051;{100 - percent},{new}={service}-new:50051;{percent}"\n'
            for service, (old, new) in self.versions.items()
            if service != "gateway"
        )
        FOLDER.mkdir(parents=True, exist_ok=True)
        FOLDER.chmod(0o755)  # the gateways run as another user
        beside = FOLDER / "targets.toml.new"
        beside.write_text(content)
        beside.chmod(0o644)
        beside.replace(FOLDER / "targets.toml")

    def share(self, percent: int) -> float:
        """The same, and waits until each gateway that runs does so; the seconds that it took. Raises Stopped."""
        started_at = time.monotonic()
        self.write(percent)
        running = compose("ps", "--services", "--status=running").split()
        for name, url in zip(("gateway-old", "gateway-new"), self.gateways, strict=True):
            if name in running:
                wait_until(partial(self.uses, url, percent), f"the gateway at {url} to use the weights")
        return time.monotonic() - started_at

    def uses(self, url: str, percent: int) -> bool:
        """Whether a gateway gives so many of a hundred requests to the new version of every service."""
        weights = {tuple(target["weight"] for target in targets) for targets in targets_at(url).values()}
        return weights == {(100 - percent, percent)}

    def missing(self) -> list[str]:
        """The new versions that a gateway sees as not serving."""
        return sorted(
            {
                f"{service} {target['version']}"
                for url in self.gateways
                for service, targets in targets_at(url).items()
                for target in targets
                if target["version"] == self.versions[service][1] and target["status"] != "SERVING"
            }
        )


@dataclass
class Tally:
    """What became of a number of orders, by version, such as `orders/1.1.0`."""

    served: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unserved: list[str] = field(default_factory=list)
    """What was answered, or happened, where no service is named as having answered."""

    def add(self, status: int, served_by: str, said: str) -> None:
        """Takes down an answer. A version that had to be asked again at another one has failed, too."""
        peers = served_by.split()
        self.served.update(peers)
        by_service = {peer.partition("/")[0]: peer for peer in peers}
        gave_way = [peer for peer in peers if by_service[peer.partition("/")[0]] != peer]
        if status != 201:
            self.errors.update(set(peers[-1:]) | set(gave_way))
            if len(peers) < 2:
                self.unserved.append(said)
        else:
            self.errors.update(gave_way)


def compose(*arguments: str) -> str:
    """Runs Compose on the file; gives what it printed."""
    command = ["docker", "compose", "--file", str(FILE), *arguments]
    done = subprocess.run(
        command, env={**os.environ, "SOUK_TARGETS": str(FOLDER)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stopped(f"'docker compose {arguments[0]}' failed:\n{done.stderr.strip()}")
    return done.stdout


def labels(images: Iterable[str]) -> dict[str, str]:
    """The versions of those images that the engine has, as they say themselves: a tag such as `tree` does not."""
    command = ["docker", "image", "inspect", *sorted(set(images))]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # also where some are missing
    return {
        tag: version.from_tag(label)
        for each in json.loads(found or "[]")
        if (label := (each["Config"].get("Labels") or {}).get("org.opencontainers.image.version"))
        for tag in each["RepoTags"]
    }


def call(url: str, body: object = None, method: str = "GET") -> tuple[int, str, Any]:
    """Status, who served it, and the body. Raises OSError or HTTPException where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
    try:
        with _open(Request(url, data, headers, method=method), timeout=30) as answer:  # noqa: S310 (our own URL)
            return answer.status, answer.headers.get("Souk-Served-By", ""), json.load(answer)
    except HTTPError as error:
        return error.code, error.headers.get("Souk-Served-By", ""), error.read().decode(errors="replace")


def targets_at(url: str) -> dict[str, list[dict[str, Any]]]:
    """The targets in force at a gateway; none where it does not answer yet."""
    try:
        status, _, body = call(f"{url}/health/targets")
    except (OSError, http.client.HTTPException):
        return {}
    return body["services"] if status == 200 else {}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again: another process's state gives no event."""
    gives_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > gives_up_at:
            raise Stopped(f"Waited {PATIENCE_S:.0f} s for {what}.")
        time.sleep(0.05)


def place(url: str) -> tuple[int, str, str]:
    """One order: status, who served it, and what was said of it."""
    try:
        status, served_by, body = call(f"{url}/v1/orders", ORDER, "POST")
    except (OSError, http.client.HTTPException) as error:
        return 0, "", f"{url} does not answer: {error}"
    return status, served_by, f"{status} {body}"


def load(deployment: Deployment, orders: int) -> Tally:
    """Places orders, half of them at each gateway."""
    tally = Tally()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for answer in clients.map(place, (deployment.gateways[number % 2] for number in range(orders))):
            tally.add(*answer)
    return tally


def rows(deployment: Deployment, tally: Tally, orders: int, percent: int) -> Iterator[str]:
    """The table of a step."""
    width = deployment.width
    yield f"{'':2}{'':<14}{'version':<{width}}{'weight':>8}{'orders':>8}{'share':>8}{'errors':>8}"
    for service, versions in deployment.versions.items():
        for each, weight in zip(versions, (100 - percent, percent), strict=True):
            name = f"{service}/{each}"
            served = tally.served[name]
            shown = "-" if service == "gateway" else str(weight)
            counts = f"{shown:>8}{served:>8}{served / orders:>8.0%}{tally.errors[name]:>8}"
            yield f"  {service:<14}{each:<{width}}{counts}"


def check_images() -> None:
    """Raises Stopped where the engine lacks an image."""
    wanted = {each["image"] for each in json.loads(compose("config", "--format=json"))["services"].values()}
    if missing := sorted(wanted - set(labels(wanted))):
        names = (image.rpartition("/")[2].replace(":", "@").removesuffix("@tree") for image in missing)
        raise Stopped(
            f"There is no image {missing[0]}. Build what is missing: ./scripts/images build {' '.join(names)}"
        )


def walk(deployment: Deployment, orders: int) -> None:
    """Brings all of it up, and the new versions in. Raises Stopped."""
    check_images()
    print(
        "Starting " + ", ".join(f"{name} {old} and {new}" for name, (old, new) in deployment.versions.items()),
        "…",
        flush=True,
    )
    deployment.write(0)
    try:
        compose("up", "--detach", "--wait", f"--wait-timeout={PATIENCE_S:.0f}", "--pull=never")
        wait_until(lambda: not deployment.missing(), "every new version to be SERVING at both gateways, in vain")
        stock(deployment)
        for percent in SHARES:
            step(deployment, percent, orders)
    except Stopped as error:
        print(error, file=sys.stderr)
        rollback(deployment)
        raise Stopped("All requests go to the old versions again.") from error
    print("The new versions serve all requests. `./scripts/mixed rollback` goes back to the old ones.")


def stock(deployment: Deployment) -> None:
    """Puts what the load orders, and who orders it. Raises Stopped."""
    url = deployment.gateways[0]
    for path, body in (
        ("items/canary", {"name": "Canary", "unit_price": 100, "on_hand": 1_000_000}),
        ("customers/canary", {"name": "Canary", "tier": "standard", "points": 0}),
    ):
        status, _, answer = call(f"{url}/v1/{path}", body, "PUT")
        if status != 200:
            raise Stopped(f"PUT {url}/v1/{path} was answered with {status}: {answer}")


def step(deployment: Deployment, percent: int, orders: int) -> None:
    """Gives the new versions their share of a load, and prints what came of it. Raises Stopped where one has failed."""
    deployment.share(percent)
    tally = load(deployment, orders)
    print(f"\n{percent} % to the new versions, {orders} orders:", *rows(deployment, tally, orders, percent), sep="\n")
    failed = [f"{name} {new}" for name, (_, new) in deployment.versions.items() if tally.errors[f"{name}/{new}"]]
    if failed or tally.unserved:
        raise Stopped(" and ".join(failed or ["An order"]) + f" failed. {next(iter(tally.unserved), '')}".rstrip())
    if missing := deployment.missing():
        raise Stopped(f"{' and '.join(missing)} stopped serving.")


def rollback(deployment: Deployment) -> None:
    """Gives all requests to the old versions, and stops the new ones, whose relay and janitors work as well."""
    if not compose("ps", "--quiet"):
        deployment.write(0)
        print("Nothing is running. The weights are set: at the next start, all requests go to the old versions.")
        return
    print(f"All requests go to the old versions; the change took {deployment.share(0):.1f} s.")
    compose("stop", *(f"{service}-new" for service in SERVICES))
    print("The new services have stopped. The new gateway still serves on its own port, with the old services.")


def status(deployment: Deployment) -> None:
    """What each gateway does at this moment."""
    for age, url, own in zip(("old", "new"), deployment.gateways, deployment.versions["gateway"], strict=True):
        targets = targets_at(url)
        print(f"{age} gateway {own} at {url}" + ("" if targets else " does not answer"))
        for service, each in targets.items():
            for target in each:
                print(
                    f"  {service:<14}{target['version']:<{deployment.width}}{target['weight']:>8}  {target['status']}"
                )


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser("mixed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default="walk", choices=("walk", "rollback", "status", "down"))
    parser.add_argument("--orders", type=int, default=200, help="how many orders to place at each step (200)")
    options = parser.parse_args()
    try:
        deployment = Deployment.configured()
        match options.command:
            case "walk":
                walk(deployment, options.orders)
            case "rollback":
                rollback(deployment)
            case "status":
                status(deployment)
            case "down":
                compose("down", "--volumes")
    except Stopped as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not installed; ./scripts/mixed needs it.")


if __name__ == "__main__":
    main()
