"""Fixtures: a migrated database, a storage on it with a clock of the test's own, a server with a stub."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from souk_contracts.reservations.v1 import ReservationsStub
from souk_contracts.server import GrpcServer, ServerSettings
from souk_reservations import SERVICE, __version__
from souk_reservations.database import Database
from souk_reservations.migrate import migrate
from souk_reservations.service import Reservations
from souk_reservations.servicer import ReservationsServicer
from souk_reservations.storage import SqlStorage


class StandingClock:
    """A clock that stands still until a test moves it, in seconds."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def advance(clock: StandingClock) -> Callable[[float], None]:
    """Moves the storage's clock on, by seconds."""
    return clock.advance


@pytest.fixture
def hold_ttl_s() -> float:
    return 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of each kind that the service supports."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").migrated(migrate))
    url = f"sqlite:///{tmp_path}/reservations.db"
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
def reservations(storage: SqlStorage, hold_ttl_s: float) -> Reservations:
    return Reservations(storage, hold_ttl_s=hold_ttl_s)


@pytest_asyncio.fixture
async def stub(reservations: Reservations, storage: SqlStorage) -> AsyncIterator[ReservationsStub]:
    """A client of a real server on loopback."""
    server = GrpcServer(
        ServerSettings(SERVICE, __version__, "127.0.0.1:0"),
        [ReservationsServicer(reservations, "EUR")],
        storage.answers,
    )
    port = await server.start()
    # Not by `connect`, which makes no calls to a server that is late to say that it serves, as on a busy machine.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ReservationsStub(channel, timeout_s=60)
    await server.drain()
