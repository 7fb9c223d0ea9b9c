"""The storage on every backend: what is durable, what is atomic, and who wins when many ask at once."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, func, select, text, update

from souk_reservations import heartbeat
from souk_reservations import storage as storage_module
from souk_reservations.database import Database, SchemaBehind, SchemaMismatch
from souk_reservations.domain import (
    HeldByOthers,
    Line,
    Reservation,
    Settled,
    State,
    Stock,
    StorageUnavailable,
    UnknownReservation,
    UnknownSku,
)
from souk_reservations.janitor import Janitor
from souk_reservations.service import Command, Outcome, PutItem, Release, Reservations, Reserve
from souk_reservations.storage import REVISION, Lacking, SqlStorage, journal, metadata

TEA = PutItem("tea", "Tea", 450, 50)


def new_id() -> str:
    return str(uuid.uuid4())


async def test_what_was_done_is_there_after_a_restart(open_storage: Callable[[], SqlStorage]) -> None:
    first = open_storage()
    order_id = new_id()
    await first.execute([TEA, Reserve(order_id, (Line("tea", 2),), ttl_us=10)])
    first.close()
    second = open_storage()
    assert (await second.reservation(order_id)).state is State.HELD
    assert (await second.item("tea")).held == 2


async def test_each_command_of_a_list_has_an_outcome_of_its_own(storage: SqlStorage) -> None:
    first, second, third = new_id(), new_id(), new_id()
    outcomes = await storage.execute(
        [
            TEA,
            Reserve(first, (Line("tea", 30),), ttl_us=10),
            Reserve(second, (Line("tea", 30),), ttl_us=10),
            Reserve(third, (Line("tea", 20),), ttl_us=10),
            Release(first),
        ]
    )
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Item",
        "Reservation",
        "HeldByOthers",
        "Reservation",
        "NoneType",
    ]
    assert (await storage.item("tea")).held == 20
    with pytest.raises(UnknownReservation):
        await storage.reservation(second)


@pytest.mark.parametrize("storages", [1, 2])
async def test_of_many_who_ask_at_once_exactly_as_many_win_as_there_are_pieces(
    open_storage: Callable[[], SqlStorage], storages: int
) -> None:
    opened = [open_storage() for _ in range(storages)]
    await opened[0].execute([PutItem("tea", "Tea", 450, 7)])
    outcomes = await asyncio.gather(
        *(opened[n % storages].execute([Reserve(new_id(), (Line("tea", 1),), ttl_us=10)]) for n in range(40))
    )
    kinds = [type(outcome) for (outcome,) in outcomes]
    assert (kinds.count(Reservation), kinds.count(HeldByOthers)) == (7, 33)
    item = await opened[-1].item("tea")
    assert (item.on_hand, item.held, item.available) == (7, 7, 0)


async def test_of_twenty_with_one_order_id_all_share_one_hold(open_storage: Callable[[], SqlStorage]) -> None:
    opened = [open_storage(), open_storage()]
    await opened[0].execute([TEA])
    order_id = new_id()
    outcomes = await asyncio.gather(
        *(opened[n % 2].execute([Reserve(order_id, (Line("tea", 3),), ttl_us=10)]) for n in range(20))
    )
    assert all(isinstance(outcome, Reservation) for (outcome,) in outcomes)
    assert (await opened[0].item("tea")).held == 3


async def test_the_last_piece_is_not_refused_to_the_order_that_has_it(open_storage: Callable[[], SqlStorage]) -> None:
    opened = [open_storage(), open_storage()]
    for n in range(20):
        name, order_id = f"last-{n}", new_id()
        await opened[0].execute([PutItem(name, "Last", 1, 1)])
        outcomes = await asyncio.gather(
            *(each.execute([Reserve(order_id, (Line(name, 1),), ttl_us=10)]) for each in opened)
        )
        assert [type(outcome) for (outcome,) in outcomes] == [Reservation, Reservation]


async def test_confirm_and_release_race_to_one_end(reservations: Reservations) -> None:
    await reservations.put_item("tea", "Tea", 450, 50)
    for _ in range(10):
        order_id = new_id()
        await reservations.reserve(order_id, [Line("tea", 5)])
        await asyncio.gather(
            reservations.confirm(order_id, [Line("tea", 5)]),
            reservations.release(order_id),
            reservations.confirm(order_id, [Line("tea", 5)]),
        )
        assert isinstance(await reservations.confirm(order_id, [Line("tea", 5)]), Settled)
    item = await reservations.item("tea")
    assert (item.on_hand, item.held, item.sold) == (50, 0, 0)


async def test_the_journal_accounts_for_every_piece(storage: SqlStorage, reservations: Reservations) -> None:
    await reservations.put_item("tea", "Tea", 450, 50)
    await reservations.restock_item("tea", 8)
    order_id = new_id()
    await reservations.confirm(order_id, [Line("tea", 5)])
    await reservations.put_item("tea", "Tea", 450, 40)
    item = await storage.item("tea")

    with storage._database.begin() as connection:
        journalled = connection.execute(select(func.sum(journal.c.pieces))).scalar_one()
    assert journalled == item.on_hand + item.sold == 45


async def test_a_failing_command_leaves_those_beside_it_alone(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = storage_module._decide

    def explode(stock: Stock, command: Command, now_us: int, lacking: Lacking) -> Outcome:
        if command == PutItem("bomb", "Bomb", 1, 1):
            raise ZeroDivisionError
        return decide(stock, command, now_us, lacking)

    monkeypatch.setattr(storage_module, "_decide", explode)
    bomb = PutItem("bomb", "Bomb", 1, 1)
    results = await asyncio.gather(
        *(storage.execute([PutItem(f"i{n}", "Item", 1, 1), *([bomb] if n == 3 else [])]) for n in range(8)),
        return_exceptions=True,
    )
    assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [3]
    assert isinstance(results[3], ZeroDivisionError)
    assert [item.sku for item in await storage.items("", 100)] == ["i0", "i1", "i2", "i4", "i5", "i6", "i7"]


async def test_the_database_itself_refuses_to_hold_more_than_there_is(storage: SqlStorage) -> None:
    await storage.execute([TEA])
    with pytest.raises(Exception, match="held_is_on_hand"), storage._database.begin() as connection:
        connection.execute(update(storage_module.items).values(held=51))


async def test_items_come_by_sku_a_page_at_a_time(reservations: Reservations) -> None:
    for sku in ("c", "a", "e", "b", "d"):
        await reservations.put_item(sku, sku.upper(), 1, 1)
    pages, token = [], ""
    while True:
        items, token = await reservations.items(2, token)
        pages.append([item.sku for item in items])
        if not token:
            break
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


async def test_an_item_of_dots_from_before_1_2_can_still_be_listed_and_sold(
    storage: SqlStorage, reservations: Reservations
) -> None:
    for sku in (".", "..", "a"):
        await storage.execute([PutItem(sku, "Dots", 1, 5)])
    first, token = await reservations.items(1, "")
    rest, _ = await reservations.items(2, token)
    assert [item.sku for item in (*first, *rest)] == [".", "..", "a"]
    order_id, lines = str(uuid.uuid4()), [Line("..", 2)]
    await reservations.reserve(order_id, lines)
    assert await reservations.confirm(order_id, lines) is None
    assert (await reservations.item("..")).on_hand == 3


async def test_an_unknown_item_is_said_to_be_unknown(reservations: Reservations) -> None:
    with pytest.raises(UnknownSku):
        await reservations.item("tea")
    with pytest.raises(UnknownSku):
        await reservations.restock_item("tea", 1)


async def test_the_janitor_ends_the_holds_that_are_due_and_no_others(
    reservations: Reservations, advance: Callable[[float], None], hold_ttl_s: float
) -> None:
    await reservations.put_item("tea", "Tea", 450, 1000)
    early = [new_id() for _ in range(150)]
    for order_id in early:
        await reservations.reserve(order_id, [Line("tea", 1)])
    renewed = early.pop()
    advance(hold_ttl_s / 2)
    await reservations.reserve(renewed, [Line("tea", 1)])
    janitor = Janitor(reservations, period_s=1)
    assert await janitor.run_once() == 0
    advance(hold_ttl_s / 2)
    assert await janitor.run_once() == len(early)
    assert (await reservations.item("tea")).held == 1
    assert (await reservations.reservation(renewed)).state is State.HELD
    assert (await reservations.reservation(early[0])).state is State.EXPIRED


async def test_a_clock_that_steps_back_an_hour_lets_no_hold_live_for_longer(
    reservations: Reservations, advance: Callable[[float], None], hold_ttl_s: float
) -> None:
    await reservations.put_item("tea", "Tea", 450, 1000)
    order_ids = [new_id() for _ in range(3)]
    for order_id in order_ids:
        await reservations.reserve(order_id, [Line("tea", 1)])
    janitor = Janitor(reservations, period_s=1)
    advance(-3600)
    assert await janitor.run_once() == 0  # it may be on its way to be confirmed
    assert (await reservations.item("tea")).held == 3
    advance(hold_ttl_s)
    assert await janitor.run_once() == 3
    assert (await reservations.item("tea")).held == 0


async def test_a_closed_storage_is_unavailable(storage: SqlStorage) -> None:
    storage.close()
    with pytest.raises(StorageUnavailable):
        await storage.execute([TEA])


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    storage = SqlStorage(Database(f"sqlite:///{tmp_path}/no/such/folder/r.db"))
    with pytest.raises(StorageUnavailable):
        await storage.execute([TEA])
    with pytest.raises(StorageUnavailable):
        await storage.item("tea")
    storage.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_text("not a database, " * 100)
    storage = SqlStorage(Database(f"sqlite:///{tmp_path}/r.db"))
    with pytest.raises(StorageUnavailable):
        await storage.execute([TEA])
    storage.close()


async def test_the_janitor_outlives_whatever_happens(
    reservations: Reservations, advance: Callable[[float], None], hold_ttl_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reservations.put_item("tea", "Tea", 450, 10)
    order_id = new_id()
    await reservations.reserve(order_id, [Line("tea", 1)])
    advance(hold_ttl_s)
    expire_due, failures = reservations.expire_due, [StorageUnavailable(), ZeroDivisionError()]

    async def fail_twice(limit: int) -> int:
        if failures:
            raise failures.pop()
        return await expire_due(limit)

    monkeypatch.setattr(reservations, "expire_due", fail_twice)
    janitor = asyncio.create_task(Janitor(reservations, period_s=0.01).run())
    async with asyncio.timeout(60):
        while (await reservations.reservation(order_id)).state is not State.EXPIRED:
            assert not janitor.done()
    janitor.cancel()


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
    assert {change[1].name for change in difference} == {"schema_support"}
    assert [change[0] for change in difference] == ["remove_table"]


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
