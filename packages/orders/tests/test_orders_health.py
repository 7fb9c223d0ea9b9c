"""What health says of the database: whether orders can be written, and nothing else."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import psycopg
import pytest
from sqlalchemy import event, text

from souk_orders.database import Conflict, Database
from souk_orders.domain import StorageUnavailable, Terms
from souk_orders.heartbeat import Heartbeat
from souk_orders.migrate import migrate
from souk_orders.service import Create
from souk_orders.statements import Statement
from souk_orders.storage import SqlStorage
from souk_orders.writer import Writer

LATER_US = 2**62


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def migrated(self, migrate: Callable[[str], None]) -> str: ...


def create(terms: Terms, note: str = "") -> Create:
    return Create(str(uuid.uuid4()), bytes(32), terms._replace(note=note), LATER_US)


async def becomes_well(storage: SqlStorage) -> None:
    """Health asks once a second; here more often."""
    async with asyncio.timeout(30):
        while not await storage.answers():  # noqa: ASYNC110 (there is nothing to wait on but the answer itself)
            await asyncio.sleep(0.05)


@contextmanager
def full(storage: SqlStorage) -> Iterator[None]:
    """The file cannot grow; pages that are free may be used again. For connections that are opened from here on."""
    database = storage._database

    def limit(connection: Any, _record: object) -> None:
        ((pages,),) = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    event.listen(database.engine, "connect", limit)
    database._close_kept()
    try:
        yield
    finally:
        event.remove(database.engine, "connect", limit)
        database._close_kept()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_file_that_cannot_grow_is_no_database_that_can_be_written_although_a_small_write_finds_room(
    storage: SqlStorage, terms: Terms
) -> None:
    now_s = 0.0
    storage._writer._heartbeat = Heartbeat(lambda: now_s)
    assert await storage.answers()
    with full(storage):
        assert await storage.answers()  # nobody has tried to write more than a heartbeat
        with pytest.raises(StorageUnavailable):
            await storage.execute([create(terms, "x" * 20_000)])
        for _ in range(3):
            now_s += 10
            assert not await storage.answers()
    assert await storage.answers()
    await storage.execute([create(terms, "x" * 20_000)])
    assert await storage.answers()


async def test_the_heartbeat_is_one_row_however_long_and_by_however_many_it_is_written(
    open_storage: Callable[[], SqlStorage],
) -> None:
    opened = [open_storage() for _ in range(3)]
    for _ in range(5):
        for storage in opened:
            assert await storage.answers()
    with opened[0]._database.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM heartbeat").scalar_one() == 1


async def test_after_a_write_there_is_no_need_of_a_heartbeat(storage: SqlStorage, terms: Terms) -> None:
    await storage.execute([create(terms)])
    assert await storage.answers()
    with storage._database.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM heartbeat").scalar_one() == 0


def test_heartbeats_that_are_followed_by_failed_writes_count_ever_later() -> None:
    now_s = 0.0
    heartbeat = Heartbeat(lambda: now_s)
    pauses = []
    for _ in range(5):
        heartbeat.failed()
        heartbeat.failed()
        assert not heartbeat.is_well()
        heartbeat.was_beaten()
        failed_s = now_s
        while not heartbeat.is_well():
            now_s += 0.5
        pauses.append(now_s - failed_s)
    assert pauses == [1, 2, 4, 8, 8]
    heartbeat.wrote()
    assert heartbeat.is_well()
    assert heartbeat.is_fresh()
    now_s += 1
    assert not heartbeat.is_fresh()
    heartbeat.failed()
    heartbeat.was_beaten()
    now_s += 1
    assert heartbeat.is_well()


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """New sessions of the database cannot write, as on a server that is no longer the primary."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname.encode()
        connection.execute(b'ALTER DATABASE "%s" SET default_transaction_read_only = on' % name)
        try:
            yield
        finally:
            connection.execute(b'ALTER DATABASE "%s" RESET default_transaction_read_only' % name)


async def test_a_session_that_cannot_write_any_more_is_given_up(postgresql: Server, terms: Terms) -> None:
    url = postgresql.migrated(migrate)
    storage = SqlStorage(Database(f"{url}?target_session_attrs=any"))
    with read_only(url):
        assert not await storage.answers()
        with pytest.raises(StorageUnavailable):
            await storage.execute([create(terms)])
        assert storage._database._kept == []
        storage._database.read(lambda session: session)  # leaves a session that cannot write
    await storage.execute([create(terms)])  # at the first try
    assert await storage.answers()
    storage.close()


@pytest.mark.parametrize(("state", "kept"), [("23505", 1), ("57014", 1), ("XX000", 0), ("58030", 0)])
def test_a_session_is_kept_after_a_statement_that_failed_by_itself_and_after_no_other_failure(
    postgresql: Server, state: str, kept: int
) -> None:
    failing = Statement(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
    with closing(Database(postgresql.migrated(migrate))) as database:
        with pytest.raises(StorageUnavailable), database.write() as session:
            session.run(failing)
        assert len(database._kept) == kept


async def test_a_server_that_takes_no_writes_is_none_to_connect_to(postgresql: Server) -> None:
    url = postgresql.migrated(migrate)
    storage = SqlStorage(Database(url))
    with read_only(url):
        assert not await storage.answers()
        with pytest.raises(StorageUnavailable):
            storage._database.read(lambda session: session)
    await becomes_well(storage)
    storage.close()


@pytest.mark.parametrize("answer", ["lost", "conflict"])
async def test_a_transaction_that_conflicts_is_tried_ten_times_and_one_whose_commit_may_have_come_through_once(
    storage: SqlStorage, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def carry_out(_session: object, _commands: object, _now_us: int) -> list[None]:
        nonlocal tries
        tries += 1
        raise Conflict if answer == "conflict" else StorageUnavailable

    writer: Writer[str, None] = Writer(storage._database, carry_out, lambda: 0)
    with pytest.raises(StorageUnavailable):
        await writer.execute(["command"])
    writer.close()
    assert tries == (10 if answer == "conflict" else 1)
    assert ("given up after 10 tries" in caplog.text) is (answer == "conflict")
