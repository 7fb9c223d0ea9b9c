"""Fixtures: a migrated database, a storage on it with a clock of the test's own, a server with a stub."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from relay_ends import LONG_S, TIMEOUT_S, FakeParticipant, ObservedOutbox, Relays

from souk_contracts.orders.v1 import OrdersStub
from souk_contracts.server import GrpcServer, ServerSettings
from souk_orders import SERVICE, __version__
from souk_orders.book import Delivery, Participant
from souk_orders.database import Database
from souk_orders.domain import Line, Terms
from souk_orders.lobby import Lobby
from souk_orders.migrate import migrate
from souk_orders.relay import OutboxRelay
from souk_orders.service import Orders
from souk_orders.servicer import OrdersServicer
from souk_orders.storage import SqlStorage


class StandingClock:
    """A clock that stands still until a test moves it, in seconds."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


class IdleRelay:
    """Has enough to do, and notes when it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def lease_us(self) -> int:
        return 0

    def deliver(self, leased: Sequence[Delivery]) -> None:
        assert list(leased) == [], "nothing was to be leased for it"

    def wake(self) -> None:
        self.woken += 1

    def lag_us(self, ttl_us: int) -> int:  # noqa: ARG002 (the port has it)
        return 0


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def advance(clock: StandingClock) -> Callable[[float], None]:
    """Moves the storage's clock on, by seconds."""
    return clock.advance


@pytest.fixture
def terms() -> Terms:
    """Two teas and a mug, with 10 percent off and 20 points."""
    lines = (Line("tea", "Tea", 2, 450), Line("mug", "Mug", 1, 900))
    return Terms("c-1", "EUR", lines, 10, 180, 20, 16, without_loyalty=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of each kind that the service supports."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").migrated(migrate))
    url = f"sqlite:///{tmp_path}/orders.db"
    migrate(url)
    return url


@pytest.fixture
def open_storage(database_url: str, clock: StandingClock) -> Iterator[Callable[[], SqlStorage]]:
    """Opens a storage on the test's database, as a process of its own would; closes all at the end."""
    opened: list[SqlStorage] = []

    def open_() -> SqlStorage:
        opened.append(SqlStorage(Database(database_url), clock))
        return opened[-1]

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(open_storage: Callable[[], SqlStorage]) -> SqlStorage:
    return open_storage()


@pytest.fixture
def lobby() -> Lobby:
    return Lobby()


@pytest.fixture
def idle_relay() -> IdleRelay:
    return IdleRelay()


@pytest.fixture
def wakes(idle_relay: IdleRelay) -> Callable[[], int]:
    """How often the relay was woken."""
    return lambda: idle_relay.woken


@pytest.fixture
def orders(storage: SqlStorage, idle_relay: IdleRelay, lobby: Lobby) -> Orders:
    """With no relay that delivers anything."""
    return Orders(storage, idle_relay, lobby, hold_margin_s=10, hold_ttl_s=60)


@pytest_asyncio.fixture
async def stub(orders: Orders, storage: SqlStorage) -> AsyncIterator[OrdersStub]:
    """A client of a real server on loopback, with no relay behind it."""
    server = GrpcServer(ServerSettings(SERVICE, __version__, "127.0.0.1:0"), [OrdersServicer(orders)], storage.answers)
    port = await server.start()
    # Not by `connect`, which makes no calls to a server that is late to say that it serves, as on a busy machine.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield OrdersStub(channel, timeout_s=60)
    await server.drain()


@pytest.fixture
def goods() -> FakeParticipant:
    return FakeParticipant("reservations/1.2.3")


@pytest.fixture
def points() -> FakeParticipant:
    return FakeParticipant("loyalty/4.5.6")


@pytest.fixture
def outbox(storage: SqlStorage) -> ObservedOutbox:
    return ObservedOutbox(storage)


@pytest.fixture
def make_relay(outbox: ObservedOutbox, goods: FakeParticipant, points: FakeParticipant) -> Relays:
    """Makes a relay that looks through the outbox by itself once in an hour, and whose jitter is nothing."""

    def make(period_s: float = LONG_S) -> OutboxRelay:
        clients = {Participant.RESERVATIONS: goods, Participant.LOYALTY: points}
        return OutboxRelay(outbox, clients, period_s=period_s, timeout_s=TIMEOUT_S, jitter=lambda: 1.0)

    return make


@pytest.fixture
def relay(make_relay: Relays) -> OutboxRelay:
    return make_relay()
