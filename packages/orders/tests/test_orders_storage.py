"""The storage on every backend: what is durable, what is atomic, and who wins when many ask at once."""

import asyncio
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, TableClause, func, select, table, text

from souk_orders import heartbeat, tables
from souk_orders import storage as storage_module
from souk_orders.book import Decided, Delivery, Kind, Message, OrderBook, Participant
from souk_orders.database import Conflict, Database, SchemaBehind, SchemaMismatch
from souk_orders.domain import (
    KeyReused,
    Line,
    Order,
    Refusal,
    RefusedOrder,
    Status,
    StorageUnavailable,
    Terms,
    UnknownOrder,
    WrongStatus,
)
from souk_orders.migrate import migrate
from souk_orders.service import Answered, Cancel, Command, Complete, Create, Lease, Outcome, PutOff, Refuse
from souk_orders.statements import Session, Statement
from souk_orders.storage import REVISION, SqlStorage

PRINT = bytes(range(32))
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {"sku": "tea", "available": "0"})


def new_id() -> str:
    return str(uuid.uuid4())


def create(order_id: str, terms: Terms, fingerprint: bytes = PRINT) -> Create:
    return Create(order_id, fingerprint, terms, LATER_US)


async def lease(storage: SqlStorage, participant: Participant, limit: int = 100) -> list[Delivery]:
    (leased,) = await storage.execute([Lease(participant, limit, lease_us=1_000_000)])
    assert isinstance(leased, list)
    return list(leased)


async def count(storage: SqlStorage, rows: TableClause) -> int:
    with storage._database.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(rows)).scalar_one())


async def test_what_was_decided_is_there_after_a_restart(open_storage: Callable[[], SqlStorage], terms: Terms) -> None:
    first = open_storage()
    taken, refused = new_id(), new_id()
    lines = (terms.lines[0]._replace(name="Tée 緑茶 🍵"), *terms.lines[1:])
    unicode = terms._replace(lines=lines, note="Zweimal läuten 🔔")
    (decided, _) = await first.execute([create(taken, unicode), Refuse(refused, PRINT, "c-1", OUT_OF_STOCK)])
    assert isinstance(decided, Decided)
    first.close()
    second = open_storage()
    assert await second.order(taken) == decided.decision
    (again,) = await second.execute([create(refused, terms)])
    assert isinstance(again, Decided)
    assert again == Decided(
        RefusedOrder(refused, PRINT, "c-1", OUT_OF_STOCK, created_at_us=1_000_000_000), replayed=True
    )


async def test_each_command_of_a_list_has_an_outcome_of_its_own(storage: SqlStorage, terms: Terms) -> None:
    first = new_id()
    commands: list[Command] = [
        create(first, terms),
        create(first, terms),
        create(first, terms, fingerprint=b"x" * 32),
        Complete(first),
        Cancel(first),
        Cancel(new_id()),
    ]
    outcomes = await storage.execute(commands)
    assert [type(outcome) for outcome in outcomes] == [Decided, Decided, KeyReused, WrongStatus, Order, UnknownOrder]
    assert [outcome.replayed for outcome in outcomes if isinstance(outcome, Decided)] == [False, True]
    assert (await storage.order(first)).status is Status.CANCELLED


@pytest.mark.parametrize("storages", [1, 2])
async def test_of_twenty_who_create_one_id_at_once_one_wins_and_all_get_its_order(
    open_storage: Callable[[], SqlStorage], storages: int, terms: Terms
) -> None:
    opened = [open_storage() for _ in range(storages)]
    order_id = new_id()
    prices = [terms._replace(lines=(terms.lines[0]._replace(unit_price=n),)) for n in range(20)]
    outcomes = await asyncio.gather(
        *(opened[n % storages].execute([create(order_id, price)]) for n, price in enumerate(prices))
    )
    decided = [outcome for (outcome,) in outcomes if isinstance(outcome, Decided)]
    assert [each.replayed for each in decided].count(False) == 1
    assert {each.decision.created_at_us for each in decided} == {1_000_000_000}
    assert [each.decision for each in decided] == [await opened[0].order(order_id)] * 20
    assert await count(opened[0], tables.orders) == 1
    assert await count(opened[0], tables.outbox) == 2


@pytest.mark.parametrize("storages", [1, 2])
async def test_create_and_refuse_of_one_id_race_to_one_decision(
    open_storage: Callable[[], SqlStorage], storages: int, terms: Terms
) -> None:
    opened = [open_storage() for _ in range(storages)]
    for _ in range(5):
        order_id = new_id()
        commands: list[Command] = [create(order_id, terms), Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK)] * 4
        outcomes = await asyncio.gather(
            *(opened[n // 2 % storages].execute([command]) for n, command in enumerate(commands))
        )
        decided = [outcome for (outcome,) in outcomes if isinstance(outcome, Decided)]
        assert len(decided) == 8
        assert all(each.decision == decided[0].decision for each in decided)
        assert [each.replayed for each in decided].count(False) == 1


async def test_the_database_itself_refuses_a_second_decision(storage: SqlStorage, terms: Terms) -> None:
    order_id = new_id()
    (decided,) = await storage.execute([create(order_id, terms)])
    assert isinstance(decided, Decided)
    with pytest.raises((sqlite3.IntegrityError, Conflict)), storage._database.write() as session:
        session.change(storage_module._INSERT_ORDERS, [tables.order_row(decided.decision)])


@pytest.mark.parametrize("step", ["_save_decisions", "_save_outbox"])
async def test_an_order_and_its_messages_are_written_together_or_not_at_all(
    storage: SqlStorage, terms: Terms, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = new_id()
    await storage.execute([create(accepted, terms)])
    write = getattr(storage_module, step)

    def fail_after_writing(*arguments: object) -> None:
        write(*arguments)
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(storage_module, step, fail_after_writing)
        commands: list[Command] = [
            create(new_id(), terms),
            Refuse(new_id(), PRINT, "c-1", OUT_OF_STOCK),
            Cancel(accepted),
        ]
        for command in commands:
            with pytest.raises(ZeroDivisionError):
                await storage.execute([command])
    assert await count(storage, tables.orders) == 1
    assert await count(storage, table("history")) == 1
    assert (await storage.order(accepted)).status is Status.ACCEPTED
    for participant in Participant:
        assert [delivery.message.kind for delivery in await lease(storage, participant)] == [Kind.CONFIRM]


KILLED_BEFORE_ITS_COMMIT = """
import os, signal, sys
from souk_orders import storage
from souk_orders.database import Database
from souk_orders.domain import Line, Terms
from souk_orders.service import Create

terms = Terms("c-1", "EUR", (Line("tea", "Tea", 1, 450),), 0, 0, 0, 0, False)
with Database(sys.argv[1]).write() as session:
    storage.carry_out(session, [Create(sys.argv[2], bytes(32), terms, 2**62)], 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_process_that_is_killed_before_its_commit_leaves_nothing(
    database_url: str, open_storage: Callable[[], SqlStorage], terms: Terms
) -> None:
    order_id = new_id()
    arguments = [sys.executable, "-c", KILLED_BEFORE_ITS_COMMIT, database_url, order_id]
    ended = await asyncio.to_thread(subprocess.run, arguments, timeout=60, check=False)
    assert ended.returncode == -9
    storage = open_storage()
    assert await count(storage, tables.orders) == 0
    assert await count(storage, tables.outbox) == 0
    (decided,) = await storage.execute([create(order_id, terms)])
    assert isinstance(decided, Decided)
    assert not decided.replayed


async def test_a_commit_whose_answer_is_lost_may_be_repeated(
    storage: SqlStorage, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = new_id()
    database = storage._database
    connect = database.engine.raw_connection

    class Losing:
        """A connection that is lost right after its commit."""

        def __init__(self) -> None:
            self.driver_connection = self
            self._real: Any = connect()

        def commit(self) -> None:
            self._real.commit()
            self._real.close()
            self.rollback()

        def rollback(self) -> None:
            raise database.engine.dialect.loaded_dbapi.OperationalError("the connection is lost")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real.driver_connection, name)

        @property
        def closed(self) -> bool:
            return True

        def invalidate(self) -> None:
            """It is closed."""

    with monkeypatch.context() as patched:
        patched.setattr(database.engine, "raw_connection", Losing)
        with pytest.raises(StorageUnavailable) as failure:
            await storage.execute([create(order_id, terms)])
        assert not isinstance(failure.value, Conflict)  # which would be tried again
    (decided,) = await storage.execute([create(order_id, terms)])
    assert decided == Decided(await storage.order(order_id), replayed=True)
    assert await count(storage, tables.outbox) == 2


async def test_messages_are_leased_to_one_of_many(open_storage: Callable[[], SqlStorage], terms: Terms) -> None:
    opened = [open_storage(), open_storage()]
    ids = [new_id() for _ in range(30)]
    await opened[0].execute([create(order_id, terms) for order_id in ids])
    leases = await asyncio.gather(*(lease(opened[n % 2], Participant.LOYALTY, limit=10) for n in range(6)))
    leased = [delivery.message.order_id for deliveries in leases for delivery in deliveries]
    assert sorted(leased) == sorted(ids)


async def test_a_lease_looks_past_what_the_same_transaction_settles(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    first, second = new_id(), new_id()
    await storage.execute([create(first, terms)])
    (delivery,) = await lease(storage, Participant.LOYALTY)
    advance(1)
    await storage.execute([create(second, terms)])
    settle = Answered(delivery.message, no=None)
    (_, leased) = await storage.execute([settle, Lease(Participant.LOYALTY, 1, lease_us=1)])
    assert isinstance(leased, list)
    assert [each.message.order_id for each in leased] == [second]


async def test_a_message_comes_with_what_the_order_says(storage: SqlStorage, terms: Terms) -> None:
    order_id = new_id()
    (decided,) = await storage.execute([create(order_id, terms)])
    assert isinstance(decided, Decided)
    (delivery,) = await lease(storage, Participant.RESERVATIONS)
    assert delivery == Delivery(
        Message(order_id, Participant.RESERVATIONS, Kind.CONFIRM, 1_000_000_000, 1_000_000_000, 1_001_000_000),
        decided.decision,
    )


@pytest.mark.parametrize("odd", ["NULL", "", '"', "\\", "{a,b}", "it's\n\ttéa 🍵", "%s :name ?", '\\"', "t"])
async def test_any_text_comes_back_as_it_was(storage: SqlStorage, terms: Terms, odd: str) -> None:
    several = [create(new_id(), terms._replace(note=odd, lines=(Line("tea", odd, 1, 1),))) for _ in range(2)]
    await storage.execute([*several, create(new_id(), terms)])
    for each in several:
        assert (await storage.order(each.order_id)).terms == each.terms
    (delivery, *_) = await lease(storage, Participant.LOYALTY)
    await storage.execute([PutOff(delivery.message, odd, 0)])
    (again, *_) = await lease(storage, Participant.LOYALTY)
    assert (again.message.order_id, again.message.last_error) == (delivery.message.order_id, odd)


async def test_what_is_put_off_is_due_later_and_says_why(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None]
) -> None:
    await storage.execute([create(new_id(), terms)])
    (delivery,) = await lease(storage, Participant.LOYALTY)
    await storage.execute([PutOff(delivery.message, "UNAVAILABLE: no one there", 5_000_000)])
    assert await lease(storage, Participant.LOYALTY) == []
    advance(5)
    (again,) = await lease(storage, Participant.LOYALTY)
    assert (again.message.attempts, again.message.last_error) == (1, "UNAVAILABLE: no one there")


async def test_answers_settle_the_order(storage: SqlStorage, terms: Terms) -> None:
    order_id = new_id()
    await storage.execute([create(order_id, terms)])
    messages = [(await lease(storage, participant))[0].message for participant in Participant]
    outcomes = await storage.execute([Answered(message, no=None) for message in messages])
    assert outcomes == [None, await storage.order(order_id)]
    assert (await storage.order(order_id)).status is Status.CONFIRMED
    assert await count(storage, tables.outbox) == 0


async def test_a_failing_command_leaves_those_beside_it_alone(
    storage: SqlStorage, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = storage_module._decide
    ids = [new_id() for _ in range(8)]

    def explode(book: OrderBook, command: Command) -> Outcome:
        if isinstance(command, Create) and command.order_id == ids[3]:
            raise ZeroDivisionError
        return decide(book, command)

    monkeypatch.setattr(storage_module, "_decide", explode)
    results = await asyncio.gather(
        *(storage.execute([create(order_id, terms)]) for order_id in ids), return_exceptions=True
    )
    assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [3]
    assert isinstance(results[3], ZeroDivisionError)
    assert await count(storage, tables.orders) == 7


async def test_an_order_that_was_refused_or_never_was_is_unknown(storage: SqlStorage) -> None:
    refused = new_id()
    await storage.execute([Refuse(refused, PRINT, "c-1", OUT_OF_STOCK)])
    for order_id in (refused, new_id()):
        with pytest.raises(UnknownOrder):
            await storage.order(order_id)


async def test_a_closed_storage_is_unavailable(storage: SqlStorage) -> None:
    storage.close()
    with pytest.raises(StorageUnavailable):
        await storage.execute([Cancel(new_id())])


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    storage = SqlStorage(Database(f"sqlite:///{tmp_path}/no/such/folder/o.db"))
    with pytest.raises(StorageUnavailable):
        await storage.execute([Cancel(new_id())])
    with pytest.raises(StorageUnavailable):
        await storage.order(new_id())
    storage.close()


def no_index(_object: object, _name: object, kind: str, *_: object) -> bool:
    return kind != "index"


def test_the_migrations_make_what_the_storage_reads_and_writes(database_url: str) -> None:
    database = Database(database_url)
    everything = MetaData()
    for each in (*tables.metadata.sorted_tables, heartbeat.heartbeat):
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


def test_a_schema_that_a_newer_version_made_is_not_migrated_back_or_on(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        connection.execute(text("UPDATE schema_support SET revision = '9999'"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(database_url)
    with database.begin() as connection:
        connection.execute(text("UPDATE schema_support SET oldest_version = '9.0.0'"))
    with pytest.raises(SchemaMismatch, match=r"run version 9\.0\.0 or later"):
        migrate(database_url)
    database.close()


def test_a_database_of_another_service_is_refused(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        connection.execute(text("UPDATE schema_support SET service = 'loyalty'"))
    with pytest.raises(SchemaMismatch, match="the database belongs to loyalty; set SOUK_ORDERS_DATABASE_URL to one"):
        migrate(database_url)
    with database.begin() as connection:
        connection.execute(text("DELETE FROM schema_support"))
    with pytest.raises(SchemaMismatch, match="schema_support is empty"):
        database.check_schema(REVISION, "1.0.0")
    database.close()


def test_what_nobody_foresaw_leaves_no_connection_behind_that_is_amid_a_transaction(database_url: str) -> None:
    database = Database(database_url)
    versions = Statement(text("SELECT version_num FROM alembic_version"))

    def fail(session: Session) -> None:
        session.rows(versions)
        raise ZeroDivisionError

    def write_and_fail() -> None:
        with database.write() as session:
            session.run(Statement(text("DELETE FROM alembic_version")))
            fail(session)

    with pytest.raises(ZeroDivisionError):
        database.read(fail)
    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    other = Database(database_url)
    with other.begin() as connection:
        assert connection.execute(text("UPDATE alembic_version SET version_num = 'last'")).rowcount == 1
    assert [tuple(row) for row in database.read(lambda session: session.rows(versions))] == [("last",)]
    other.close()
    database.close()
