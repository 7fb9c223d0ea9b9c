"""Every service is told to stop (SIGTERM) and started again, one after another, while orders flow."""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import LONG
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import PostgreSQL, Souk

CLIENTS = 16
ROUNDS = 5 if LONG else 1
ANSWERS = 60


class Load:
    """Orders that keep coming. Clients see 201, or 503 and when to try again; nothing else is forgiven."""

    def __init__(self) -> None:
        self.stopping = False
        self.placed: list[str] = []
        self.answers: Counter[int] = Counter()
        self._news = asyncio.Event()

    async def run(self, rest: httpx.AsyncClient, customer: str, sku: str) -> None:
        while not self.stopping:
            request = Request(customer, {sku: 1})
            while (answer := await request.send(rest)).status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1, answer.text
                self._count(answer)
                await asyncio.sleep(0.1)
            assert answer.status_code == 201, answer.text
            self.placed.append(request.order_id)
            self._count(answer)

    async def more(self, answers: int) -> None:
        """Returns when so many more have been given."""
        wanted = self.answers.total() + answers
        async with asyncio.timeout(60):
            while self.answers.total() < wanted:
                self._news.clear()
                await self._news.wait()

    def _count(self, answer: httpx.Response) -> None:
        self.answers[answer.status_code] += 1
        self._news.set()


async def replace_in_turn(souk: Souk[Any]) -> Load:
    """Gives what the clients were answered; all that they ordered is there, and nothing else."""
    load = Load()
    try:
        await souk.start()
        async with souk.client() as rest:
            customer, sku = await put_customer(rest, 0), await put_item(rest, 10**6)
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(load.run(rest, customer, sku))
                for _ in range(ROUNDS):
                    for service in souk.services.values():
                        await load.more(ANSWERS)
                        await service.stop()
                        await load.more(ANSWERS)
                        await service.start()
                await load.more(ANSWERS)
                load.stopping = True
        await souk.settle()
    except BaseException:
        souk.copy_logs(sys.stderr)
        raise
    finally:
        await souk.destroy()
    orders = souk.rows("orders", "SELECT order_id, status FROM orders")
    assert {(row.order_id, row.status) for row in orders} == {(each, "CONFIRMED") for each in load.placed}
    return load


@pytest.mark.timeout(300)
async def test_services_are_replaced_in_turn_and_no_order_is_lost(tmp_path: Path) -> None:
    load = await replace_in_turn(Souk(tmp_path, gateways=2))
    print(f"one of each behind two gateways: {dict(load.answers)}", file=sys.stderr)


@pytest.mark.timeout(300)
async def test_replicas_are_replaced_in_turn_and_no_order_is_lost(tmp_path: Path, postgresql: PostgreSQL) -> None:
    load = await replace_in_turn(Souk(tmp_path, postgresql=postgresql, backends=2, gateways=2))
    print(f"two of each: {dict(load.answers)}", file=sys.stderr)
