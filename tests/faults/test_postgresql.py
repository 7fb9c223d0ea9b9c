"""PostgreSQL goes away in the middle: a clear 503, nothing lost, and all goes on when it is back."""

import asyncio
import os
import subprocess

import httpx
import pytest

from tests.conftest import ROOT
from tests.faults.conftest import on
from tests.faults.proxy import GrpcProxy
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import BACKENDS, PostgreSQL, Souk

pytestmark = on("postgresql")


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_database_that_goes_away_is_said_and_survived(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, postgresql: PostgreSQL, how: str
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 100)
    before = Request(customer, {tea: 1}, redeem_points=10)
    underway = Request(customer, {tea: 2}, redeem_points=20)
    during = Request(customer, {tea: 3}, redeem_points=30)
    assert (await before.place(rest)).status_code == 201
    kept = [souk.proxies["orders", to].keep("Confirm", underway.order_id) for to in ("reservations", "loyalty")]
    assert (await underway.place(rest)).status_code == 201
    for message in kept:
        await message.there()
    await asyncio.to_thread(postgresql.stop, how)
    try:
        for answer in (await during.send(rest), await underway.send(rest), await rest.get(f"/v1/items/{tea}")):
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/storage-unavailable"), answer.text
            assert int(answer.headers["retry-after"]) >= 1
        ready = (await rest.get("/health/ready")).json()
        assert set(ready["services"].values()) == {"NOT_SERVING"}
    finally:
        await asyncio.to_thread(postgresql.start)
    assert (await underway.place(rest)).headers["idempotency-replayed"] == "true"
    assert (await during.place(rest)).status_code == 201
    await souk.settle()
    item, account = await rest.get(f"/v1/items/{tea}"), await rest.get(f"/v1/customers/{customer}")
    assert (item.json()["on_hand"], item.json()["sold"], item.json()["held"]) == (4, 6, 0)
    assert account.json()["points_held"] == 0
    urls = {f"SOUK_{name.upper()}_DATABASE_URL": souk.services[name].database_url for name in BACKENDS}
    audit = await asyncio.to_thread(
        lambda: subprocess.run(
            ["scripts/audit"], cwd=ROOT, env={**os.environ, **urls}, capture_output=True, text=True, check=False
        )
    )
    assert (audit.returncode, "Clean" in audit.stdout) == (0, True), audit.stdout + audit.stderr
