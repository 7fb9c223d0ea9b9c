"""What is PostgreSQL's own: processes that lock rows, a server that goes and comes back, its driver."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from alembic import command as alembic
from sqlalchemy import select, text

from souk_reservations.database import Conflict, Database
from souk_reservations.domain import HeldByOthers, Item, Line, OutOfStock, Reservation, State, StorageUnavailable
from souk_reservations.environment import BadSetting
from souk_reservations.migrate import migrate
from souk_reservations.prune import KINDS, delete_old
from souk_reservations.service import Confirm, ExpireDue, PutItem, Release, Reserve, RestockItem
from souk_reservations.statements import Statement
from souk_reservations.storage import SqlStorage, carry_out, reservations
from souk_reservations.writer import Clock


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def url(self, database: str) -> str: ...
    def new_database(self) -> str: ...
    def migrated(self, migrate: Callable[[str], None]) -> str: ...


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


def new_id() -> str:
    return str(uuid.uuid4())


async def test_processes_that_want_the_same_items_in_any_order_never_lock_each_other_out(
    open_storage: Callable[[], SqlStorage],
) -> None:
    random_ = random.Random(20)
    skus = [f"item-{n}" for n in range(8)]
    opened = [open_storage(), open_storage()]
    await opened[0].execute([PutItem(sku, "Item", 1, 100) for sku in skus])
    ids = [new_id() for _ in range(150)]

    async def use(storage: SqlStorage, order_id: str) -> None:
        lines = tuple(Line(sku, random_.randint(1, 3)) for sku in random_.sample(skus, random_.randint(1, 5)))
        (outcome,) = await storage.execute([Reserve(order_id, lines, ttl_us=10)])
        if isinstance(outcome, OutOfStock | HeldByOthers):
            await storage.execute([RestockItem(sku, 2) for sku in random_.sample(skus, 3)])
        elif random_.random() < 0.7:
            await storage.execute([Confirm(order_id, lines) if random_.random() < 0.5 else Release(order_id)])

    # Each order by both, and twenty at once.
    jobs = [(storage, order_id) for order_id in ids for storage in opened]
    random_.shuffle(jobs)
    for start in range(0, len(jobs), 20):
        await asyncio.gather(*(use(*job) for job in jobs[start : start + 20]))

    for _ in range(30):  # what is not there yet is not locked, and two who insert it wait for each other, too
        new = [new_id() for _ in range(20)]
        await asyncio.gather(
            opened[0].execute([Release(each) for each in new]),
            opened[1].execute([Release(each) for each in reversed(new)]),
        )

    held, sold = Counter[str](), Counter[str]()
    for reservation in await _all_reservations(opened[0]):
        counted = {State.HELD: held, State.CONFIRMED: sold}.get(reservation.state, Counter())
        counted.update({line.sku: line.quantity for line in reservation.lines})
    for item in await opened[0].items("", 100):
        assert (item.held, item.sold) == (held[item.sku], sold[item.sku])
    with opened[0]._database.begin() as connection:
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert connection.execute(text(deadlocks)).scalar_one() == 0


async def _all_reservations(storage: SqlStorage) -> list[Reservation]:
    with storage._database.begin() as connection:
        order_ids = connection.execute(select(reservations.c.order_id)).scalars().all()
    return [await storage.reservation(order_id) for order_id in order_ids]


async def test_a_server_that_is_restarted_is_survived(postgresql: Server, storage: SqlStorage) -> None:
    order_id = new_id()
    await storage.execute([PutItem("tea", "Tea", 450, 5), Reserve(order_id, (Line("tea", 2),), ttl_us=10)])
    postgresql.stop()
    try:
        with pytest.raises(StorageUnavailable):
            await storage.execute([Confirm(order_id, (Line("tea", 2),))])
        assert not await storage.answers()
        with pytest.raises(StorageUnavailable):
            await storage.item("tea")
    finally:
        postgresql.start()
    assert (await storage.item("tea")).held == 2
    assert await storage.execute([Confirm(order_id, (Line("tea", 2),))]) == [None]
    assert await storage.answers()


@pytest.mark.parametrize(("reaches_the_server", "on_hand"), [(True, 15), (False, 10)])
async def test_a_commit_whose_answer_is_lost_is_not_repeated(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch, reaches_the_server: bool, on_hand: int
) -> None:
    await storage.execute([PutItem("tea", "Tea", 450, 10)])
    commit, tries = psycopg.Connection.commit, []

    def lost(connection: "psycopg.Connection[Any]") -> None:
        tries.append(connection)
        if reaches_the_server:
            commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as cut:
        cut.setattr(psycopg.Connection, "commit", lost)
        with pytest.raises(StorageUnavailable):
            await storage.execute([RestockItem("tea", 5)])
    assert len(tries) == 1
    assert (await storage.item("tea")).on_hand == on_hand


async def test_a_role_without_rights_is_an_outage_until_it_has_them(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"shop_{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN")
        storage = SqlStorage(Database(database_url.replace("//souk:", f"//{role}:")), clock)
        try:
            for attempt in (storage.execute([PutItem("tea", "Tea", 450, 5)]), storage.item("tea")):
                with pytest.raises(StorageUnavailable, match="the service's log says why"):
                    await attempt
            assert not await storage.answers()
            assert "the database refuses: permission denied for table" in caplog.text
            for what in ("TABLES", "SEQUENCES"):
                owner.execute(f"GRANT ALL ON ALL {what} IN SCHEMA public TO {role}")
            await storage.execute([PutItem("tea", "Tea", 450, 5)])
            assert (await storage.item("tea")).on_hand == 5
            assert await storage.answers()
        finally:
            storage.close()


async def test_a_server_that_hangs_keeps_its_clients_waiting_until_it_goes_on(
    postgresql: Server, storage: SqlStorage
) -> None:
    postgresql.signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await storage.answers()
    finally:
        postgresql.signal(signal.SIGCONT)
    assert await storage.answers()


async def test_a_process_that_stops_amid_a_transaction_holds_up_nobody_for_long(
    open_storage: Callable[[], SqlStorage],
) -> None:
    stopped, other = open_storage(), open_storage()
    await other.execute([PutItem("tea", "Tea", 450, 5)])

    async def stop_amid_a_transaction() -> None:
        with stopped._database.write() as session:
            session.rows(Statement(text("SELECT set_config('idle_in_transaction_session_timeout', '100ms', true)")))
            session.rows(Statement(text("SELECT * FROM items FOR UPDATE")))
            assert isinstance((await other.execute([RestockItem("tea", 1)]))[0], Item)
            session.rows(Statement(text("SELECT 1")))

    with pytest.raises(Conflict):
        await stop_amid_a_transaction()


async def test_a_restart_amid_writes_loses_nothing_that_was_answered(
    postgresql: Server, open_storage: Callable[[], SqlStorage]
) -> None:
    opened = [open_storage(), open_storage()]
    await opened[0].execute([PutItem("tea", "Tea", 450, 100_000)])
    enough, answers, tries = asyncio.Event(), asyncio.Queue[str](), set[str]()

    async def buy(storage: SqlStorage) -> None:
        while not enough.is_set():
            order_id = new_id()
            tries.add(order_id)
            try:
                await storage.execute([Confirm(order_id, (Line("tea", 1),))])
            except StorageUnavailable:
                await asyncio.sleep(0.01)  # as a client backs off
                continue
            answers.put_nowait(order_id)

    buyers = [asyncio.create_task(buy(opened[n % 2])) for n in range(20)]
    async with asyncio.timeout(60):
        answered = {await answers.get() for _ in range(100)}
        await asyncio.to_thread(postgresql.stop)
        answered |= {answers.get_nowait() for _ in range(answers.qsize())}
        await asyncio.to_thread(postgresql.start)
        answered |= {await answers.get() for _ in range(100)}
    enough.set()
    await asyncio.gather(*buyers)
    answered |= {answers.get_nowait() for _ in range(answers.qsize())}
    there = {each.order_id for each in await _all_reservations(opened[0])}
    assert answered <= there <= tries
    assert (await opened[0].item("tea")).sold == len(there)


async def test_a_prune_passes_over_what_a_call_is_about_to_hold_anew(
    open_storage: Callable[[], SqlStorage], clock: Clock, advance: Callable[[float], None]
) -> None:
    storage, pruned = open_storage(), open_storage()._database
    again, other = new_id(), new_id()
    lines = (Line("tea", 1),)
    await storage.execute([PutItem("tea", "Tea", 450, 5), *(Reserve(each, lines, 1) for each in (again, other))])
    advance(1)
    await storage.execute([ExpireDue(10)])
    advance(86_400)
    with storage._database.write() as session:
        carry_out(session, [Reserve(again, lines, 10)], clock())
        assert delete_old(pruned, KINDS[0], 1, clock) == 1
    assert (await storage.reservation(again)).state is State.HELD
    assert delete_old(pruned, KINDS[0], 1, clock) == 0


def test_skus_are_sorted_by_their_bytes(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        query = (
            "SELECT collation_name FROM information_schema.columns WHERE column_name = 'sku' AND table_name = 'items'"
        )
        assert connection.execute(text(query)).scalar_one() == "C"
    database.close()


def test_several_may_migrate_at_once(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgresql.url(postgresql.new_database())
    upgrade, under_way, most = alembic.upgrade, list[int](), list[int]()

    def watched(*arguments: Any) -> None:
        under_way.append(1)
        most.append(len(under_way))
        upgrade(*arguments)
        under_way.pop()

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as others:
        patched.setattr(alembic, "upgrade", watched)
        database = Database(url)
        with database.begin() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1936684395)")
            waiting = [others.submit(migrate, url) for _ in range(2)]
            query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while connection.execute(query).scalar_one() < len(waiting):
                assert not any(each.done() for each in waiting)
        for each in waiting:
            each.result()
        database.close()
    assert most == [1]  # the other one found that nothing was left to do


def run(command: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "souk_reservations", command],
        env={**os.environ, "SOUK_RESERVATIONS_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_serve_leaves_migrating_to_the_command(postgresql: Server) -> None:
    url = postgresql.url(postgresql.new_database())
    ended = run("serve", url)
    assert ended.returncode == 1
    assert ended.stderr == "souk_reservations: the database is empty; run the `migrate` command first\n"
    assert run("migrate", url).returncode == 0


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    ended = run("serve", "postgres://souk:sesame@127.0.0.1:1/reservations")
    assert ended.returncode == 1
    assert "Connection refused" in ended.stderr
    assert re.search("\nsouk_reservations: the database cannot be used: .*Connection refused.*\n$", ended.stderr)
    assert "sesame" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "url", ["mysql://souk:sesame@host/db", "souk:sesame@host", "postgresql://souk:sesame@host:x/db"]
)
def test_a_url_of_another_kind_is_told_without_the_password(url: str) -> None:
    with pytest.raises(
        BadSetting, match="must be sqlite:///path or postgresql://user:password@host/database"
    ) as caught:
        Database(url)
    assert "sesame" not in str(caught.value)


def test_a_service_on_sqlite_does_not_load_the_driver(tmp_path: Path) -> None:
    code = (
        "import sys; from souk_reservations.database import Database; Database('sqlite:///s.db').read(lambda _: None); "
        "sys.exit('psycopg' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


async def test_plans_that_were_made_while_tables_were_empty_are_those_of_full_ones(
    storage: SqlStorage, prepared_plans: Callable[[Database], list[str]]
) -> None:
    order_id, lines = new_id(), (Line("tea", 1), Line("mug", 2))
    await storage.execute([PutItem("tea", "Tea", 1, 100), PutItem("mug", "Mug", 1, 100)])
    await storage.execute([Reserve(order_id, lines, ttl_us=10)])
    await storage.execute([Confirm(order_id, lines), Release(order_id), ExpireDue(100)])
    await storage.items("", 10)
    plans = prepared_plans(storage._database)
    assert len(plans) > 10
    assert [plan for plan in plans if re.search(r"Seq Scan|Hash Join|Merge Join", plan)] == []
