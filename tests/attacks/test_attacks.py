"""One client attacks, and another beside it orders: each order is placed, and the gateway's memory stays in its limit.

`SOUK_TEST_LONG=1` attacks for longer. `./scripts/bench attacks` measures how much longer the orders take.
"""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.attacks.attackers import ATTACKS
from tests.conftest import ROOT
from tests.faults.processes import until
from tests.faults.souk import Souk

ORDERS = 400 if os.environ.get("SOUK_TEST_LONG") else 15
"""That are placed during each attack."""


@pytest.fixture(scope="module")
async def souk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Souk]:  # type: ignore[type-arg]
    opened: Souk = Souk(tmp_path_factory.mktemp("souk"), SOUK_HTTP2="true")  # type: ignore[type-arg]
    try:
        await opened.start()
        async with opened.client() as client:
            item, customer = {"name": "Tea", "unit_price": 450, "on_hand": 10**6}, {"name": "Amina", "tier": "gold"}

            async def put(path: str, content: object) -> bool:
                return (await client.put(path, json=content)).is_success

            # The gateway may have looked for a service that had not started yet, and waits before it looks again.
            await until(lambda: put("/v1/items/tea", item), "an item to be stored")
            await until(lambda: put("/v1/customers/c-1", {**customer, "points": 0}), "a customer to be stored")
        yield opened
    finally:
        opened.copy_logs(sys.stderr)
        await opened.destroy()


@contextmanager
def attacking(name: str, url: str) -> Iterator[None]:
    address = url.removeprefix("http://")
    command = [sys.executable, "-m", "tests.attacks.attackers", name, address]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield
            assert process.poll() is None, "the attack ended by itself"
        finally:
            process.kill()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def limit_bytes() -> int:
    """The gateway's container's."""
    text = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())["services"]["gateway"]["mem_limit"]
    assert text.endswith("m"), text
    return int(text[:-1]) * 1024 * 1024


@pytest.mark.parametrize("name", ATTACKS)
async def test_who_orders_beside_an_attack_has_every_order(souk: Souk, name: str) -> None:  # type: ignore[type-arg]
    order = {"customer_id": "c-1", "lines": [{"sku": "tea", "quantity": 1}], "redeem_points": 0}
    async with httpx.AsyncClient(base_url=souk.urls[0], timeout=60, trust_env=False) as regular:
        assert (await regular.get("/health/live")).status_code == 200  # who was there before
        with attacking(name, souk.urls[0]):
            for n in range(ORDERS):
                async with httpx.AsyncClient(base_url=souk.urls[0], timeout=60, trust_env=False) as new:
                    for client in (regular, new):
                        answer = await client.post("/v1/orders", json=order)
                        assert answer.status_code == 201, f"order {n}: {answer.text}"
    assert peak_bytes(souk.services["gateway"].pid) < limit_bytes()
    assert "Traceback" not in souk.services["gateway"].log.read_text()
