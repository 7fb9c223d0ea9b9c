"""The storage on every backend: what is durable, what is atomic, and who wins when many ask at once."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, func, select, text, update

from souk_loyalty import heartbeat
from souk_loyalty import storage as storage_module
from souk_loyalty.database import Database, SchemaBehind, SchemaMismatch
from souk_loyalty.domain import (
    Account,
    HeldByOthers,
    Hold,
    Ledger,
    Settled,
    State,
    StorageUnavailable,
    UnknownCustomer,
    UnknownHold,
)
from souk_loyalty.janitor import Janitor
from souk_loyalty.rules import Tier
from souk_loyalty.service import Command, Confirm, Loyalty, Outcome, PlaceHold, PutAccount, Release
from souk_loyalty.storage import REVISION, Lacking, SqlStorage, holds, journal, metadata

ADA = PutAccount("ada", "Ada", Tier.SILVER, 50)


def new_id() -> str:
    return str(uuid.uuid4())


def redeem(points: int, order_id: str = "") -> PlaceHold:
    """A hold of Ada's points on an order of 1000."""
    return PlaceHold(order_id or new_id(), "ada", 1000, points, ttl_us=10)


async def test_what_was_done_is_there_after_a_restart(open_storage: Callable[[], SqlStorage]) -> None:
    first = open_storage()
    held, confirmed = new_id(), new_id()
    _, hold, _ = await first.execute([ADA, redeem(20, held), Confirm(confirmed, "ada", 5, 9)])
    first.close()
    second = open_storage()
    assert await second.hold(held) == hold
    assert await second.hold(confirmed) == Hold(confirmed, State.CONFIRMED, "ada", points_redeemed=5, points_earned=9)
    assert await second.account("ada") == Account("ada", "Ada", Tier.SILVER, points=54, points_held=20)


async def test_each_command_of_a_list_has_an_outcome_of_its_own(storage: SqlStorage) -> None:
    first, second, third = redeem(30), redeem(30), redeem(20)
    outcomes = await storage.execute([ADA, first, second, third, Release(first.order_id)])
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Account",
        "Hold",
        "HeldByOthers",
        "Hold",
        "NoneType",
    ]
    assert (await storage.account("ada")).points_held == 20
    with pytest.raises(UnknownHold):
        await storage.hold(second.order_id)


@pytest.mark.parametrize("storages", [1, 2])
async def test_of_many_who_ask_at_once_exactly_as_many_win_as_there_are_points(
    open_storage: Callable[[], SqlStorage], storages: int
) -> None:
    opened = [open_storage() for _ in range(storages)]
    await opened[0].execute([PutAccount("ada", "Ada", Tier.SILVER, 7)])
    outcomes = await asyncio.gather(*(opened[n % storages].execute([redeem(1)]) for n in range(40)))
    kinds = [type(outcome) for (outcome,) in outcomes]
    assert (kinds.count(Hold), kinds.count(HeldByOthers)) == (7, 33)
    account = await opened[-1].account("ada")
    assert (account.points, account.points_held, account.available) == (7, 7, 0)


@pytest.mark.parametrize("storages", [1, 2])
async def test_of_twenty_who_want_all_points_at_once_one_wins(
    open_storage: Callable[[], SqlStorage], storages: int
) -> None:
    opened = [open_storage() for _ in range(storages)]
    await opened[0].execute([ADA])
    outcomes = await asyncio.gather(
        *(opened[n % storages].execute([Confirm(new_id(), "ada", 50, 0)]) for n in range(20))
    )
    assert [outcome for (outcome,) in outcomes].count(None) == 1
    assert (await opened[-1].account("ada")).points == 0


async def test_of_twenty_with_one_order_id_all_share_one_hold(open_storage: Callable[[], SqlStorage]) -> None:
    opened = [open_storage(), open_storage()]
    await opened[0].execute([ADA])
    order_id = new_id()
    outcomes = await asyncio.gather(*(opened[n % 2].execute([redeem(3, order_id)]) for n in range(20)))
    assert all(isinstance(outcome, Hold) for (outcome,) in outcomes)
    assert (await opened[0].account("ada")).points_held == 3


async def test_the_last_point_is_not_refused_to_the_order_that_has_it(open_storage: Callable[[], SqlStorage]) -> None:
    opened = [open_storage(), open_storage()]
    for n in range(20):
        name, order_id = f"last-{n}", new_id()
        await opened[0].execute([PutAccount(name, "Ada", Tier.GOLD, 1)])
        outcomes = await asyncio.gather(
            *(each.execute([PlaceHold(order_id, name, 1000, 1, ttl_us=10)]) for each in opened)
        )
        assert [type(outcome) for (outcome,) in outcomes] == [Hold, Hold]


async def test_confirm_and_release_race_to_one_end(loyalty: Loyalty) -> None:
    await loyalty.put_account("ada", "Ada", Tier.SILVER, 50)
    for _ in range(10):
        order_id = new_id()
        await loyalty.place_hold(order_id, "ada", 1000, 30)
        await asyncio.gather(
            loyalty.confirm(order_id, "ada", 30, 9),
            loyalty.release(order_id),
            loyalty.confirm(order_id, "ada", 30, 9),
        )
        assert isinstance(await loyalty.confirm(order_id, "ada", 30, 9), Settled)
    account = await loyalty.account("ada")
    assert (account.points, account.points_held) == (50, 0)


async def test_the_journal_and_the_confirmed_holds_account_for_every_point(
    storage: SqlStorage, loyalty: Loyalty
) -> None:
    kept, released, closed = new_id(), new_id(), new_id()
    await loyalty.put_account("ada", "Ada", Tier.SILVER, 50)
    await loyalty.confirm(kept, "ada", 20, 9)
    await loyalty.confirm(released, "ada", 5, 4)
    await loyalty.release(released)
    await loyalty.confirm(closed, "ada", 1000, 0)
    await loyalty.put_account("ada", "Ada", Tier.SILVER, 45)

    all_put_in = select(func.sum(journal.c.points)).where(journal.c.customer_id == "ada")
    all_moved = select(func.sum(holds.c.points_earned - holds.c.points_redeemed)).where(
        holds.c.customer_id == "ada", holds.c.state == "CONFIRMED"
    )
    with storage._database.begin() as connection:
        put_in, moved = connection.execute(all_put_in).scalar_one(), connection.execute(all_moved).scalar_one()
    assert (put_in, moved) == (56, -11)
    assert (await storage.account("ada")).points == put_in + moved


async def test_the_highest_amounts_fit(loyalty: Loyalty) -> None:
    order_id = new_id()
    await loyalty.put_account("ada", "Ada", Tier.GOLD, 10**12)
    hold = await loyalty.place_hold(order_id, "ada", 9 * 10**15, 10**12)
    assert hold.discount == 9 * 10**14
    assert await loyalty.confirm(order_id, "ada", hold.points_redeemed, hold.points_earned) is None
    assert (await loyalty.account("ada")).points == (9 * 10**15 - 9 * 10**14 - 10**12) // 100


async def test_a_failing_command_leaves_those_beside_it_alone(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = storage_module._decide
    bomb = PutAccount("bomb", "Bomb", Tier.GOLD, 1)

    def explode(ledger: Ledger, command: Command, now_us: int, lacking: Lacking) -> Outcome:
        if command == bomb:
            raise ZeroDivisionError
        return decide(ledger, command, now_us, lacking)

    monkeypatch.setattr(storage_module, "_decide", explode)
    results = await asyncio.gather(
        *(
            storage.execute([PutAccount(f"c{n}", "Customer", Tier.GOLD, 1), *([bomb] if n == 3 else [])])
            for n in range(8)
        ),
        return_exceptions=True,
    )
    assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [3]
    assert isinstance(results[3], ZeroDivisionError)
    accounts = await storage.accounts("", 100)
    assert [account.customer_id for account in accounts] == ["c0", "c1", "c2", "c4", "c5", "c6", "c7"]


async def test_the_database_itself_refuses_to_hold_fewer_than_no_points(storage: SqlStorage) -> None:
    await storage.execute([ADA])
    with pytest.raises(Exception, match="held_is_not_negative"), storage._database.begin() as connection:
        connection.execute(update(storage_module.accounts).values(points_held=-1))


async def test_accounts_come_by_customer_id_a_page_at_a_time(loyalty: Loyalty) -> None:
    for customer_id in ("c", "a", "e", "b", "d"):
        await loyalty.put_account(customer_id, customer_id.upper(), Tier.STANDARD, 1)
    pages, token = [], ""
    while True:
        accounts, token = await loyalty.accounts(2, token)
        pages.append([account.customer_id for account in accounts])
        if not token:
            break
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


async def test_an_unknown_customer_is_said_to_be_unknown(loyalty: Loyalty) -> None:
    with pytest.raises(UnknownCustomer):
        await loyalty.account("ada")
    with pytest.raises(UnknownCustomer):
        await loyalty.place_hold(new_id(), "ada", 1000, 0)


async def test_the_janitor_ends_the_holds_that_are_due_and_no_others(
    loyalty: Loyalty, advance: Callable[[float], None], hold_ttl_s: float
) -> None:
    await loyalty.put_account("ada", "Ada", Tier.SILVER, 1000)
    early = [new_id() for _ in range(150)]
    for order_id in early:
        await loyalty.place_hold(order_id, "ada", 1000, 1)
    renewed, confirmed = early.pop(), early.pop()
    advance(hold_ttl_s / 2)
    await loyalty.place_hold(renewed, "ada", 1000, 1)
    await loyalty.confirm(confirmed, "ada", 1, 0)
    janitor = Janitor(loyalty, period_s=1)
    assert await janitor.run_once() == 0
    advance(hold_ttl_s / 2)
    assert await janitor.run_once() == len(early)
    assert (await loyalty.account("ada")).points_held == 1
    assert (await loyalty.hold(renewed)).state is State.HELD
    assert (await loyalty.hold(confirmed)).state is State.CONFIRMED
    assert (await loyalty.hold(early[0])).state is State.EXPIRED


async def test_a_clock_that_steps_back_an_hour_lets_no_hold_live_for_longer(
    loyalty: Loyalty, advance: Callable[[float], None], hold_ttl_s: float
) -> None:
    await loyalty.put_account("ada", "Ada", Tier.SILVER, 1000)
    for _ in range(3):
        await loyalty.place_hold(new_id(), "ada", 1000, 1)
    janitor = Janitor(loyalty, period_s=1)
    advance(-3600)
    assert await janitor.run_once() == 0  # it may be on its way to be confirmed
    assert (await loyalty.account("ada")).points_held == 3
    advance(hold_ttl_s)
    assert await janitor.run_once() == 3
    assert (await loyalty.account("ada")).points_held == 0


@pytest.mark.parametrize("failure", [StorageUnavailable(), RuntimeError("nobody foresaw it"), KeyError("ada")])
async def test_the_janitor_goes_on_after_whatever_failed(
    storage: SqlStorage, loyalty: Loyalty, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    execute = storage.execute
    failures = iter([failure, failure])
    back = asyncio.Event()

    async def failing_twice(commands: Sequence[Command]) -> Sequence[Outcome]:
        for each in failures:
            raise each
        back.set()
        return await execute(commands)

    monkeypatch.setattr(storage, "execute", failing_twice)
    running = asyncio.create_task(Janitor(loyalty, period_s=0.001).run())
    async with asyncio.timeout(60):
        await back.wait()
    running.cancel()


async def test_a_closed_storage_is_unavailable(storage: SqlStorage) -> None:
    storage.close()
    with pytest.raises(StorageUnavailable):
        await storage.execute([ADA])


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    storage = SqlStorage(Database(f"sqlite:///{tmp_path}/no/such/folder/l.db"))
    with pytest.raises(StorageUnavailable):
        await storage.execute([ADA])
    with pytest.raises(StorageUnavailable):
        await storage.account("ada")
    storage.close()


def no_index(_object: object, _name: object, kind: str, *_: object) -> bool:
    return kind != "index"


def test_the_migrations_make_what_the_storage_reads_and_writes(database_url: str) -> None:
    database = Database(database_url)
    everything = MetaData()
    for each in (*metadata.sorted_tables, heartbeat.heartbeat):
        each.to_metadata(everything)
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": no_index})
        difference = compare_metadata(context, everything)
    database.close()
    # One table is the migrations' own.
    assert [(change[0], change[1].name) for change in difference] == [("remove_table", "schema_support")]


def test_a_database_without_migrations_says_what_to_do(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(SchemaBehind, match="run the `migrate` command"):
        database.check_schema(REVISION, "1.0.0")
    database.close()


def test_a_schema_fits_the_versions_that_it_names_and_later_ones(database_url: str) -> None:
    database = Database(database_url)
    database.check_schema(REVISION, "1.0.0")
    with pytest.raises(SchemaBehind, match="needs 9999"):
        database.check_schema("9999", "1.0.0")
    with database.begin() as connection:
        connection.execute(text("UPDATE schema_support SET revision = '9999', oldest_version = '1.10.0'"))
    database.check_schema(REVISION, "1.10.0")
    database.check_schema(REVISION, "1.10.0.dev7+g2a7b2b4.dirty")
    with pytest.raises(SchemaMismatch, match=r"run version 1\.10\.0 or later"):
        database.check_schema(REVISION, "1.9.0.dev12+g2a7b2b4")
    database.close()
