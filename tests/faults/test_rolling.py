"""Every service is replaced while orders flow: stopped (SIGTERM) and started again, or by a new one beside the old."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import LONG
from tests.faults.processes import until
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import BACKENDS, PostgreSQL, Souk

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


Replace = Callable[[Load], Awaitable[None]]


async def under_load(souk: Souk[Any], start: Callable[[], Awaitable[None]], replace: Replace) -> Load:
    """Gives what the clients were answered; all that they ordered is there, and nothing else."""
    load = Load()
    try:
        await start()
        async with souk.client() as rest:
            customer, sku = await put_customer(rest, 0), await put_item(rest, 10**6)
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(load.run(rest, customer, sku))
                for _ in range(ROUNDS):
                    await replace(load)
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


async def in_place(souk: Souk[Any]) -> Load:
    """Each process is stopped, and started again after others have been answered without it."""

    async def replace(load: Load) -> None:
        for service in souk.services.values():
            await load.more(ANSWERS)
            await service.stop()
            await load.more(ANSWERS)
            await service.start()

    return await under_load(souk, souk.start, replace)


@pytest.mark.timeout(300)
@pytest.mark.long  # the next one replaces replicas in the same way
async def test_services_are_replaced_in_turn_and_no_order_is_lost(tmp_path: Path) -> None:
    load = await in_place(Souk(tmp_path, gateways=2))
    print(f"one of each behind two gateways: {dict(load.answers)}", file=sys.stderr)


@pytest.mark.timeout(300)
async def test_replicas_are_replaced_in_turn_and_no_order_is_lost(tmp_path: Path, postgresql: PostgreSQL) -> None:
    load = await in_place(Souk(tmp_path, postgresql=postgresql, backends=2, gateways=2))
    print(f"two of each: {dict(load.answers)}", file=sys.stderr)


class Beside:
    """Replaces services as docs/rollout.md says: the new process first, then the weights, then SIGTERM for the old."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "targets.toml"
        self.souk = Souk[Any](folder, backends=2, SOUK_TARGETS_FILE=str(self._file))
        self._serving = {name: [name] for name in BACKENDS}

    async def start(self) -> None:
        """One process of each service; the second ones come later."""
        self._write({name: {name: 1} for name in BACKENDS})
        for name in (*BACKENDS, "gateway"):
            await self.souk.services[name].start()

    async def replace(self, load: Load) -> None:
        for name in BACKENDS:
            (old,) = self._serving[name]
            new = name if old != name else f"{name}-2"
            await self.souk.services[new].start()
            for weights in ({old: 1, new: 0}, {old: 0, new: 1}):
                await self._use(name, weights)
                await load.more(ANSWERS)
            await self.souk.services[old].stop()
            await load.more(ANSWERS)
            await self._use(name, {new: 1})
            self._serving[name] = [new]

    async def _use(self, name: str, weights: Mapping[str, int]) -> None:
        """Returns once the gateway shares requests out so, and sees every target serve."""
        everything = {each: dict.fromkeys(self._serving[each], 1) for each in BACKENDS}
        self._write({**everything, name: weights})

        async def is_in_force() -> bool:
            targets = (await rest.get("/health/targets")).json()["services"][name]
            return {each["version"]: (each["weight"], each["status"]) for each in targets} == wanted

        wanted = {version: (weight, "SERVING") for version, weight in weights.items()}
        async with httpx.AsyncClient(base_url=self.souk.urls[0]) as rest:
            await until(is_in_force, f"the gateway to use {weights} of {name}")

    def _write(self, weights: Mapping[str, Mapping[str, int]]) -> None:
        lines = []
        for name, targets in weights.items():
            each = (f"{one}={self.souk.services[one].address};{weight}" for one, weight in targets.items())
            lines.append(f'{name} = "{",".join(each)}"\n')
        partial = self._file.with_suffix(".new")
        partial.write_text("".join(lines))
        partial.replace(self._file)


@pytest.mark.timeout(300)
async def test_a_service_that_is_replaced_beside_the_old_one_costs_no_503(tmp_path: Path) -> None:
    beside = Beside(tmp_path)
    load = await under_load(beside.souk, beside.start, beside.replace)
    assert set(load.answers) == {201}
