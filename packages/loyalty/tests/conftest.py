"""Fixtures: a migrated database, a storage on it with a clock of the test's own, a server with a stub."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from souk_contracts.loyalty.v1 import LoyaltyStub
from souk_contracts.server import GrpcServer, ServerSettings
from souk_loyalty import SERVICE, __version__
from souk_loyalty.database import Database
from souk_loyalty.migrate import migrate
from souk_loyalty.service import Loyalty
from souk_loyalty.servicer import LoyaltyServicer
from souk_loyalty.storage import SqlStorage


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
    url = f"sqlite:///{tmp_path}/loyalty.db"
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
def loyalty(storage: SqlStorage, hold_ttl_s: float) -> Loyalty:
    return Loyalty(storage, hold_ttl_s=hold_ttl_s)


@pytest_asyncio.fixture
async def stub(loyalty: Loyalty, storage: SqlStorage, clock: StandingClock) -> AsyncIterator[LoyaltyStub]:
    """A client of a real server on loopback."""
    server = GrpcServer(
        ServerSettings(SERVICE, __version__, "127.0.0.1:0"),
        [LoyaltyServicer(loyalty, clock)],
        storage.answers,
    )
    port = await server.start()
    # Not by `connect`, which makes no calls to a server that is late to say that it serves, as on a busy machine.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield LoyaltyStub(channel, timeout_s=60)
    await server.drain()
