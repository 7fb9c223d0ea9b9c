"""What is measured: the bare stack, and Souk on its two kinds of database, as processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from releasing.ledger import ROOT
from skewing.installed import Installed
from skewing.processes import Failed, Process, free_addresses
from sqlalchemy import NullPool, create_engine, make_url, text

from benching.load import ITEMS

BACKENDS = ("reservations", "loyalty", "orders")
"""In the order in which an order comes to them."""
CUSTOMERS = 1_000
SCARCE = 10
"""Items that `Souk.stock` may stock."""
PIECES, POINTS = 10**9, 10**9
_CAPS = {"SOUK_MAX_CONNECTIONS": "10000", "SOUK_MAX_CONNECTIONS_PER_ADDRESS": "10000"}
"""All clients of a benchmark come from one address."""
_READY_S, _SETTLED_S = 60, 300
_POLL_S = 0.02
_BARE = ROOT / "tests/benchmarks/bare.py"


class Stack(Protocol):
    """Something that takes orders."""

    name: str
    address: str

    def pids(self) -> Mapping[str, int]:
        """Its processes."""

    def settle(self) -> None:
        """Returns once what follows from the orders is done, too. Raises Failed."""

    def audit(self) -> None:
        """Raises Failed where its orders are not as they should be."""

    def stop(self) -> None:
        """Ends its processes."""


class Bare:
    """The yardstick, on the libraries that Souk's gateway runs on."""

    name = "bare"

    def __init__(self, tree: Mapping[str, Installed]) -> None:
        python = str(tree["gateway"].python)
        self.address, *backends = free_addresses(4)
        ports = [address.rpartition(":")[2] for address in backends]
        arguments = {name: [name, port] for name, port in zip(BACKENDS, ports, strict=True)}
        arguments["gateway"] = ["gateway", self.address.rpartition(":")[2], *ports]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._processes = {
            name: subprocess.Popen([python, "-P", str(_BARE), *each], env=environment)
            for name, each in arguments.items()
        }
        wait_for_orders(self.address, {"customer_id": "c-0", "lines": [{"sku": "item-0", "quantity": 1}]})

    def pids(self) -> Mapping[str, int]:
        """See Stack."""
        return {name: process.pid for name, process in self._processes.items()}

    def settle(self) -> None:
        """Nothing follows."""

    def audit(self) -> None:
        """Nothing is stored."""

    def stop(self) -> None:
        """See Stack."""
        for process in self._processes.values():
            process.kill()
            process.wait()


class Souk:
    """Four processes from built wheels, and three databases."""

    def __init__(
        self,
        name: str,
        tree: Mapping[str, Installed],
        data: Path,
        urls: Mapping[str, str] | None = None,
        others: Mapping[str, int] | None = None,
        *,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`urls` are those of the databases, SQLite files in `data` if there are none; `others` are processes that
        work for it as well; `settings` are added to the environment of all. Raises Failed."""
        self.name = name
        self._others = others or {}
        self.urls = urls or {each: f"sqlite:///{data / each}.db" for each in BACKENDS}
        addresses = dict(zip(("gateway", *BACKENDS), free_addresses(4), strict=True))
        self.address = addresses["gateway"]
        targets = {each: addresses[each] for each in BACKENDS}
        self._processes: dict[str, Process] = {}
        for each in (*BACKENDS, "gateway"):
            environment = {"SOUK_LOG_LEVEL": "info", **_CAPS, **settings}
            if each in self.urls:
                environment[f"SOUK_{each.upper()}_DATABASE_URL"] = self.urls[each]
            self._processes[each] = Process(tree[each], addresses[each], data, targets, environment)
        with ExitStack() as undo:
            undo.callback(self.stop)
            for each in BACKENDS:
                self._processes[each].migrate()
            for process in self._processes.values():
                process.spawn()
            for process in self._processes.values():
                process.serving()
            wait_for_ready(self.address)  # the gateway may have come up first
            undo.pop_all()
        engine = make_url(self.urls["orders"])
        if engine.get_backend_name() == "postgresql":
            engine = engine.set(drivername="postgresql+psycopg")
        self._engine = create_engine(engine, poolclass=NullPool)
        self._standing = self._to_tell()  # of a stack that was filled with orders of every fate

    def fill(self) -> None:
        """Items and customers, so many of each that nothing runs out."""
        self.stock({f"item-{n}": PIECES for n in range(ITEMS)})
        customers = {
            f"/v1/customers/c-{n}": {"name": "Amina", "tier": "gold", "points": POINTS} for n in range(CUSTOMERS)
        }
        self._put(customers)

    def stock(self, pieces: Mapping[str, int]) -> None:
        """Items, with so many pieces of each."""
        self._put(
            {f"/v1/items/{sku}": {"name": "Tea", "unit_price": 450, "on_hand": count} for sku, count in pieces.items()}
        )

    def _put(self, bodies: Mapping[str, Mapping[str, object]]) -> None:
        connection = HTTPConnection(self.address)
        for path, body in bodies.items():
            connection.request("PUT", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status not in (200, 201):
                raise Failed(f"PUT {path} answered {answer.status}: {content.decode(errors='replace')}")
        connection.close()

    def pids(self) -> Mapping[str, int]:
        """See Stack."""
        return {**{name: process.pid for name, process in self._processes.items()}, **self._others}

    def process(self, service: str) -> Process:
        """One of the four."""
        return self._processes[service]

    def settle(self) -> None:
        """Waits until the participants have been told what is new."""
        deadline = time.monotonic() + _SETTLED_S
        while self._to_tell() > self._standing:
            if time.monotonic() > deadline:
                raise Failed(f"{self.name}: some orders are not settled after {_SETTLED_S} s")
            time.sleep(_POLL_S)

    def _to_tell(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM outbox")).scalar_one())

    def audit(self) -> None:
        """Asks scripts/audit."""
        audit(self.name, self.urls)

    def stop(self) -> None:
        """See Stack."""
        for process in self._processes.values():
            process.kill()


def audit(name: str, urls: Mapping[str, str]) -> None:
    """Raises Failed where the databases are not clean."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "auditor"],
        env={
            **os.environ,
            **{f"SOUK_{service.upper()}_DATABASE_URL": url for service, url in urls.items()},
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{name}: the audit is not clean, so its figures are not printed:\n{done.stdout}")


def wait_for_ready(address: str) -> None:
    """Returns once a gateway has found all of its services. Raises Failed."""

    def is_ready(content: bytes) -> bool:
        return set(json.loads(content)["services"].values()) == {"SERVING"}

    _wait(address, "GET", "/health/ready", None, 200, is_ready)


def wait_for_orders(address: str, order: Mapping[str, object]) -> None:
    """Returns once an order is taken. Raises Failed."""
    _wait(address, "POST", "/v1/orders", json.dumps({**order, "redeem_points": 0}), 201, lambda _: True)


def _wait(
    address: str, method: str, path: str, body: str | None, status: int, is_enough: Callable[[bytes], bool]
) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        with suppress(OSError, HTTPException):
            connection = HTTPConnection(address, timeout=5)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status == status and is_enough(answer.read()):
                return
        time.sleep(_POLL_S)
    raise Failed(f"{method} http://{address}{path} gives no expected answer within {_READY_S} s")
