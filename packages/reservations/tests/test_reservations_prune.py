"""`prune`: what has been EXPIRED for long goes, and nothing else does."""

import os
import subprocess
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, text

from souk_reservations.database import Database
from souk_reservations.domain import Line
from souk_reservations.prune import KINDS, delete_old, prune
from souk_reservations.service import Confirm, ExpireDue, Forget, PutItem, Release, Reserve
from souk_reservations.settings import Settings
from souk_reservations.statements import Session
from souk_reservations.storage import SqlStorage, reservations
from souk_reservations.writer import Clock

DAY_S = 86_400
TEA = PutItem("tea", "Tea", 450, 100_000)
ONE = (Line("tea", 1),)


def new_id() -> str:
    return str(uuid.uuid4())


async def expire(storage: SqlStorage, advance: Callable[[float], None], count: int = 1) -> list[str]:
    """Holds whose time has just run out."""
    ids = [new_id() for _ in range(count)]
    await storage.execute([TEA, *(Reserve(each, ONE, ttl_us=1_000_000) for each in ids)])
    advance(1)
    await storage.execute([ExpireDue(count)])
    return ids


def rows(database: Database) -> dict[str, str]:
    with database.begin() as connection:
        found = connection.execute(select(reservations.c.order_id, reservations.c.state)).all()
    return {row.order_id: row.state for row in found}


async def test_what_expired_long_ago_goes_and_the_rest_stays(
    storage: SqlStorage, advance: Callable[[float], None], clock: Clock
) -> None:
    old, anew = await expire(storage, advance, 2)
    advance(1)
    young = (await expire(storage, advance))[0]
    held, confirmed, closed = new_id(), new_id(), new_id()
    await storage.execute([Reserve(held, ONE, 1), Confirm(confirmed, ONE), Release(closed), Confirm(anew, ONE)])
    advance(30 * DAY_S - 3)
    database = storage._database
    assert delete_old(database, KINDS[0], 30, clock) == 0
    advance(1)
    assert delete_old(database, KINDS[0], 30, clock) == 1
    stay = {young: "EXPIRED", held: "HELD", confirmed: "CONFIRMED", closed: "CLOSED", anew: "CONFIRMED"}
    assert rows(database) == stay
    assert old not in stay
    assert delete_old(database, KINDS[0], 29, clock) == 1
    item = await storage.item("tea")
    assert (item.on_hand, item.held, item.sold) == (100_000 - 2, 1, 2)


async def test_there_may_be_more_than_one_transaction_takes(
    storage: SqlStorage, advance: Callable[[float], None], clock: Clock
) -> None:
    await expire(storage, advance, 1203)
    advance(DAY_S)
    assert delete_old(storage._database, KINDS[0], 1, clock) == 1203
    assert rows(storage._database) == {}


async def test_a_forgotten_id_is_used_anew_in_the_same_transaction_and_in_the_next_one(storage: SqlStorage) -> None:
    first, second = new_id(), new_id()
    await storage.execute([TEA, Release(first), Release(second)])
    kept, *_ = await storage.execute([Forget((first, second)), Reserve(first, ONE, 1)])
    assert kept == []
    assert rows(storage._database) == {first: "HELD"}
    await storage.execute([Confirm(second, ONE), Forget((first, second))])
    assert rows(storage._database) == {first: "HELD", second: "CONFIRMED"}


async def test_every_statement_goes_by_an_index(
    storage: SqlStorage,
    database_url: str,
    advance: Callable[[float], None],
    clock: Clock,
    plans_of: Callable[[type[Session]], Any],
) -> None:
    await storage.execute([TEA, *(Confirm(new_id(), ONE) for _ in range(3000))])
    expired = await expire(storage, advance, 30)
    closed = new_id()
    await storage.execute([Release(closed)])
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
    advance(DAY_S)
    plans = plans_of(Session)
    assert await storage.execute([Forget((closed, expired[0]))]) == [[]]
    prune(Settings(database_url=database_url), Namespace(days=1, dry_run=True), clock)
    assert delete_old(storage._database, KINDS[0], 1, clock) == 29
    assert plans.missing(KINDS[0]) == []
    assert plans.reading_all == []


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "souk_reservations", "prune", *arguments],
        env={**os.environ, "SOUK_RESERVATIONS_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_command_says_what_it_would_do_and_does_it(
    storage: SqlStorage, database_url: str, advance: Callable[[float], None]
) -> None:
    await expire(storage, advance, 3)  # half a century ago, by the clock of the command
    for arguments, age, expired, done_ in (
        (["--dry-run"], "30 days", 3, "would be deleted"),
        (["--days", "1"], "a day", 3, "deleted"),
        ([], "30 days", 0, "deleted"),
    ):
        said = (
            f"Reservations that expired at least {age} ago: {expired} {done_}.\n"
            f"Answers of restocks, given at least {age} ago: 0 {done_}.\n"
        )
        done = run(database_url, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
