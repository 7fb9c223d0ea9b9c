"""`python -m souk_orders prune`, as people and cron run it, with participants of the test's own."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from souk_contracts.errors import Refused
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.reservations import v1 as reservations
from souk_contracts.server import GrpcServer, ServerSettings
from souk_orders.migrate import migrate

DUE, MARKED, UNMARKED, STANDING = (f"5f0c8a9e-0000-4000-8000-00000000000{digit}" for digit in "1234")
LONG_AGO_US, STILL_TO_COME_US = 1, 2**53
ORDER = """
    INSERT INTO orders (order_id, fingerprint, status, status_reason, customer_id, currency, lines, discount_percent,
        discount, points_redeemed, points_earned, without_loyalty, created_at_us, final_at_us)
    VALUES (?, zeroblob(32), ?, '', 'c-1', 'EUR', '[]', 0, 0, 0, 0, 0, 1, ?)"""


class Goods(reservations.ReservationsServicer):
    """Forgets, and says what a test wants it to keep."""

    def __init__(self) -> None:
        self.told: list[Sequence[str]] = []
        self.keeps: list[str] = []

    async def forget(self, request: reservations.ForgetRequest) -> reservations.ForgetResponse:
        self.told.append(request.order_ids)
        return reservations.ForgetResponse(kept_order_ids=self.keeps if request.order_ids else [])


class Points(loyalty.LoyaltyServicer):
    """The same for loyalty; it may refuse."""

    def __init__(self) -> None:
        self.told: list[Sequence[str]] = []
        self.refusal: Refused | None = None

    async def forget(self, request: loyalty.ForgetRequest) -> loyalty.ForgetResponse:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(request.order_ids)
        return loyalty.ForgetResponse()


class OldPoints(loyalty.LoyaltyServicer):
    """One of a version that knows no Forget: the generated servicer answers UNIMPLEMENTED."""


Serve = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves servicers until the test has ended; gives the address."""
    servers: list[GrpcServer] = []

    async def ready() -> bool:
        return True

    async def start(*servicers: Goods | Points | OldPoints) -> str:
        servers.append(GrpcServer(ServerSettings("fake", "1.0.0", "127.0.0.1:0", drain_s=1), servicers, ready))
        return f"127.0.0.1:{await servers[-1].start()}"

    yield start
    for server in servers:
        await server.drain()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """One order of each kind: marked long ago; marked, and not due for long; not marked yet; CONFIRMED."""
    path = tmp_path / "orders.db"
    migrate(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        rows = [
            (DUE, "CANCELLED", LONG_AGO_US),
            (MARKED, "REFUSED", STILL_TO_COME_US),
            (UNMARKED, "REFUSED", None),
            (STANDING, "CONFIRMED", None),
        ]
        connection.executemany(ORDER, rows)
        step = "INSERT INTO history (order_id, step, at_us, served_by, detail) VALUES (?, 'CANCELLED', 1, 'x/1', '')"
        connection.execute(step, (DUE,))
    connection.close()
    return path


def left(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    found = {order_id for (order_id,) in connection.execute("SELECT order_id FROM orders")}
    connection.close()
    return found


@pytest.fixture
def goods() -> Goods:
    return Goods()


@pytest.fixture
def points() -> Points:
    return Points()


Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def environment(database: Path) -> dict[str, str]:
    return {**os.environ, "SOUK_ORDERS_DATABASE_URL": f"sqlite:///{database}", "SOUK_LOG_LEVEL": "error"}


@pytest_asyncio.fixture
async def run(environment: dict[str, str], goods: Goods, points: Points, serve: Serve) -> Run:
    """Runs the command with both participants there: its exit code, and what it printed."""
    goods_at, points_at = await serve(goods), await serve(points)

    async def command(*arguments: str, loyalty_at: str = points_at) -> tuple[int, str, str]:
        return await prune(environment, goods_at, loyalty_at, *arguments)

    return command


async def prune(environment: dict[str, str], goods_at: str, points_at: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "souk_orders", "prune", *arguments),
        env={**environment, "SOUK_RESERVATIONS_TARGET": goods_at, "SOUK_LOYALTY_TARGET": points_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_says_what_it_did(run: Run, database: Path, goods: Goods, points: Points, tmp_path: Path) -> None:
    said = "Refused and cancelled orders: 1 newly marked; 1 marked at least 30 days ago were deleted.\n"
    assert await run("--archive", str(tmp_path / "archive")) == (0, said, "")
    assert left(database) == {MARKED, UNMARKED, STANDING}
    assert goods.told == points.told == [[], [DUE]]
    (line,) = (tmp_path / "archive").read_text().splitlines()
    assert line.startswith(f'{{"order_id": "{DUE}"')
    assert await run() == (
        0,
        "Refused and cancelled orders: 0 newly marked; 0 marked at least 30 days ago were deleted.\n",
        "",
    )
    assert len(goods.told) == 2  # where there is nothing to forget nobody is asked


async def test_any_number_of_orders_is_deleted_in_batches_that_participants_take(
    run: Run, database: Path, goods: Goods, points: Points
) -> None:
    due = {DUE, *(str(uuid.uuid4()) for _ in range(2 * 250))}
    with sqlite3.connect(database) as connection:
        connection.executemany(ORDER, [(order_id, "REFUSED", LONG_AGO_US) for order_id in due - {DUE}])
    connection.close()
    said = "Refused and cancelled orders: 1 newly marked; 501 marked at least 30 days ago were deleted.\n"
    assert await run() == (0, said, "")
    assert left(database) == {MARKED, UNMARKED, STANDING}
    for participant in (goods, points):
        assert [len(ids) for ids in participant.told] == [0, 250, 250, 1]
        assert set().union(*participant.told) == due


async def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(
    environment: dict[str, str], database: Path, tmp_path: Path
) -> None:
    arguments = ("--dry-run", "--days=1", "--archive", str(tmp_path / "archive"))
    said = "Refused and cancelled orders: 1 would be marked; 1 marked at least a day ago would be deleted.\n"
    for _ in range(2):
        assert await prune(environment, "nobody:1", "nobody:1", *arguments) == (0, said, "")
    assert left(database) == {DUE, MARKED, UNMARKED, STANDING}
    assert not (tmp_path / "archive").exists()


async def test_a_participant_of_an_older_version_is_named_and_nothing_is_forgotten(
    run: Run, serve: Serve, database: Path, goods: Goods
) -> None:
    older_at = await serve(OldPoints())
    code, out, err = await run(loyalty_at=older_at)
    assert (code, out) == (
        1,
        "Refused and cancelled orders: 1 newly marked; 0 marked at least 30 days ago were deleted.\n",
    )
    assert err == (
        f"souk_orders: loyalty at {older_at} runs a version that cannot forget orders; update it to 1.2 or later, "
        "then prune again\n"
    )
    assert left(database) == {DUE, MARKED, UNMARKED, STANDING}
    assert goods.told == [[]]
    assert (await run())[0] == 0
    assert left(database) == {MARKED, UNMARKED, STANDING}


async def test_a_participant_that_is_away_is_named_and_nothing_is_deleted(run: Run, database: Path) -> None:
    code, _, err = await run(loyalty_at="127.0.0.1:1")
    assert code == 1
    assert err.startswith("souk_orders: loyalty at 127.0.0.1:1 did not forget the orders (UNAVAILABLE: ")
    assert err.endswith("); check that it serves, then prune again\n")
    assert "Traceback" not in err
    assert left(database) == {DUE, MARKED, UNMARKED, STANDING}


async def test_a_participant_that_refuses_is_named_with_what_it_says(run: Run, database: Path, points: Points) -> None:
    points.refusal = Refused(grpc.StatusCode.UNAVAILABLE, "loyalty.souk", "STORAGE_UNAVAILABLE", "the disk is full")
    code, _, err = await run()
    assert code == 1
    assert "(UNAVAILABLE: the disk is full)" in err
    assert DUE in left(database)


async def test_an_order_that_a_participant_has_something_of_stays_and_is_named(
    run: Run, database: Path, goods: Goods, points: Points
) -> None:
    goods.keeps = [DUE]
    code, out, err = await run()
    assert (code, err) == (0, "")
    assert out == (
        "Refused and cancelled orders: 1 newly marked; 0 marked at least 30 days ago were deleted. Kept 1, because "
        f"reservations still has them HELD or CONFIRMED; run the audit to see why: {DUE}.\n"
    )
    assert left(database) == {DUE, MARKED, UNMARKED, STANDING}
    assert points.told == [[]]


async def test_an_archive_that_cannot_be_written_is_told_before_anything_is_done(
    run: Run, database: Path, goods: Goods, tmp_path: Path
) -> None:
    code, out, err = await run("--archive", str(tmp_path / "nowhere" / "archive"))
    assert (code, out) == (1, "")
    assert err.startswith("souk_orders: cannot write to ")
    assert goods.told == []
    assert DUE in left(database)
