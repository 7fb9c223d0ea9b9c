"""A rolling upgrade and downgrade: one service at a time, in random order, while orders flow."""

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from auditor.audit import Audit, Patience
from auditor.databases import Database, urls
from auditor.report import as_text
from releasing.ledger import SERVICES

from skewing.installed import Age, Installed
from skewing.processes import Failed, Process, free_addresses

CLIENTS = 16
ANSWERS = 40
"""That clients have been given before and after each step."""
SETTLED_S = 30.0
AGES: Sequence[Age] = ("new", "old")
"""To which every service is brought, in turn."""
PRICE, QUANTITY = 450, 2
_STALLED_S = 60.0
_AGAIN_S = 0.1


class Wrong(Exception):
    """An order was lost, refused without reason or answered wrongly; the text says how."""


@dataclass
class Rolled:
    """What was done, and how clients fared."""

    steps: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    placed: int = 0
    wrong: list[str] = field(default_factory=list)


class _Shop:
    """Clients that keep ordering. They see orders, refusals with a reason, or 503 and when to try again."""

    def __init__(self, rest: httpx.AsyncClient, answers: Counter[int]) -> None:
        self.stopping = False
        self.fates: dict[str, str] = {}
        """By order: the state in which it must end."""
        self.customer = f"customer-{uuid4().hex[:12]}"
        self._tea, self._sold_out = (f"item-{uuid4().hex[:12]}" for _ in range(2))
        self._rest = rest
        self._answers = answers
        self._news = asyncio.Event()

    async def open(self) -> None:
        await self._answer("PUT", f"/v1/customers/{self.customer}", {"name": "Amina", "tier": "silver", "points": 0})
        for sku, on_hand in ((self._tea, 10**6), (self._sold_out, 0)):
            await self._answer("PUT", f"/v1/items/{sku}", {"name": "Tea", "unit_price": PRICE, "on_hand": on_hand})

    async def visit(self) -> None:
        """Orders, now and then what is sold out, and now and then the same again."""
        visits = 0
        while not self.stopping:
            visits += 1
            if visits % 5 == 0:
                await self._ask_for_too_much()
            key = str(uuid4())
            placed = self._expect(await self._order(self._tea, key), 201)
            if placed["subtotal"] != PRICE * QUANTITY or placed["total"] != placed["subtotal"] - placed["discount"]:
                raise Wrong(f"{QUANTITY} pieces for {PRICE} each were answered with {placed}")
            self.fates[str(placed["id"])] = "CONFIRMED"
            if visits % 3 == 0:
                again = self._expect(await self._order(self._tea, key), 201)
                if (again["id"], again["total"]) != (placed["id"], placed["total"]):
                    raise Wrong(f"the same key was answered with {placed}, then with {again}")

    async def more(self, answers: int = ANSWERS) -> None:
        """Returns when so many more have been given."""
        wanted = self._answers.total() + answers
        try:
            async with asyncio.timeout(_STALLED_S):
                while self._answers.total() < wanted:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Wrong(f"{CLIENTS} clients did not get {answers} answers within {_STALLED_S:.0f} s") from None

    async def _ask_for_too_much(self) -> None:
        problem = self._expect(await self._order(self._sold_out, str(uuid4())), 409)
        if not str(problem["type"]).endswith("/out-of-stock"):
            raise Wrong(f"an order for a sold-out item was refused with {problem}")

    async def _order(self, sku: str, key: str) -> httpx.Response:
        lines = [{"sku": sku, "quantity": QUANTITY}]
        body = {"customer_id": self.customer, "lines": lines, "redeem_points": 0}
        return await self._answer("POST", "/v1/orders", body, key)

    async def _answer(self, method: str, path: str, body: Mapping[str, object], key: str = "") -> httpx.Response:
        """The one that counts: not a 503 that says when to try again."""
        while True:
            headers = {"Idempotency-Key": key} if key else {}
            answer = await self._rest.request(method, path, json=body, headers=headers)
            self._answers[answer.status_code] += 1
            self._news.set()
            if answer.status_code != 503:
                return answer
            if int(answer.headers.get("retry-after", 0)) < 1:
                raise Wrong(f"{path} was answered with 503 without Retry-After: {answer.text}")
            await asyncio.sleep(_AGAIN_S)  # impatience is harder on the services than what it says

    def _expect(self, answer: httpx.Response, status: int) -> Mapping[str, Any]:
        if answer.status_code != status:
            raise Wrong(f"an order was answered with {answer.status_code} instead of {status}: {answer.text}")
        body: Mapping[str, Any] = answer.json()
        return body


class _Gateways(httpx.AsyncBaseTransport):
    """Two addresses behind one, as a load balancer has them: who cannot be connected to is passed over."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._urls = [httpx.URL(f"http://{address}") for address in addresses]
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for url in self._urls:
            request.url = request.url.copy_with(host=url.host, port=url.port)
            try:
                return await self._transport.handle_async_request(request)
            except httpx.ConnectError as error:
                refused = error
        raise refused

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Fleet:
    """One process of each service, and a second address for the one that replaces it."""

    def __init__(self, versions: Mapping[str, Sequence[Installed]], data: Path) -> None:
        self.addresses = {service: free_addresses(2) for service in SERVICES}
        self._targets = {service: f"ipv4:///{','.join(each)}" for service, each in self.addresses.items()}
        self._versions = versions
        self._data = data
        self._all: list[Process] = []
        self._current = {service: self._process(service, "old", self.addresses[service][0]) for service in SERVICES}

    def start(self) -> None:
        """Raises Failed."""
        for each in self._current.values():
            each.spawn()
        for each in self._current.values():
            each.serving()

    async def replace(self, service: str, age: Age, beside: bool, shop: _Shop, note: Callable[[str], None]) -> None:
        """By another version, which comes up beside the one that runs, or after it has gone. Raises Failed, Wrong."""
        running = self._current[service]
        first, second = self.addresses[service]
        other = second if running.address == first else first
        new = self._current[service] = self._process(service, age, other if beside else running.address)
        note(f"{running.what} by {new.what}, {'beside it' if beside else 'in place'}")
        for step in (new.start, running.stop) if beside else (running.stop, new.start):
            await asyncio.to_thread(step)
            await shop.more()

    def stop(self) -> None:
        """Raises Failed."""
        for each in self._current.values():
            each.stop()

    def kill(self) -> None:
        """For the end, whatever runs."""
        for each in self._all:
            each.kill()

    def _process(self, service: str, age: Age, address: str) -> Process:
        what = self._versions[service][0 if age == "old" else -1]
        self._all.append(Process(what, address, self._data, self._targets))
        return self._all[-1]


async def roll(
    versions: Mapping[str, Sequence[Installed]], data: Path, seed: int, say: Callable[[str], None]
) -> Rolled:
    """From all old to all new, and back. Raises Failed where not even the first ones come up."""
    rolled = Rolled()
    chance = random.Random(seed)  # noqa: S311 (to be replayed, not to be secret)
    fleet = _Fleet(versions, data)

    def note(step: str) -> None:
        say(step)
        rolled.steps.append(step)

    try:
        await asyncio.to_thread(fleet.start)
        transport = _Gateways(fleet.addresses["gateway"])
        async with httpx.AsyncClient(base_url="http://souk", timeout=30, transport=transport) as rest:
            shop = _Shop(rest, rolled.answers)
            try:
                await shop.open()
                async with asyncio.TaskGroup() as clients:
                    for _ in range(CLIENTS):
                        clients.create_task(shop.visit())
                    await shop.more()
                    for age in AGES:
                        for service in chance.sample(SERVICES, len(SERVICES)):
                            # In place it is away for a moment; that may not happen to the only gateway.
                            beside = chance.random() < 0.5 or service == "gateway"
                            await fleet.replace(service, age, beside, shop, note)
                    shop.stopping = True
            except* (Wrong, Failed, httpx.HTTPError) as errors:
                rolled.wrong += sorted({str(each) or repr(each) for each in errors.exceptions})
        rolled.placed = len(shop.fates)
        rolled.wrong += await asyncio.to_thread(_settled, data, shop)
        if not rolled.wrong:
            await asyncio.to_thread(fleet.stop)
    finally:
        fleet.kill()
    return rolled


def _settled(data: Path, shop: _Shop) -> Sequence[str]:
    """What is not as the clients were told, and what the audit finds."""
    deadline = time.monotonic() + SETTLED_S
    while (lost := _lost(data, shop)) and time.monotonic() < deadline:
        time.sleep(_AGAIN_S)
    return [*lost, *_found(data)]


def _found(data: Path) -> Sequence[str]:
    """By the audit."""
    databases = {name: Database(name, url) for name, url in urls(data).items()}
    report = Audit(databases, Patience(), lambda _: None).run()
    return [as_text(report)] if report.findings else []


def _lost(data: Path, shop: _Shop) -> Sequence[str]:
    with closing(sqlite3.connect(data / "orders.db")) as orders:
        found = dict(
            orders.execute(
                "SELECT order_id, status FROM orders WHERE customer_id = ? AND status != 'REFUSED'", (shop.customer,)
            ).fetchall()
        )
    wrong = [
        f"the order {order_id} was taken; it should be {fate}, and is {found.get(order_id, 'not there')}"
        for order_id, fate in shop.fates.items()
        if found.get(order_id) != fate
    ]
    return wrong + [
        f"the order {order_id} exists, but no client was told about it" for order_id in {*found} - {*shop.fates}
    ]
