"""Replicas that are added under load get their share, without a restart and without a failed order."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.conftest import ROOT
from tests.deployments import Containers, wait_until
from tests.e2e.test_orders import order, put_customer, put_item, stock

pytestmark = [pytest.mark.containers, pytest.mark.usefixtures("images")]


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    souk = Containers(ROOT, tmp_path)
    try:
        souk.start()
        yield souk
    finally:
        souk.destroy()


def established(container: str) -> int:
    """Connections to a container's gRPC port, from outside its network namespace: it holds no tool to ask."""
    pid = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Pid}}", container], capture_output=True, text=True, check=True
    ).stdout.strip()
    port = f":{50051:04X}"
    rows = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()
    ]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows[1:] if len(row) > 3)


def test_three_replicas_of_reservations_share_the_calls(containers: Containers) -> None:
    with httpx.Client(base_url=containers.url, timeout=30) as rest:
        sku, customer = put_item(rest, on_hand=1_000_000), put_customer(rest)
        enough, answers = Event(), list[int]()

        def buy() -> None:
            while not enough.is_set():
                answers.append(order(rest, customer, {sku: 1}).status_code)

        with ThreadPoolExecutor(4) as buyers:
            running = [buyers.submit(buy) for _ in range(4)]
            try:
                containers.compose("up", "--detach", "--no-recreate", "--scale", "reservations=3")
                replicas = containers.compose("ps", "--quiet", "reservations").split()
                assert len(replicas) == 3
                # The gateway and the relay of orders each hold a connection to every replica.
                wait_until(lambda: all(established(replica) >= 2 for replica in replicas), "all replicas in use", 60)
                before = len(answers)
                wait_until(lambda: len(answers) > before + 100, "a hundred more orders")
            finally:
                enough.set()
            for each in running:
                each.result()
        assert set(answers) == {201}
        wait_until(lambda: stock(rest, sku)[3] == len(answers), "every order to be sold once")
