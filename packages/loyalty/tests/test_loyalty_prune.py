"""`prune`: what has been EXPIRED for long goes, and nothing else does."""

import os
import subprocess
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, text

from souk_loyalty.database import Database
from souk_loyalty.prune import KINDS, delete_old, prune
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, ExpireDue, Forget, PlaceHold, PutAccount, Release
from souk_loyalty.settings import Settings
from souk_loyalty.statements import Session
from souk_loyalty.storage import SqlStorage, holds
from souk_loyalty.writer import Clock

DAY_S = 86_400
AMINA = PutAccount("c-1", "Amina", Tier.STANDARD, 100_000)


def new_id() -> str:
    return str(uuid.uuid4())


def hold(order_id: str, ttl_us: int = 1) -> PlaceHold:
    return PlaceHold(order_id, "c-1", 100, 1, ttl_us)


def confirm(order_id: str) -> Confirm:
    return Confirm(order_id, "c-1", 1, 0)


async def expire(storage: SqlStorage, advance: Callable[[float], None], count: int = 1) -> list[str]:
    """Holds whose time has just run out."""
    ids = [new_id() for _ in range(count)]
    await storage.execute([AMINA, *(hold(each, ttl_us=1_000_000) for each in ids)])
    advance(1)
    await storage.execute([ExpireDue(count)])
    return ids


def rows(database: Database) -> dict[str, str]:
    with database.begin() as connection:
        found = connection.execute(select(holds.c.order_id, holds.c.state)).all()
    return {row.order_id: row.state for row in found}


async def test_what_expired_long_ago_goes_and_the_rest_stays(
    storage: SqlStorage, advance: Callable[[float], None], clock: Clock
) -> None:
    old, anew = await expire(storage, advance, 2)
    advance(1)
    young = (await expire(storage, advance))[0]
    held, confirmed, closed = new_id(), new_id(), new_id()
    await storage.execute([hold(held), confirm(confirmed), Release(closed), confirm(anew)])
    advance(30 * DAY_S - 3)
    database = storage._database
    assert delete_old(database, KINDS[0], 30, clock) == 0
    advance(1)
    assert delete_old(database, KINDS[0], 30, clock) == 1
    stay = {young: "EXPIRED", held: "HELD", confirmed: "CONFIRMED", closed: "CLOSED", anew: "CONFIRMED"}
    assert rows(database) == stay
    assert old not in stay
    assert delete_old(database, KINDS[0], 29, clock) == 1
    account = await storage.account("c-1")
    assert (account.points, account.points_held) == (100_000 - 2, 1)


async def test_there_may_be_more_than_one_transaction_takes(
    storage: SqlStorage, advance: Callable[[float], None], clock: Clock
) -> None:
    await expire(storage, advance, 1203)
    advance(DAY_S)
    assert delete_old(storage._database, KINDS[0], 1, clock) == 1203
    assert rows(storage._database) == {}


async def test_a_forgotten_id_is_used_anew_in_the_same_transaction_and_in_the_next_one(storage: SqlStorage) -> None:
    first, second = new_id(), new_id()
    await storage.execute([AMINA, Release(first), Release(second)])
    kept, *_ = await storage.execute([Forget((first, second)), hold(first)])
    assert kept == []
    assert rows(storage._database) == {first: "HELD"}
    await storage.execute([confirm(second), Forget((first, second))])
    assert rows(storage._database) == {first: "HELD", second: "CONFIRMED"}


async def test_every_statement_goes_by_an_index(
    storage: SqlStorage,
    database_url: str,
    advance: Callable[[float], None],
    clock: Clock,
    plans_of: Callable[[type[Session]], Any],
) -> None:
    await storage.execute([AMINA, *(confirm(new_id()) for _ in range(3000))])
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
        [sys.executable, "-m", "souk_loyalty", "prune", *arguments],
        env={**os.environ, "SOUK_LOYALTY_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_command_says_what_it_would_do_and_does_it(
    storage: SqlStorage, database_url: str, advance: Callable[[float], None]
) -> None:
    await expire(storage, advance, 3)  # half a century ago, by the clock of the command
    for arguments, said in (
        (["--dry-run"], "Holds that expired at least 30 days ago: 3 would be deleted.\n"),
        (["--days", "1"], "Holds that expired at least a day ago: 3 deleted.\n"),
        ([], "Holds that expired at least 30 days ago: 0 deleted.\n"),
    ):
        done = run(database_url, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
