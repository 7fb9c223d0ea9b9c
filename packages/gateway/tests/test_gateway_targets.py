"""Several versions of a service side by side: who gets a request, and how that is changed while requests flow."""

import asyncio
import logging
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import pytest_asyncio
from gateway_services import Orders, Reservations, Shop, gateway
from grpc import StatusCode

from souk_contracts import batching
from souk_contracts.errors import Refused
from souk_contracts.orders.v1 import ListRequest, OrdersStub
from souk_contracts.reservations.v1 import Line, ListItemsRequest, ReservationsStub, ReserveRequest
from souk_contracts.server import GrpcServer, ServerSettings, Servicer
from souk_gateway import __version__, targets_file
from souk_gateway.backends import Backends
from souk_gateway.breakers import Breaker
from souk_gateway.clients import ReservationsClient
from souk_gateway.errors import Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.retries import Retries
from souk_gateway.targets import SERVICES, Target, Targets, targets_of

TEA = {"customer_id": "c-1", "lines": [{"sku": "tea", "quantity": 1}]}
LIST = ListItemsRequest()
AWAY = Refused(StatusCode.UNAVAILABLE, "reservations.souk", "STORAGE_UNAVAILABLE", "the database does not answer")


class Version:
    """A server of a service in a version, on a port of its own."""

    def __init__(self, service: str, version: str, servicer: Servicer) -> None:
        self.healthy = True
        self._settings = ServerSettings(service=service, version=version, address="127.0.0.1:0", drain_s=0.1)
        self.server = GrpcServer(self._settings, [servicer], self._is_ready)
        self.version = version

    async def _is_ready(self) -> bool:
        return self.healthy

    async def start(self) -> "Version":
        self.port = await self.server.start()
        return self

    def target(self, weight: int) -> str:
        return f"{self.version}=127.0.0.1:{self.port};{weight}"


@pytest_asyncio.fixture
async def versions(shop: Shop) -> AsyncIterator[dict[str, tuple[Version, Version]]]:
    """For orders and reservations 1.0.0 and 2.0.0, each pair over the same state, as over one database."""
    async with AsyncExitStack() as stack:
        started = {}
        for name in ("orders", "reservations"):
            pair = [await Version(name, version, getattr(shop, name)).start() for version in ("1.0.0", "2.0.0")]
            for each in pair:
                stack.push_async_callback(each.server.drain)
            started[name] = (pair[0], pair[1])
        yield started


def targets(*weighted: tuple[Version, int]) -> Targets:
    read = targets_of(",".join(version.target(weight) for version, weight in weighted))
    assert read is not None
    return read


@asynccontextmanager
async def mixed(
    shop: Shop, versions: dict[str, tuple[Version, Version]], old: int, new: int
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that shares orders and reservations out by these weights; once all of them serve."""
    shared = {name: targets((pair[0], old), (pair[1], new)) for name, pair in versions.items()}
    plain = {"loyalty": (Target(f"127.0.0.1:{shop.ports['loyalty']}"),)}
    async with gateway(shop, targets=shared | plain) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        await until(client, "orders", ["SERVING", "SERVING"])
        await until(client, "reservations", ["SERVING", "SERVING"])
        yield client


async def shown(client: httpx.AsyncClient, service: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await client.get("/health/targets")).json()["services"][service]
    return rows


async def until(client: httpx.AsyncClient, service: str, wanted: list[Any], column: str = "status") -> None:
    """Returns once the gateway shows this of a service's targets."""
    async with asyncio.timeout(30):
        # Asked again and again: a client gets no event when a gateway's targets change.
        while [row[column] for row in await shown(client, service)] != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def served(client: httpx.AsyncClient, requests: int, **headers: str) -> Counter[str]:
    """How often each version of reservations answered."""
    answers = [await client.get("/v1/items", headers=headers) for _ in range(requests)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.headers["souk-served-by"].split()[1] for answer in answers)


# Who is chosen.


async def test_requests_are_shared_out_by_weight(versions: dict[str, tuple[Version, Version]]) -> None:
    old, new = versions["orders"]
    backends = Backends("orders", OrdersStub, random.Random(6).random)
    backends.use(targets((old, 90), (new, 10)))
    for backend in backends.all():
        await backend.channel.channel_ready()
    chosen = Counter(backends.of(Exchange(5)).target.version for _ in range(10_000))
    await backends.close()
    assert chosen.keys() == {"1.0.0", "2.0.0"}
    assert 900 < chosen["2.0.0"] < 1100


async def test_all_calls_of_a_request_go_to_the_version_that_was_chosen_for_it(
    versions: dict[str, tuple[Version, Version]],
) -> None:
    backends = Backends("orders", OrdersStub, random.Random(6).random)
    backends.use(targets(*((version, 50) for version in versions["orders"])))
    of_requests = []
    for _ in range(50):
        exchange = Exchange(5)
        of_requests.append({backends.of(exchange).target.version for _ in range(5)})
    await backends.close()
    assert {len(of_request) for of_request in of_requests} == {1}
    assert set().union(*of_requests) == {"1.0.0", "2.0.0"}


async def test_the_answer_names_the_versions_that_served(
    shop: Shop, versions: dict[str, tuple[Version, Version]]
) -> None:
    async with mixed(shop, versions, 50, 50) as client:
        answers = [await client.post("/v1/orders", json=TEA) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.headers["souk-served-by"] for answer in answers} == {
        f"gateway/{__version__} reservations/{reservations} loyalty/1.2.3 orders/{orders}"
        for reservations in ("1.0.0", "2.0.0")
        for orders in ("1.0.0", "2.0.0")
    }


async def test_a_weight_of_0_is_for_those_who_ask_for_it(
    shop: Shop, versions: dict[str, tuple[Version, Version]]
) -> None:
    async with mixed(shop, versions, 1, 0) as client:
        assert await served(client, 20) == {"reservations/1.0.0": 20}
        assert await served(client, 20, **{"Souk-Prefer": "reservations=2.0.0"}) == {"reservations/2.0.0": 20}


async def test_a_request_chooses_the_versions_of_several_services(
    shop: Shop, versions: dict[str, tuple[Version, Version]]
) -> None:
    async with mixed(shop, versions, 50, 50) as client:
        for wanted in (
            [("Souk-Prefer", "orders=2.0.0, reservations=1.0.0")],
            [("Souk-Prefer", "orders=2.0.0,"), ("Souk-Prefer", "reservations=1.0.0")],
        ):
            for _ in range(10):
                answer = await client.post("/v1/orders", json=TEA, headers=wanted)
                assert answer.status_code == 201
                assert answer.headers["souk-served-by"].endswith("reservations/1.0.0 loyalty/1.2.3 orders/2.0.0")


@pytest.mark.parametrize(
    ("preference", "problem", "detail"),
    [
        ("orders=3.0.0", "unknown-version", "version '3.0.0' of orders does not run here; ask for 1.0.0 or 2.0.0"),
        ("loyalty=1.2.3", "unknown-version", "version '1.2.3' of loyalty does not run here; its only target"),
        (
            "gateway=1.0.0",
            "unknown-version",
            "there is no service 'gateway'; the services are orders",
        ),
        ("orders=1.0.0, orders=2.0.0", "invalid-argument", "'orders' appears twice"),
        ("orders", "invalid-argument", "'orders' is not valid; expected a service and its version"),
        ("orders=1.0.0;q=1", "invalid-argument", "expected a service and its version"),
    ],
)
async def test_a_preference_that_cannot_be_followed_is_refused_before_anything_is_done(
    shop: Shop, versions: dict[str, tuple[Version, Version]], preference: str, problem: str, detail: str
) -> None:
    async with mixed(shop, versions, 50, 50) as client:
        answer = await client.post("/v1/orders", json=TEA, headers={"Souk-Prefer": preference})
    assert (answer.status_code, answer.json()["type"]) == (400, f"/problems/{problem}")
    assert detail in answer.json()["detail"]
    assert shop.reservations.faults.calls == []


# Who is well.


async def test_a_target_that_fails_its_health_check_gets_no_calls(
    shop: Shop, versions: dict[str, tuple[Version, Version]]
) -> None:
    old, new = versions["reservations"]
    async with mixed(shop, versions, 1, 99) as client:
        new.healthy = False
        await until(client, "reservations", ["SERVING", "NOT_SERVING"])
        assert await served(client, 50) == {"reservations/1.0.0": 50}
        assert (await client.get("/health/ready")).json()["services"]["reservations"] == "SERVING"
        old.healthy = False
        await until(client, "reservations", ["NOT_SERVING", "NOT_SERVING"])
        assert (await client.get("/v1/items")).status_code == 503
        assert (await client.get("/health/ready")).json()["services"]["reservations"] == "NOT_SERVING"
        new.healthy = True
        await until(client, "reservations", ["NOT_SERVING", "SERVING"])
        assert await served(client, 50) == {"reservations/2.0.0": 50}


async def test_who_asks_for_a_version_that_is_away_gets_no_other(
    shop: Shop, versions: dict[str, tuple[Version, Version]]
) -> None:
    async with mixed(shop, versions, 50, 50) as client:
        await versions["reservations"][1].server.drain()
        await until(client, "reservations", ["SERVING", "NOT_SERVING"])
        answer = await client.get("/v1/items", headers={"Souk-Prefer": "reservations=2.0.0"})
        assert (answer.status_code, answer.headers["souk-served-by"]) == (503, f"gateway/{__version__}")
        assert answer.json()["detail"] == "reservations 2.0.0 does not answer; try again in a moment"
        assert shop.reservations.faults.calls == []
        versions_shown = (await client.get("/v1/versions")).json()
        assert (versions_shown["orders"], versions_shown["reservations"]) == ("1.0.0, 2.0.0", "1.0.0")


@pytest_asyncio.fixture
async def failing_first() -> AsyncIterator[tuple[Backends[ReservationsStub], Reservations, Reservations]]:
    """Two targets of reservations, of which the first is always chosen, and fails, unless it is avoided."""
    first, second = Reservations(), Reservations()
    first.faults.fail["list_items"] = AWAY
    pair = [await Version("reservations", name, each).start() for name, each in (("1.0.0", first), ("2.0.0", second))]
    backends = Backends("reservations", ReservationsStub, lambda: 0.0)
    backends.use(targets((pair[0], 50), (pair[1], 50)))
    for backend in backends.all():
        backend.retries = Retries(lambda: 0.0)
        await backend.channel.channel_ready()
    yield backends, first, second
    await backends.close()
    for version in pair:
        await version.server.drain()


async def test_a_call_that_nobody_answered_is_repeated_on_another_version_and_the_request_stays_there(
    failing_first: tuple[Backends[ReservationsStub], Reservations, Reservations],
) -> None:
    backends, first, second = failing_first
    client, exchange = ReservationsClient(backends), Exchange(5)
    assert (await client.list_items(LIST, exchange)).items
    assert (await client.list_items(LIST, exchange)).items
    assert (first.faults.calls, second.faults.calls) == (["list_items"], ["list_items"] * 2)
    assert exchange.served_by().split()[1:] == ["reservations/1.0.0", "reservations/2.0.0"]


async def test_a_call_that_asks_for_a_version_is_repeated_there_only(
    failing_first: tuple[Backends[ReservationsStub], Reservations, Reservations],
) -> None:
    backends, first, second = failing_first
    exchange = Exchange(5)
    exchange.pins = {"reservations": "1.0.0"}
    with pytest.raises(Unavailable):
        await ReservationsClient(backends).list_items(LIST, exchange)
    assert (first.faults.calls, second.faults.calls) == (["list_items"] * 3, [])


async def test_a_version_that_keeps_failing_is_left_alone_and_the_other_is_not(
    failing_first: tuple[Backends[ReservationsStub], Reservations, Reservations],
) -> None:
    backends, first, second = failing_first
    backends.all()[0].breaker = Breaker("reservations 1.0.0", lambda: 0.0)  # whose time for a probe never comes
    for _ in range(100):
        assert (await ReservationsClient(backends).list_items(LIST, Exchange(5))).items
    assert len(first.faults.calls) == 10
    assert len(second.faults.calls) == 100
    assert [backend.breaker.is_open() for backend in backends.all()] == [True, False]


# Changes.


class File:
    """A file of targets in a folder of its own."""

    def __init__(self, folder: Path, shop: Shop, versions: dict[str, tuple[Version, Version]]) -> None:
        self.path = folder / "targets.toml"
        self._plain = {name: f"127.0.0.1:{shop.ports[name]}" for name in SERVICES}
        self._versions = versions["reservations"]

    def share(self, old: int, new: int | None) -> None:
        """Replaces the file; the new version is left out for None."""
        shared = self._versions[0].target(old)
        if new is not None:
            shared += f",{self._versions[1].target(new)}"
        self.replace("".join(f'{name} = "{text}"\n' for name, text in {**self._plain, "reservations": shared}.items()))

    def replace(self, content: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(content)
        beside.replace(self.path)


@pytest.fixture
def file(tmp_path: Path, shop: Shop, versions: dict[str, tuple[Version, Version]]) -> File:
    return File(tmp_path, shop, versions)


@asynccontextmanager
async def reading(shop: Shop, file: File) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(shop, targets_file=file.path) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


class Load:
    """Requests that keep coming until it is left; each must be answered well."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._stopping = False
        self.placed = 0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _run(self) -> None:
        while not self._stopping:
            answer = await self._client.post("/v1/orders", json=TEA)
            assert answer.status_code == 201, answer.text
            self.placed += 1


async def test_weights_move_and_targets_come_and_go_by_the_file_without_a_failed_request(
    shop: Shop, file: File
) -> None:
    shop.reservations.items["tea"].available = 10**9
    file.share(1, None)
    async with reading(shop, file) as client, Load(client) as load:
        for old, new in ((1, 0), (50, 50), (0, 1), (1, None), (0, 7)):
            file.share(old, new)
            await until(client, "reservations", [weight for weight in (old, new) if weight is not None], "weight")
            if not old:
                await until(client, "reservations", ["SERVING", "SERVING"])
                assert await served(client, 20) == {"reservations/2.0.0": 20}
            elif not new:
                assert await served(client, 20) == {"reservations/1.0.0": 20}
    assert load.placed


async def test_sighup_reads_the_file_at_once(shop: Shop, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets_file, "_PERIOD_S", 3600.0)
    file.share(1, 0)
    async with reading(shop, file) as client, Load(client):
        await until(client, "reservations", [1, 0], "weight")
        file.share(0, 1)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(client, "reservations", [0, 1], "weight")


@pytest.mark.parametrize(
    "content", ["", 'orders = "orders:1"', 'orders = "', "a = " + "[" * 5000, "#" * 2**20 + "#", None]
)
async def test_a_file_that_is_wrong_leaves_the_targets_as_they_were(
    shop: Shop, file: File, content: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets_file, "_PERIOD_S", 0.01)
    file.share(3, 4)
    async with reading(shop, file) as client:
        await until(client, "reservations", [3, 4], "weight")
        with caplog.at_level(logging.WARNING, "souk_gateway.targets_file"):
            if content is None:
                file.path.unlink()
            else:
                file.replace(content)
            async with asyncio.timeout(30):
                while not caplog.messages:  # noqa: ASYNC110 (a log gives no event)
                    await asyncio.sleep(0.01)
            await until(client, "reservations", [3, 4], "weight")
            file.share(5, 6)
            await until(client, "reservations", [5, 6], "weight")
    # Once for all the times that it was read.
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"SOUK_TARGETS_FILE is '{file.path}'; it must be a ")
    assert caplog.messages[0].endswith(" The previous targets stay in use.")


async def test_whatever_goes_wrong_with_a_file_the_next_one_is_read(
    shop: Shop, file: File, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, __: object) -> dict[str, Targets]:
        raise ZeroDivisionError

    monkeypatch.setattr(targets_file, "_PERIOD_S", 0.01)
    file.share(3, 4)
    async with reading(shop, file) as client:
        await until(client, "reservations", [3, 4], "weight")
        with monkeypatch.context() as broken:
            broken.setattr(targets_file, "_parsed", fail)
            file.share(1, 1)
            async with asyncio.timeout(30):
                while "ZeroDivisionError" not in caplog.text:  # noqa: ASYNC110 (a log gives no event)
                    await asyncio.sleep(0.01)
        file.share(5, 6)
        await until(client, "reservations", [5, 6], "weight")


@pytest.mark.parametrize("port", ["1", "65535", "65536", "70000", "123456", "9" * 5000])
@pytest.mark.parametrize(
    "name",
    [
        "orders:{}",
        "dns:///orders:{}",
        "dns://8.8.8.8:{}/orders:50051",
        "ipv4:///10.0.0.1:50051,10.0.0.2:{}",
        "ipv4:///10.0.0.1:{},10.0.0.2:50051",
        "ipv6:///[::1]:{}",
    ],
)
def test_a_port_is_one_up_to_65535(name: str, port: str) -> None:
    text = name.format(port)
    assert (targets_of(text) is not None) is (port in ("1", "65535"))
    assert (targets_of(f"1.0.0={text};1") is not None) is (port in ("1", "65535") and "," not in text)


@pytest.mark.parametrize("name", ["unix:/run/souk:99999", "vsock://2:99999", "ipv6:///fe80::1", "dns:///orders"])
def test_what_is_no_port_is_not_taken_for_one(name: str) -> None:
    assert targets_of(name) == (Target(name),)


async def test_a_call_under_way_to_a_target_that_is_taken_out_is_answered(shop: Shop) -> None:
    slow = Orders()
    slow.faults.gates["list"] = asyncio.Event()
    old = await Version("orders", "1.0.0", slow).start()
    backends = Backends("orders", OrdersStub)
    backends.use(targets((old, 1)))
    call = asyncio.create_task(_listed(backends))
    await slow.faults.called.wait()
    backends.use((Target(f"127.0.0.1:{shop.ports['orders']}"),))
    slow.faults.gates["list"].set()
    await call
    async with asyncio.timeout(30):
        await asyncio.gather(*backends._closing)
    await backends.close()
    await old.server.drain()


async def test_calls_that_wait_for_others_to_a_target_that_is_taken_out_are_answered(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_PATIENCE_S", 3600.0)
    slow = shop.reservations
    slow.faults.gates["reserve"] = asyncio.Event()
    old = await Version("reservations", "1.0.0", slow).start()
    backends = Backends("reservations", ReservationsStub)
    backends.use(targets((old, 1)))
    client = ReservationsClient(backends)
    calls = []
    for number in range(40):
        lines = [Line(sku="tea", quantity=1)]
        calls.append(asyncio.create_task(client.reserve(ReserveRequest(str(number), lines), Exchange(60))))
        if number < 2:  # so many are under way at most, for the others to wait for
            while len(slow.faults.calls) <= number:
                await slow.faults.called.wait()
                slow.faults.called.clear()
    await asyncio.sleep(0)  # they are made
    backends.use((Target(f"127.0.0.1:{shop.ports['reservations']}"),))
    slow.faults.gates["reserve"].set()
    answers = await asyncio.gather(*calls)
    assert [len(answer.lines) for answer in answers] == [1] * 40
    async with asyncio.timeout(30):
        await asyncio.gather(*backends._closing)
    await backends.close()
    await old.server.drain()


async def _listed(backends: Backends[OrdersStub]) -> None:
    await backends.of(Exchange(5)).stub.list(ListRequest(), timeout_s=30)
