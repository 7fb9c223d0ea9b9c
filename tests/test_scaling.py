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


def process_of(container: str) -> Path:
    """The folder in /proc of a container's only process, seen from outside: inside there is no tool to ask."""
    found = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Pid}}", container], capture_output=True, text=True, check=True
    )
    return Path("/proc") / found.stdout.strip()


def work_done(process: Path) -> int:
    """Processor time that a process has used, in ticks."""
    user, system = (process / "stat").read_text().rpartition(") ")[2].split()[11:13]
    return int(user) + int(system)


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
                replicas = [process_of(each) for each in containers.compose("ps", "--quiet", "reservations").split()]
                assert len(replicas) == 3

                def all_share_the_work() -> bool:
                    before, placed = [work_done(each) for each in replicas], len(answers)
                    wait_until(lambda: len(answers) > placed + 100, "a hundred more orders")
                    work = [work_done(each) - old for each, old in zip(replicas, before, strict=True)]
                    return min(work) * 6 >= sum(work)  # an equal share is a third

                wait_until(all_share_the_work, "three replicas that share the calls", 60)
            finally:
                enough.set()
            for each in running:
                each.result()
        assert set(answers) == {201}
        wait_until(lambda: stock(rest, sku)[3] == len(answers), "every order to be sold once")
