"""The four services as processes, each of which can be killed and started alone, with proxies between them."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Generic, Protocol, TypeVar

import httpx

from tests.deployments import free_port
from tests.faults.processes import Service

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


class Proxy(Protocol):
    """What can stand on an edge."""

    address: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


P = TypeVar("P", bound=Proxy)


class Souk(Generic[P]):
    """Souk with a proxy on each edge; without proxies where `proxy` is None."""

    def __init__(self, folder: Path, proxy: Callable[[int, str], P] | None = None, **settings: str) -> None:
        ports = _ports(len(SERVICES) + len(EDGES))
        targets = {name: f"127.0.0.1:{port}" for name, port in zip(SERVICES, ports, strict=False)}
        self.folder = folder
        self.proxies: dict[tuple[str, str], P] = {}
        if proxy is not None:
            for edge, port in zip(EDGES, ports[len(SERVICES) :], strict=True):
                self.proxies[edge] = proxy(port, targets[edge[1]])
        self.services: dict[str, Service] = {}
        for name, port in zip(SERVICES, ports, strict=False):
            environment = dict(settings)
            for caller, callee in EDGES:
                if caller == name:
                    between = self.proxies.get((caller, callee))
                    target = targets[callee] if between is None else between.address
                    environment[f"SOUK_{callee.upper()}_TARGET"] = target
            self.services[name] = Service(name, port, environment, folder)
        self.url = f"http://{targets['gateway']}"

    async def start(self) -> None:
        for proxy in self.proxies.values():
            await proxy.start()
        for service in self.services.values():
            service.spawn()
        await asyncio.gather(*(service.serving() for service in self.services.values()))

    async def destroy(self) -> None:
        for service in self.services.values():
            service.kill()
        for proxy in self.proxies.values():
            await proxy.stop()

    def client(self) -> httpx.AsyncClient:
        """A client of the REST interface, whose requests may have to wait for a service."""
        return httpx.AsyncClient(base_url=self.url, timeout=15)

    def copy_logs(self, to: IO[str]) -> None:
        """For whoever must find out why a test failed."""
        for service in self.services.values():
            service.copy_log(to)


def _ports(count: int) -> Sequence[int]:
    first = free_port(count)
    return range(first, first + count)
