"""`python -m souk_orders`, as people and containers run it, with participants of the test's own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from souk_contracts.errors import Refused
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders.v1 import (
    CancelRequest,
    CreateRequest,
    GetRequest,
    ListRequest,
    OrderLine,
    OrdersStub,
    OrderStatus,
    Refusal,
    RefuseRequest,
)
from souk_contracts.reservations import v1 as reservations
from souk_contracts.server import GrpcServer, ServerSettings
from souk_orders import __version__
from souk_orders.app import serve
from souk_orders.database import Database
from souk_orders.migrate import migrate
from souk_orders.relay import OutboxRelay
from souk_orders.settings import Settings

FIRST, SECOND = ("5f0c8a9e-0000-4000-8000-00000000000" + digit for digit in "12")


class Goods(reservations.ReservationsServicer):
    """Says what a test wants, yes by default, and tells of each call."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[reservations.ConfirmRequest | reservations.ReleaseRequest] = asyncio.Queue()
        self.says: list[reservations.ConfirmResponse | Refused] = []

    async def confirm(self, request: reservations.ConfirmRequest) -> reservations.ConfirmResponse:
        self.calls.put_nowait(request)
        answer = self.says.pop(0) if self.says else reservations.ConfirmResponse(confirmed=True)
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def release(self, request: reservations.ReleaseRequest) -> reservations.ReleaseResponse:
        self.calls.put_nowait(request)
        return reservations.ReleaseResponse()


class Points(loyalty.LoyaltyServicer):
    """The same for loyalty."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[loyalty.ConfirmRequest | loyalty.ReleaseRequest] = asyncio.Queue()

    async def confirm(self, request: loyalty.ConfirmRequest) -> loyalty.ConfirmResponse:
        self.calls.put_nowait(request)
        return loyalty.ConfirmResponse(confirmed=True)

    async def release(self, request: loyalty.ReleaseRequest) -> loyalty.ReleaseResponse:
        self.calls.put_nowait(request)
        return loyalty.ReleaseResponse()


@asynccontextmanager
async def served(servicer: Goods | Points) -> AsyncIterator[str]:
    """Its address."""

    async def ready() -> bool:
        return True

    server = GrpcServer(ServerSettings("fake", "1.0.0", "127.0.0.1:0", drain_s=1), [servicer], ready)
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.drain()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a relay that only looks when it starts and when it is woken."""
    database_url = f"sqlite:///{tmp_path}/orders.db"
    return {**os.environ, "SOUK_ORDERS_DATABASE_URL": database_url, "SOUK_ORDERS_RELAY_PERIOD_S": "3600"}


@pytest.fixture
def goods() -> Goods:
    return Goods()


@pytest.fixture
def points() -> Points:
    return Points()


@pytest_asyncio.fixture
async def server(environment: dict[str, str], goods: Goods, points: Points) -> AsyncIterator[tuple[int, str]]:
    """A process that serves with both participants there."""
    async with served(goods) as goods_at, served(points) as points_at, process(environment, goods_at, points_at) as it:
        yield it


@asynccontextmanager
async def process(
    environment: dict[str, str], goods_at: str, points_at: str, *, ends: int = 0, terminated: bool = False
) -> AsyncIterator[tuple[int, str]]:
    """A serving process, its id and its address; at the end it must end with a code.

    For that it gets a SIGTERM, unless the test has killed or `terminated` it.
    """
    targets = {"SOUK_RESERVATIONS_TARGET": goods_at, "SOUK_LOYALTY_TARGET": points_at}
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "souk_orders", "serve"),
        env={**environment, **targets, "SOUK_ORDERS_ADDRESS": "127.0.0.1:0"},
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None
    try:
        while line := (await running.stderr.readline()).decode():
            if "listens on port" in line:
                break
        else:
            pytest.fail("the service ended before it listened")
        reading = asyncio.create_task(running.stderr.read())  # so that its log never fills the pipe
        yield running.pid, f"127.0.0.1:{line.split()[-1]}"
        if ends == 0 and not terminated:
            running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await reading
            assert await running.wait() == ends
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


def channel_to(address: str) -> grpc.aio.Channel:
    """Not by `connect`, which makes no calls to a server that is late to say that it serves, as on a busy machine."""
    return grpc.aio.insecure_channel(address)


def create(order_id: str) -> CreateRequest:
    return CreateRequest(
        order_id=order_id,
        fingerprint=bytes(32),
        customer_id="c-1",
        currency="EUR",
        lines=[OrderLine(sku="tea", name="Tea", quantity=2, unit_price=450)],
        discount_percent=10,
        discount=90,
        points_redeemed=10,
        points_earned=8,
        holds_expire_at_us=2**62,
    )


async def until(stub: OrdersStub, order_id: str, status: OrderStatus) -> str:
    """Waits for a status; gives its reason."""
    async with asyncio.timeout(30):
        while True:
            order = (await stub.get(GetRequest(order_id=order_id))).order
            assert order is not None
            if order.status is status:
                return order.status_reason
            await asyncio.sleep(0.01)  # there is nothing to wait on but the answer itself


async def test_an_order_is_confirmed_with_what_it_says(server: tuple[int, str], goods: Goods, points: Points) -> None:
    async with channel_to(server[1]) as channel:
        stub = OrdersStub(channel, timeout_s=60)
        await stub.create(create(FIRST))
        answer = await stub.get(GetRequest(order_id=FIRST, wait_ms=10_000), timeout_s=30)
        assert answer.order is not None
        assert answer.order.status is OrderStatus.CONFIRMED
        assert {entry.served_by for entry in answer.history} == {f"orders/{__version__}", "fake/1.0.0"}
        assert goods.calls.get_nowait() == reservations.ConfirmRequest(
            order_id=FIRST, lines=[reservations.Line(sku="tea", quantity=2)]
        )
        assert points.calls.get_nowait() == loyalty.ConfirmRequest(
            order_id=FIRST, customer_id="c-1", points_redeemed=10, points_earned=8
        )
        await stub.cancel(CancelRequest(order_id=FIRST))
        async with asyncio.timeout(30):
            assert await goods.calls.get() == reservations.ReleaseRequest(order_id=FIRST)
            assert await points.calls.get() == loyalty.ReleaseRequest(order_id=FIRST)


async def test_a_no_of_a_participant_is_the_orders_reason(
    server: tuple[int, str], goods: Goods, points: Points
) -> None:
    goods.says = [
        reservations.ConfirmResponse(reason=reservations.ErrorReason.OUT_OF_STOCK, detail="none is left"),
        reservations.ConfirmResponse(reason=reservations.ErrorReason(77), detail="of a newer version"),
    ]
    async with channel_to(server[1]) as channel:
        stub = OrdersStub(channel, timeout_s=60)
        for order_id, reason in ((FIRST, "OUT_OF_STOCK"), (SECOND, "REASON_77")):
            await stub.create(create(order_id))
            assert await until(stub, order_id, OrderStatus.CANCELLED) == reason


async def test_an_answer_that_is_not_agreed_is_asked_for_again(
    environment: dict[str, str], goods: Goods, points: Points
) -> None:
    goods.says = [Refused(grpc.StatusCode.INVALID_ARGUMENT, "reservations.souk", "INVALID_ARGUMENT", "what?")] * 2
    often = {**environment, "SOUK_ORDERS_RELAY_PERIOD_S": "0.05"}
    async with (
        served(goods) as goods_at,
        served(points) as points_at,
        process(often, goods_at, points_at) as (_, address),
        channel_to(address) as channel,
    ):
        stub = OrdersStub(channel, timeout_s=60)
        await stub.create(create(FIRST))
        await until(stub, FIRST, OrderStatus.CONFIRMED)
    assert goods.calls.qsize() == 3


async def test_a_refusal_releases_what_may_be_held(server: tuple[int, str], goods: Goods, points: Points) -> None:
    async with channel_to(server[1]) as channel:
        refusal = Refusal(reason="OUT_OF_STOCK", detail="none is left")
        request = RefuseRequest(order_id=FIRST, fingerprint=bytes(32), customer_id="c-1", refusal=refusal)
        await OrdersStub(channel, timeout_s=60).refuse(request)
        async with asyncio.timeout(30):
            assert await goods.calls.get() == reservations.ReleaseRequest(order_id=FIRST)
            assert await points.calls.get() == loyalty.ReleaseRequest(order_id=FIRST)


async def test_what_a_killed_process_did_not_tell_its_successor_tells(
    environment: dict[str, str], goods: Goods, points: Points
) -> None:
    nobody = "127.0.0.1:1"
    # The first may be killed while it sends: then its lease has to run out, and the second to look again.
    environment |= {"SOUK_ORDERS_RELAY_PERIOD_S": "0.1", "SOUK_ORDERS_RELAY_TIMEOUT_S": "0.5"}
    async with process(environment, nobody, nobody, ends=-signal.SIGKILL) as (pid, address):
        async with channel_to(address) as channel:
            await OrdersStub(channel, timeout_s=60).create(create(FIRST))
        os.kill(pid, signal.SIGKILL)
    async with (
        served(goods) as goods_at,
        served(points) as points_at,
        process(environment, goods_at, points_at) as (_, address),
        channel_to(address) as channel,
    ):
        await until(OrdersStub(channel, timeout_s=60), FIRST, OrderStatus.CONFIRMED)


async def test_a_call_that_waits_is_answered_before_the_process_ends(environment: dict[str, str]) -> None:
    nobody = "127.0.0.1:1"
    async with (
        process(environment, nobody, nobody, terminated=True) as (pid, address),
        channel_to(address) as channel,
    ):
        stub = OrdersStub(channel, timeout_s=60)
        await stub.create(create(FIRST))
        waiting = [
            asyncio.ensure_future(stub.get(GetRequest(order_id=FIRST, wait_ms=10_000), timeout_s=30)) for _ in range(2)
        ]
        await stub.list(ListRequest())  # the calls before it have arrived
        os.kill(pid, signal.SIGTERM)
        for answer in await asyncio.gather(*waiting):
            assert answer.order is not None
            assert answer.order.status is OrderStatus.ACCEPTED


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "souk_orders", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_it_serves_until_sigterm_and_its_health_says_so(environment: dict[str, str]) -> None:
    # Also while both participants are away.
    nobody = "127.0.0.1:1"
    # The first may be killed while it sends: then its lease has to run out, and the second to look again.
    environment |= {"SOUK_ORDERS_RELAY_PERIOD_S": "0.1", "SOUK_ORDERS_RELAY_TIMEOUT_S": "0.5"}
    async with process(environment, nobody, nobody) as (_, address):
        async with channel_to(address) as channel:
            assert (await OrdersStub(channel, timeout_s=60).list(ListRequest())).orders == []
        probe = {**environment, "SOUK_ORDERS_ADDRESS": address}
        assert (await asyncio.to_thread(run, "health", probe)).returncode == 0
    after = await asyncio.to_thread(run, "health", probe)
    assert (after.returncode, after.stderr) == (1, f"souk_orders: no server is SERVING at {address}\n")


def test_migrate_may_be_run_again(environment: dict[str, str]) -> None:
    for _ in range(2):
        assert run("migrate", environment).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SOUK_HOLD_MARGIN_S", "soon", "SOUK_HOLD_MARGIN_S is 'soon'; it must be a number"),
        ("SOUK_LOYALTY_TARGET", "loyalty:65536", "host:port, or a gRPC name such as dns:///host:port"),
        ("SOUK_ORDERS_RELAY_PERIOD_S", "0", "is '0.0'; it must be seconds, above 0 and at most 3600"),
        ("SOUK_ORDERS_RELAY_TIMEOUT_S", "nan", "is 'nan'; it must be seconds, above 0 and at most 60"),
        ("SOUK_ORDERS_RELAY_TIMEOUT_S", "5", "and a lease must end before the hold does"),
        (
            "SOUK_HOLD_MARGIN_S",
            "60",
            "it must be less than SOUK_HOLD_TTL_S=60, or every order would be refused (HOLD_EXPIRING)",
        ),
        ("SOUK_LOYALTY_TARGET", "loyalty", "it must be host:port, or a gRPC name such as dns:///host:port"),
        ("SOUK_LOG_LEVEL", "loud", "it must be debug, info, warning or error"),
    ],
)
def test_a_bad_setting_is_told_in_a_sentence(environment: dict[str, str], name: str, value: str, sentence: str) -> None:
    ended = run("serve", {**environment, name: value})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"souk_orders: {name} ")
    assert ended.stderr.endswith(f"{sentence}\n")


def test_a_database_in_a_folder_that_is_not_there_is_told_in_a_sentence(environment: dict[str, str]) -> None:
    ended = run("serve", {**environment, "SOUK_ORDERS_DATABASE_URL": "sqlite:////no/such/folder/o.db"})
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_health_loads_no_database() -> None:
    code = "import sys, souk_orders.__main__; print(sorted({'grpc', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_relay_that_ends_unexpectedly_stops_the_service_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def end(_: OutboxRelay) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(OutboxRelay, "run", end)
    url = f"sqlite:///{tmp_path}/orders.db"
    migrate(url)
    with pytest.raises(RuntimeError, match="the relay has ended"):
        await serve(Settings(address="127.0.0.1:0", database_url=url), Database(url))
    assert "the relay ended unexpectedly" in caplog.text
    assert "ZeroDivisionError" in caplog.text
