"""Faults of real containers: they are paused, taken off the network, and their disk is full."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.deployments import Containers
from tests.faults.processes import until
from tests.faults.shopping import Request, put_customer, put_item, status_of
from tests.faults.souk import BACKENDS

pytestmark = [pytest.mark.containers, pytest.mark.usefixtures("images"), pytest.mark.timeout(300)]

CLIENTS = 8
AWAY_S = 2.0

FILL = """
with open("/data/rest", "wb", buffering=0) as rest:
    try:
        while rest.write(bytes(4096)):
            pass
    except OSError as error:
        print(error.strerror)
"""
EMPTY = "import os; os.unlink('/data/rest')"


@pytest.fixture(scope="module")
async def containers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Containers]:
    souk = Containers(ROOT, tmp_path_factory.mktemp("souk"), "tests/faults/small_disk.yaml")
    try:
        await asyncio.to_thread(souk.start)
        yield souk
    finally:
        await asyncio.to_thread(souk.destroy)


@pytest.fixture
async def rest(containers: Containers) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=containers.url, timeout=15) as client:
        yield client


async def run(*command: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    )


async def docker(*arguments: str) -> str:
    done = await run("docker", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def confirmed(rest: httpx.AsyncClient, order_id: str) -> None:
    async def is_confirmed() -> bool:
        return await status_of(rest, order_id) == "CONFIRMED"

    await until(is_confirmed, f"the order {order_id} to be CONFIRMED")


async def logged(containers: Containers, name: str, text: str) -> None:
    async def is_logged() -> bool:
        return text in await asyncio.to_thread(containers.compose, "logs", "--no-log-prefix", name)

    await until(is_logged, f"{name} to log {text!r}")


async def audit(containers: Containers, folder: Path) -> None:
    """Copies the databases, which nobody is writing into, and audits them."""
    for name in BACKENDS:
        await asyncio.to_thread(containers.compose, "cp", f"{name}:/data/.", str(folder))
    done = await run("scripts/audit", "--data", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Clean" in done.stdout


async def test_containers_are_paused_and_disconnected_and_each_key_has_one_order(
    containers: Containers, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    sku, customer = await put_item(rest, 10**6), await put_customer(rest, 10**6)
    requests: list[Request] = []
    over = asyncio.Event()

    async def shop() -> None:
        while not over.is_set():
            requests.append(Request(customer, {sku: 1}, redeem_points=1))
            answer = await requests[-1].place(rest)
            assert answer.status_code == 201, answer.text

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(shop())
        for name in BACKENDS:
            container = (await asyncio.to_thread(containers.compose, "ps", "--quiet", name)).strip()
            await docker("pause", container)
            await asyncio.sleep(AWAY_S)
            await docker("unpause", container)
            await confirmed(rest, requests[-1].order_id)
            await docker("network", "disconnect", containers.network, container)
            await asyncio.sleep(AWAY_S)
            await docker("network", "connect", "--alias", name, containers.network, container)
            await confirmed(rest, requests[-1].order_id)
        over.set()
    for request in requests:
        await confirmed(rest, request.order_id)
    print(f"{len(requests)} orders from {CLIENTS} clients, each service away twice", file=sys.stderr)
    item = (await rest.get(f"/v1/items/{sku}")).json()
    assert (item["sold"], item["held"]) == (len(requests), 0)
    await audit(containers, tmp_path)


async def test_a_full_disk_is_said_and_survived(
    containers: Containers, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    sku, customer = await put_item(rest, 10**6), await put_customer(rest, 10**6)
    before = Request(customer, {sku: 1})
    assert (await before.place(rest)).status_code == 201
    await confirmed(rest, before.order_id)
    python = ("exec", "-T", "orders", "/usr/bin/python3.13", "-c")
    said = await asyncio.to_thread(containers.compose, *python, FILL)
    assert said.strip() == "No space left on device"
    try:
        # There may be room in the log that was made earlier.
        while (answer := await (during := Request(customer, {sku: 1}, redeem_points=1)).send(rest)).status_code == 201:
            pass
        # Until orders says that it is not serving, its answers say why; from then on the gateway leaves it alone.
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] in ("/problems/storage-unavailable", "/problems/unavailable"), answer.text
        assert int(answer.headers["retry-after"]) >= 1
        await logged(containers, "orders", "disk is full")
        await logged(containers, "orders", "orders is NOT_SERVING")
    finally:
        await asyncio.to_thread(containers.compose, *python, EMPTY)
    assert (await during.place(rest)).status_code == 201
    for request in (before, during):
        await confirmed(rest, request.order_id)
    await audit(containers, tmp_path)
