"""`prune` on a Souk that runs: killed between its steps, beside orders that are placed, and keys that come again."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.conftest import LONG
from tests.faults.conftest import on
from tests.faults.processes import until
from tests.faults.proxy import GrpcProxy, Lose, Point
from tests.faults.shopping import Request, put_customer, put_item, status_of
from tests.faults.souk import Souk

pytestmark = on("sqlite", "postgresql")

DAY_US = 86_400_000_000
REFUSED = (409, "/problems/out-of-stock")


class Prune:
    """A run of the command, as cron would start it, through the proxies of the relay."""

    def __init__(self, souk: Souk[GrpcProxy], *arguments: str, service: str = "orders") -> None:
        environment = {f"SOUK_{service.upper()}_DATABASE_URL": souk.services[service].database_url}
        environment["GRPC_VERBOSITY"] = "NONE"  # it would say that the proxies have no health
        for participant in ("reservations", "loyalty"):
            environment[f"SOUK_{participant.upper()}_TARGET"] = souk.proxies["orders", participant].address
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"souk_{service}", "prune", "--days=1", *arguments],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def said(self) -> str:
        """Once it has ended, and well."""
        out, err = await asyncio.to_thread(self._process.communicate, timeout=60)
        assert (self._process.returncode, err) == (0, ""), err
        return out

    def kill(self) -> None:
        """Returns when it is gone. Not to be awaited: whoever waits for its call is cancelled with it."""
        self._process.kill()
        self._process.communicate()


def change(souk: Souk[Any], name: str, statement: str) -> None:
    """Changes a database past its service."""
    url = make_url(souk.services[name].database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def two_days_pass(souk: Souk[Any]) -> None:
    """For what came to nothing: nobody waits so long in a test."""
    for column in ("created_at_us", "final_at_us"):
        older = f"UPDATE orders SET {column} = {column} - {2 * DAY_US}"
        change(souk, "orders", f"{older} WHERE status IN ('REFUSED', 'CANCELLED') AND final_at_us IS NOT NULL")


def run_out(souk: Souk[Any], order_id: str) -> None:
    """The time of what is held for an order, and long ago."""
    for name, table in (("reservations", "reservations"), ("loyalty", "holds")):
        change(souk, name, f"UPDATE {table} SET expires_at_us = 1 WHERE order_id = '{order_id}'")


async def due(souk: Souk[GrpcProxy]) -> None:
    """All that has come to nothing is marked, and two days pass."""
    await souk.settle()
    await Prune(souk).said()
    two_days_pass(souk)


def rows_of(souk: Souk[Any], order_id: str) -> dict[str, str]:
    """Where each service has the order."""
    columns = {"orders": ("orders", "status"), "reservations": ("reservations", "state"), "loyalty": ("holds", "state")}
    found = {}
    for name, (table, column) in columns.items():
        query = f"SELECT {column} FROM {table} WHERE order_id = :id"
        found[name] = "".join(row[0] for row in souk.rows(name, query, id=order_id))
    return found


GONE = {"orders": "", "reservations": "", "loyalty": ""}


async def refused_order(rest: httpx.AsyncClient) -> tuple[Request, str]:
    """An order for more than there is, and the item."""
    sku = await put_item(rest, 1)
    request = Request(await put_customer(rest, 100), {sku: 2}, redeem_points=30)
    answer = await request.place(rest)
    assert (answer.status_code, answer.json()["type"]) == REFUSED
    return request, sku


async def cancelled_order(rest: httpx.AsyncClient) -> Request:
    request = await confirmed_order(rest)
    assert (await rest.post(f"/v1/orders/{request.order_id}/cancel")).status_code == 200
    return request


async def confirmed_order(rest: httpx.AsyncClient) -> Request:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=30)
    assert (await request.place(rest)).status_code == 201
    await becomes(rest, request.order_id, "CONFIRMED")
    return request


async def becomes(rest: httpx.AsyncClient, order_id: str, status: str) -> None:
    async def is_so() -> bool:
        return await status_of(rest, order_id) == status

    await until(is_so, f"the order to be {status}")


async def test_what_came_to_nothing_goes_everywhere_and_its_key_names_a_new_order(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    refused, sku = await refused_order(rest)
    cancelled, confirmed = await cancelled_order(rest), await confirmed_order(rest)
    await due(souk)
    closed = {"reservations": "CLOSED", "loyalty": "CLOSED"}
    assert rows_of(souk, refused.order_id) == {"orders": "REFUSED", **closed}
    assert rows_of(souk, cancelled.order_id) == {"orders": "CANCELLED", **closed}
    await put_more(rest, sku)
    answer = await refused.place(rest)
    assert (answer.status_code, answer.json()["type"]) == REFUSED  # the key's answer, as long as it lives
    assert "; 2 marked at least a day ago were deleted" in await Prune(souk).said()
    assert rows_of(souk, refused.order_id) == rows_of(souk, cancelled.order_id) == GONE
    assert rows_of(souk, confirmed.order_id) == dict.fromkeys(GONE, "CONFIRMED")
    await souk.settle()
    for request in (refused, cancelled):
        assert (await rest.get(f"/v1/orders/{request.order_id}")).status_code == 404
        answer = await request.place(rest)
        assert answer.status_code == 201, answer.text
        assert "idempotency-replayed" not in answer.headers
        await becomes(rest, request.order_id, "CONFIRMED")
    await souk.settle()
    assert "0 newly marked; 0 marked" in await Prune(souk).said()


async def put_more(rest: httpx.AsyncClient, sku: str) -> None:
    assert (await rest.post(f"/v1/items/{sku}/restock", json={"quantity": 10})).status_code == 200


@pytest.mark.parametrize(
    ("point", "participant"),
    [
        (Point.BEFORE, "reservations"),
        (Point.COMMITTED, "loyalty"),
        pytest.param(Point.BEFORE, "loyalty", marks=pytest.mark.long),
        pytest.param(Point.COMMITTED, "reservations", marks=pytest.mark.long),
    ],
)
async def test_a_run_that_is_killed_is_taken_up_by_the_next_one(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, participant: str, point: Point
) -> None:
    (refused, sku), cancelled = await refused_order(rest), await cancelled_order(rest)
    await due(souk)
    run = Prune(souk)

    async def kill() -> None:
        run.kill()
        raise Lose  # what was to be said, or had been, is lost with it

    plan = souk.proxies["orders", participant].at(point, "Forget", kill, refused.order_id)
    await plan.done()
    assert rows_of(souk, refused.order_id)["orders"] == "REFUSED"
    assert not souk.audit().findings
    # What one of them has forgotten may be held anew meanwhile; the key's answer stands all the same.
    await put_more(rest, sku)
    answer = await refused.place(rest)
    assert (answer.status_code, answer.json()["type"]) == REFUSED
    held = rows_of(souk, refused.order_id)["reservations"] == "HELD"
    assert held is not ((participant, point) == ("reservations", Point.BEFORE))
    said = await Prune(souk).said()
    assert rows_of(souk, cancelled.order_id) == GONE
    if held:
        assert "Kept 1, because reservations still has them HELD or CONFIRMED" in said
        assert refused.order_id in said
        run_out(souk, refused.order_id)
        await souk.settle()
        await Prune(souk).said()
    assert rows_of(souk, refused.order_id) == GONE
    await souk.settle()


async def test_a_run_that_is_killed_before_it_deletes_archives_the_order_once_more(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    order_id = (await cancelled_order(rest)).order_id
    await due(souk)
    archive = tmp_path / "orders.jsonl"
    run = Prune(souk, "--archive", str(archive))
    writing = Writing(souk)
    plan = souk.proxies["orders", "loyalty"].at(Point.COMMITTED, "Forget", writing.start, order_id)
    await plan.done()

    async def is_archived() -> bool:
        return bool(archive.read_text())

    await until(is_archived, "the order to be archived")
    run.kill()
    await writing.end()
    assert rows_of(souk, order_id)["orders"] == "CANCELLED"
    assert not souk.audit().findings
    await Prune(souk, "--archive", str(archive)).said()
    assert rows_of(souk, order_id) == GONE
    archived = [json.loads(line) for line in archive.read_text().splitlines()]
    assert [each["order_id"] for each in archived] == [order_id] * 2
    assert [step["step"] for step in archived[1]["history"]][-3:][0] == "CANCELLED"
    await souk.settle()


class Writing:
    """Keeps everyone else from writing to orders' database."""

    def __init__(self, souk: Souk[Any]) -> None:
        url = make_url(souk.services["orders"].database_url)
        self._embedded = url.get_backend_name() == "sqlite"
        self._engine = create_engine(url if self._embedded else url.set(drivername="postgresql+psycopg"))

    async def start(self) -> None:
        self._connection = self._engine.connect()
        self._connection.execute(text("BEGIN IMMEDIATE" if self._embedded else "LOCK TABLE orders IN EXCLUSIVE MODE"))

    async def end(self) -> None:
        self._connection.close()
        self._engine.dispose()


async def test_prune_runs_beside_orders_that_are_placed_refused_and_cancelled(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    customer, plenty, scarce = await put_customer(rest, 10**6), await put_item(rest, 10**6), await put_item(rest, 0)
    keys: list[Request] = []
    answers: Counter[int] = Counter()
    enough = asyncio.Event()

    async def shop() -> None:
        while not enough.is_set():
            placed, refused = Request(customer, {plenty: 1}, redeem_points=1), Request(customer, {scarce: 1})
            for request in (placed, refused):
                answers[(await request.place(rest)).status_code] += 1
            assert (await rest.post(f"/v1/orders/{placed.order_id}/cancel")).status_code == 200
            keys.append(Request(customer, {plenty: 1}, redeem_points=1, key=placed.key))

    async def come_again() -> None:
        while not enough.is_set():
            for request in keys[-5:]:  # some of them still cancelled, some gone, some new
                answers[(await request.place(rest)).status_code] += 1
            await asyncio.sleep(0)

    gone = 0
    async with asyncio.TaskGroup() as clients:
        for client in (*[shop] * 4, come_again):
            clients.create_task(client())
        for _ in range(6 if LONG else 3):
            said = await Prune(souk).said()
            gone += int(said.partition("newly marked; ")[2].split()[0].replace(",", ""))
            assert not await findings(souk)
            two_days_pass(souk)
        enough.set()
    assert gone > 0
    assert {*answers} <= {201, 409}
    await souk.settle()
    await Prune(souk).said()
    two_days_pass(souk)
    await Prune(souk).said()
    report = await souk.settle()
    assert not {"CANCELLED", "REFUSED"} & {status for status, count in report.orders.items() if count}


async def findings(souk: Souk[GrpcProxy]) -> Any:
    return (await asyncio.to_thread(souk.audit, 10)).findings


async def test_what_expired_unused_goes_from_the_participants(souk: Souk[GrpcProxy], rest: httpx.AsyncClient) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=30)
    lost = souk.proxies["gateway", "orders"].lose_calls("Create", request.order_id)
    assert (await request.send(rest)).status_code == 503
    await lost.done()
    run_out(souk, request.order_id)
    await souk.settle()
    assert rows_of(souk, request.order_id) == {"orders": "", "reservations": "EXPIRED", "loyalty": "EXPIRED"}
    for name in ("reservations", "loyalty"):
        assert "expired at least a day ago: 1 deleted.\n" in await Prune(souk, service=name).said()
    assert rows_of(souk, request.order_id) == GONE
    souk.proxies["gateway", "orders"].forget()
    assert (await request.place(rest)).status_code == 201
    await souk.settle()
