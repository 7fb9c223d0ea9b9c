"""Many orders at once, while services die and connections fail at random.

The choices (who orders what, what fails when) come from a seed that is printed; SOUK_FAULT_SEED=<seed> makes them
again. How the processes run beside each other is not chosen, so a replay meets the same faults at other moments.
"""

import asyncio
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

from tests.faults.audit import rows, settle
from tests.faults.conftest import LONG
from tests.faults.proxy import TcpProxy
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import SERVICES, Souk

CLIENTS = 32
ORDERS = 3000 if LONG else 300
TIMEOUT_S = 3600 if LONG else 240

Disturb = Callable[[random.Random, Counter[str]], Awaitable[None]]


def new_seed() -> int:
    return int(os.environ.get("SOUK_FAULT_SEED") or random.SystemRandom().randrange(2**32))


async def catalogue(rest: httpx.AsyncClient) -> tuple[list[str], list[str]]:
    """Items of which some run out, and customers of whom some run out of points."""
    skus = [await put_item(rest, on_hand) for on_hand in (100_000, 100_000, ORDERS, ORDERS // 4, ORDERS // 10)]
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


async def run(souk: Souk[Any], disturb: Disturb, calm: Callable[[], Awaitable[None]], what: str) -> None:
    """Places all orders under disturbance; then lets it settle, and checks every answer against what there is."""
    seed = new_seed()
    choose = random.Random(seed)
    done: Counter[str] = Counter()
    print(f"\n{what}: SOUK_FAULT_SEED={seed}, {ORDERS} orders, {CLIENTS} clients", file=sys.stderr, flush=True)
    async with souk.client() as rest:
        requests = wanted(choose, *await catalogue(rest))
        cancels = {request.key for request in requests if choose.random() < 0.1}
        answers: dict[str, httpx.Response] = {}
        queue = list(requests)
        disturbing = asyncio.create_task(_again_and_again(disturb, random.Random(seed + 1), done))
        try:
            async with asyncio.TaskGroup() as clients:
                for n in range(CLIENTS):
                    clients.create_task(shop(rest, queue, cancels, answers, random.Random(seed + 2 + n)))
        finally:
            disturbing.cancel()
            with suppress(asyncio.CancelledError):
                await disturbing
            await calm()
        await settle(souk)
        told = Counter(f"{answer.status_code} {answer.json().get('type', 'order')}" for answer in answers.values())
        print(f"{what}: {dict(done)}; {dict(told)}", file=sys.stderr, flush=True)
        await check_answers(rest, souk.folder, requests, answers)


async def _again_and_again(disturb: Disturb, choose: random.Random, done: Counter[str]) -> None:
    while True:
        await disturb(choose, done)


async def check_answers(
    rest: httpx.AsyncClient, folder: Path, requests: list[Request], answers: dict[str, httpx.Response]
) -> None:
    """Each key has one order or one refusal: the one that its client was told, and is told again."""
    kept = {row["order_id"]: row["status"] for row in rows(folder / "orders.db", "SELECT * FROM orders")}
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


@pytest.mark.timeout(TIMEOUT_S + 120)
async def test_services_are_killed_at_random_and_each_key_has_one_answer(tmp_path: Path) -> None:
    souk: Souk[TcpProxy] = Souk(tmp_path)

    async def kill(choose: random.Random, done: Counter[str]) -> None:
        name, alone, pause_s = choose.choice(SERVICES), choose.random() < 0.8, choose.uniform(0.1, 0.6)
        service = souk.services[name]
        service.kill()
        service.spawn()
        done[f"kills of {name}"] += 1
        if alone:  # a start takes longer than a pause, and with several down at any time nothing would be ordered
            await service.serving()
        await asyncio.sleep(pause_s)

    async def calm() -> None:
        await asyncio.gather(*(service.serving() for service in souk.services.values()))

    try:
        await souk.start()
        await run(souk, kill, calm, "kills")
    except BaseException:
        souk.copy_logs(sys.stderr)
        raise
    finally:
        await souk.destroy()


@pytest.mark.timeout(TIMEOUT_S + 120)
async def test_connections_are_cut_and_stalled_at_random_and_each_key_has_one_answer(tmp_path: Path) -> None:
    souk = Souk(tmp_path, TcpProxy, SOUK_DEADLINE_S="2", SOUK_RELAY_TIMEOUT_S="1")

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

    try:
        await souk.start()
        await run(souk, disturb, calm, "cuts and stalls")
    except BaseException:
        souk.copy_logs(sys.stderr)
        raise
    finally:
        await souk.destroy()
