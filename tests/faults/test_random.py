"""Many orders at once, while services die and connections fail at random.

The choices (who orders what, what fails when) come from a seed that is printed; SOUK_FAULT_SEED=<seed> makes them
again. How the processes run beside each other is not chosen, so a replay meets the same faults at other moments.
"""

import asyncio
import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from auditor.databases import Unreadable
from auditor.report import as_text

from tests.conftest import LONG
from tests.faults.proxy import TcpProxy
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import PostgreSQL, Souk

CLIENTS = 32
ORDERS = 3000 if LONG else 200
TIMEOUT_S = 3600 if LONG else 240

Disturb = Callable[[random.Random, Counter[str]], Awaitable[None]]


def new_seed() -> int:
    return int(os.environ.get("SOUK_FAULT_SEED") or random.SystemRandom().randrange(2**32))


async def catalogue(rest: httpx.AsyncClient) -> tuple[list[str], list[str]]:
    """Items of which some run out, and customers of whom some run out of points."""
    skus = [await put_item(rest, on_hand) for on_hand in (100_000, 100_000, ORDERS, ORDERS, ORDERS // 4)]
    customers = [await put_customer(rest, points) for points in (1_000_000, ORDERS * 20, ORDERS, 0)]
    return skus, customers


def wanted(choose: random.Random, skus: list[str], customers: list[str]) -> list[Request]:
    requests = []
    for _ in range(ORDERS):
        lines = {sku: choose.randint(1, 3) for sku in choose.sample(skus, choose.randint(1, 3))}
        redeem = choose.choice([0, 0, choose.randint(1, 50)])
        key = f"{choose.getrandbits(128):032x}"
        requests.append(Request(choose.choice(customers), lines, redeem, key))
    return requests


async def shop(
    rest: httpx.AsyncClient,
    requests: list[Request],
    cancels: set[str],
    answers: dict[str, httpx.Response],
    thinking: random.Random,
) -> None:
    """One client, one order after another; now and then it asks again, or cancels."""
    while requests:
        request = requests.pop()
        await asyncio.sleep(thinking.uniform(0, 2))  # so that there is time for things to go wrong
        answers[request.key] = await request.place(rest, seconds=TIMEOUT_S)
        if request.key in cancels and answers[request.key].status_code == 201:
            with suppress(httpx.HTTPError):
                await rest.post(f"/v1/orders/{request.order_id}/cancel")


async def run(souk: Souk[Any], disturb: Disturb, calm: Callable[[], Awaitable[None]], what: str) -> Counter[str]:
    """Places all orders under disturbance; then lets it settle, and checks every answer against what there is.

    The audit runs beside it all the while, and must not take what is in flight for a fault. Gives what was done to it,
    and how often.
    """
    seed = new_seed()
    choose = random.Random(seed)
    done: Counter[str] = Counter()
    print(f"\n{what}: SOUK_FAULT_SEED={seed}, {ORDERS} orders, {CLIENTS} clients", file=sys.stderr, flush=True)
    try:
        await souk.start()
        async with souk.client() as rest:
            requests = wanted(choose, *await catalogue(rest))
            cancels = {request.key for request in requests if choose.random() < 0.1}
            answers: dict[str, httpx.Response] = {}
            queue = list(requests)
            over = asyncio.Event()
            started = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as beside:
                beside.create_task(_disturb(disturb, random.Random(seed + 1), done, over))
                beside.create_task(_audit(souk, done, over))
                async with asyncio.TaskGroup() as clients:
                    for n in range(CLIENTS):
                        clients.create_task(shop(rest, queue, cancels, answers, random.Random(seed + 2 + n)))
                over.set()
            await calm()
            report = await souk.settle()
            told = Counter(f"{answer.status_code} {answer.json().get('type', 'order')}" for answer in answers.values())
            seconds = asyncio.get_running_loop().time() - started
            report.orders["without loyalty"] = len(souk.rows("orders", "SELECT 1 FROM orders WHERE without_loyalty"))
            summary = f"{what}, {seconds:.0f} s: {dict(done)}; {dict(told)}; {dict(report.orders)}"
            print(summary, file=sys.stderr, flush=True)
            await check_answers(rest, souk, requests, answers)
            return done
    except BaseException:
        souk.copy_logs(sys.stderr)
        raise
    finally:
        await souk.destroy()


async def _disturb(disturb: Disturb, choose: random.Random, done: Counter[str], over: asyncio.Event) -> None:
    while not over.is_set():
        await disturb(choose, done)


async def _audit(souk: Souk[Any], done: Counter[str], over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            report = await asyncio.to_thread(souk.audit, settle_s=5)
        except Unreadable:  # while a database is down
            done["audits in vain"] += 1
        else:
            assert not report.findings, as_text(report)
            done["audits"] += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 1)


async def check_answers(
    rest: httpx.AsyncClient, souk: Souk[Any], requests: list[Request], answers: dict[str, httpx.Response]
) -> None:
    """Each key has one order or one refusal: the one that its client was told, and is told again."""
    kept = {row.order_id: row.status for row in souk.rows("orders", "SELECT order_id, status FROM orders")}
    assert set(kept) == {request.order_id for request in requests}
    for request in requests:
        answer = answers[request.key]
        if answer.status_code == 201:
            assert answer.json()["id"] == request.order_id
            assert kept[request.order_id] in ("CONFIRMED", "CANCELLED")
        else:
            assert kept[request.order_id] == "REFUSED", f"{request.order_id}: {answer.text}"
    for request in requests[:: max(1, len(requests) // 100)]:
        again = await request.place(rest)
        assert again.status_code == answers[request.key].status_code
        assert again.headers["idempotency-replayed"] == "true"
        if again.status_code == 201:
            same = ("id", "lines", "total", "points_redeemed", "points_earned")
            first = answers[request.key].json()
            assert {name: again.json()[name] for name in same} == {name: first[name] for name in same}
        else:
            assert again.json() == answers[request.key].json()


async def _kill(souk: Souk[Any], choose: random.Random, done: Counter[str]) -> None:
    """Kills a service, starts it again, and lets a few hundred milliseconds pass."""
    name, pause_s = choose.choice(list(souk.services)), choose.uniform(0.1, 0.5)
    souk.services[name].kill()
    souk.services[name].spawn()
    done[f"kills of {name}"] += 1
    await asyncio.sleep(pause_s)


@pytest.mark.timeout(TIMEOUT_S + 120)
async def test_services_are_killed_at_random_and_each_key_has_one_answer(tmp_path: Path) -> None:
    souk: Souk[TcpProxy] = Souk(tmp_path)

    async def kill(choose: random.Random, done: Counter[str]) -> None:
        await _kill(souk, choose, done)

    done = await run(souk, kill, souk.serving, "kills")
    assert all(done[f"kills of {name}"] for name in souk.services)


@pytest.mark.timeout(TIMEOUT_S + 120)
async def test_replicas_and_their_database_are_killed_at_random_and_each_key_has_one_answer(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    souk: Souk[TcpProxy] = Souk(tmp_path, postgresql=postgresql, backends=2, gateways=2, SOUK_LOYALTY_REQUIRED="false")

    async def kill(choose: random.Random, done: Counter[str]) -> None:
        if next(kills) % 15 == 10:
            await souk.serving()  # what starts while its database is away ends, and nobody here starts it again
            await asyncio.to_thread(_crash, postgresql)
            done["kills of PostgreSQL"] += 1
        await _kill(souk, choose, done)

    kills = itertools.count()
    done = await run(souk, kill, souk.serving, "kills on PostgreSQL")
    assert done["kills of PostgreSQL"]


def _crash(postgresql: PostgreSQL) -> None:
    postgresql.stop("immediate")
    postgresql.start()


@pytest.mark.timeout(TIMEOUT_S + 120)
async def test_connections_are_cut_and_stalled_at_random_and_each_key_has_one_answer(tmp_path: Path) -> None:
    souk = Souk(tmp_path, TcpProxy, SOUK_DEADLINE_S="2", SOUK_RELAY_TIMEOUT_S="1", SOUK_LOYALTY_REQUIRED="false")

    async def disturb(choose: random.Random, done: Counter[str]) -> None:
        edge = choose.choice(list(souk.proxies))
        kind, pause_s, stall_s = choose.choice(["cut", "stall"]), choose.uniform(0.05, 0.2), choose.uniform(0.1, 2.5)
        await asyncio.sleep(pause_s)
        if kind == "cut":
            souk.proxies[edge].cut()
        else:
            souk.proxies[edge].stall()
            await asyncio.sleep(stall_s)
            souk.proxies[edge].flow()
        done[f"{kind}s from {edge[0]} to {edge[1]}"] += 1

    async def calm() -> None:
        for proxy in souk.proxies.values():
            proxy.flow()

    done = await run(souk, disturb, calm, "cuts and stalls")
    assert any("cuts" in name for name in done)
    assert any("stalls" in name for name in done)
