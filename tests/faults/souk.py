"""Souk as processes, each of which can be killed and started alone, with proxies between them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

import httpx
from auditor.audit import Audit, Patience, Report
from auditor.databases import Database
from auditor.report import as_text
from sqlalchemy import text

from tests.deployments import free_port
from tests.faults.processes import Service, until

BACKENDS = ("orders", "reservations", "loyalty")
SERVICES = (*BACKENDS, "gateway")
EDGES = (
    ("gateway", "orders"),
    ("gateway", "reservations"),
    ("gateway", "loyalty"),
    ("orders", "reservations"),
    ("orders", "loyalty"),
)
"""Who calls whom."""


class PostgreSQL(Protocol):
    """A server of the tests; see the root's conftest.py."""

    def migrated(self, migrate: Callable[[str], None]) -> str: ...

    def start(self) -> None: ...

    def stop(self, mode: str = "fast") -> None: ...


class Proxy(Protocol):
    """What can stand on an edge."""

    address: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


P = TypeVar("P", bound=Proxy)


def migrate(name: str, url: str) -> None:
    """Prepares a service's database."""
    environment = {**os.environ, f"SOUK_{name.upper()}_DATABASE_URL": url}
    subprocess.run([sys.executable, "-m", f"souk_{name}", "migrate"], env=environment, check=True)


MIGRATE = {name: partial(migrate, name) for name in BACKENDS}


class Souk(Generic[P]):
    """Souk on SQLite, or on the PostgreSQL that is given.

    `proxy` makes what stands on each edge, for one replica of each service; without it there may be several.
    """

    def __init__(
        self,
        folder: Path,
        proxy: Callable[[int, str], P] | None = None,
        *,
        postgresql: PostgreSQL | None = None,
        backends: int = 1,
        gateways: int = 1,
        **settings: str,
    ) -> None:
        self.folder = folder
        self.databases: dict[str, Database] = {}
        self.services: dict[str, Service] = {}
        """By name; the second replica of orders is `orders-2`."""
        self.proxies: dict[tuple[str, str], P] = {}
        count = {name: gateways if name == "gateway" else backends for name in SERVICES}
        ports = iter(_ports(sum(count.values()) + len(EDGES)))
        addresses = {name: [f"127.0.0.1:{next(ports)}" for _ in range(count[name])] for name in SERVICES}
        if proxy is not None:
            for caller, callee in EDGES:
                self.proxies[caller, callee] = proxy(next(ports), addresses[callee][0])
        for name in SERVICES:
            environment = dict(settings)
            for caller, callee in EDGES:
                if caller == name:
                    between = self.proxies.get((caller, callee))
                    target = f"ipv4:///{','.join(addresses[callee])}" if between is None else between.address
                    environment[f"SOUK_{callee.upper()}_TARGET"] = target
            url = postgresql.migrated(MIGRATE[name]) if postgresql and name in BACKENDS else None
            for n, address in enumerate(addresses[name]):
                service = Service(name, int(address.rpartition(":")[2]), environment, folder, url)
                self.services[name if n == 0 else f"{name}-{n + 1}"] = service
            if name in BACKENDS:
                self.databases[name] = Database(name, self.services[name].database_url)
        self.urls = [f"http://{address}" for address in addresses["gateway"]]

    async def start(self) -> None:
        for proxy in self.proxies.values():
            await proxy.start()
        for service in self.services.values():
            service.spawn()
        await self.serving()

    async def serving(self) -> None:
        """Returns once all answer."""
        await asyncio.gather(*(service.serving() for service in self.services.values()))

    async def destroy(self) -> None:
        for service in self.services.values():
            service.kill()
        for proxy in self.proxies.values():
            await proxy.stop()

    def client(self) -> httpx.AsyncClient:
        """A client of the REST interface, whose requests may have to wait for a service."""
        return httpx.AsyncClient(base_url=self.urls[0], timeout=15, transport=Balanced(self.urls))

    def rows(self, name: str, query: str, **parameters: object) -> Sequence[Any]:
        """What a query of a service's database gives, beside the service."""
        with self.databases[name].snapshot() as connection:
            return connection.execute(text(query), parameters).all()

    def audit(self, settle_s: float = 0) -> Report:
        """One look, and others for `settle_s` at what the databases seem to disagree about."""
        return Audit(self.databases, Patience(settle_s), lambda _: None).run()

    async def settle(self, seconds: float = 60) -> Report:
        """Waits until nothing is on its way any more, and finds nothing wrong."""

        async def is_settled() -> bool:
            report = await asyncio.to_thread(self.audit)
            return not report.in_flight and not report.orders["ACCEPTED"]

        try:
            await until(is_settled, "everything to settle", seconds)
        except TimeoutError as error:
            raise AssertionError(f"it does not settle:\n{as_text(self.audit())}") from error
        report = self.audit()
        assert not report.findings, as_text(report)
        return report

    def copy_logs(self, to: IO[str]) -> None:
        """For whoever must find out why a test failed."""
        for service in self.services.values():
            service.copy_log(to)


class Balanced(httpx.AsyncBaseTransport):
    """Several gateways behind one address, as a load balancer has it: who cannot be connected to is passed over."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [httpx.URL(url) for url in urls]
        self._next = 0
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._next += 1
        first = self._next % len(self._urls)
        refused = []
        for url in (*self._urls[first:], *self._urls[:first]):
            try:
                return await self._send(request, url)
            except httpx.ConnectError as error:
                refused.append(f"{url}: {_root(error)!r}")
        raise httpx.ConnectError(f"no gateway takes a connection: {'; '.join(refused)}")

    async def _send(self, request: httpx.Request, url: httpx.URL) -> httpx.Response:
        request.url = request.url.copy_with(host=url.host, port=url.port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


def _root(error: BaseException) -> BaseException:
    before = error.__cause__ or error.__context__
    return error if before is None else _root(before)


def _ports(count: int) -> Sequence[int]:
    first = free_port(count)
    return range(first, first + count)
