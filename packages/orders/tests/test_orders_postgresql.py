"""What is PostgreSQL's own: processes that share an outbox and lock rows, a server that goes and comes back."""

import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import make_url, select, text

from souk_orders import retention as retention_module
from souk_orders import tables
from souk_orders.book import Decided, Participant
from souk_orders.database import Database
from souk_orders.domain import Order, Refusal, Status, StorageUnavailable, Terms
from souk_orders.environment import BadSetting
from souk_orders.limits import START
from souk_orders.migrate import migrate
from souk_orders.relay import OutboxRelay
from souk_orders.retention import Delete, SqlRetention
from souk_orders.routes import Reply
from souk_orders.service import Answered, Cancel, Command, Complete, Create, Lease, Refuse
from souk_orders.statements import Statement
from souk_orders.storage import REVISION, SqlStorage, carry_out
from souk_orders.writer import Clock

PRINT = bytes(32)
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {})


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def migrated(self, migrate: Callable[[str], None]) -> str: ...


class CountingParticipant:
    """Says yes to everything, and knows what it was told more than once, or twice at the same time."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.under_way: set[str] = set()
        self.twice_at_once: list[str] = []

    async def confirm(self, orders: Sequence[Order]) -> Sequence[Reply]:
        return await self.release([order.order_id for order in orders])

    async def release(self, order_ids: Sequence[str]) -> Sequence[Reply]:
        return await asyncio.gather(*map(self._told, order_ids))

    async def _told(self, order_id: str) -> Reply:
        if order_id in self.under_way:
            self.twice_at_once.append(order_id)
        self.under_way.add(order_id)
        await asyncio.sleep(0)
        self.under_way.discard(order_id)
        self.told[order_id] += 1
        return Reply(None, "")


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


def new_id() -> str:
    return str(uuid.uuid4())


def create(order_id: str, terms: Terms) -> Create:
    return Create(order_id, PRINT, terms, LATER_US)


def query_one(storage: SqlStorage, query: str) -> Any:
    with storage._database.begin() as connection:
        return connection.execute(text(query)).scalar_one()


MESSAGES = "SELECT count(*) FROM outbox"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_two_relays_deliver_each_message_of_one_outbox_once(
    open_storage: Callable[[], SqlStorage], terms: Terms
) -> None:
    opened = [open_storage(), open_storage()]
    clients = {participant: CountingParticipant() for participant in Participant}
    relays = [OutboxRelay(storage, clients, period_s=1, timeout_s=2) for storage in opened]
    ids = [new_id() for _ in range(300)]
    placing = [asyncio.create_task(opened[n % 2].execute([create(each, terms)])) for n, each in enumerate(ids)]
    while not all(task.done() for task in placing) or query_one(opened[0], MESSAGES) > 0:
        await asyncio.gather(*(relay.run_once() for relay in relays))
    for client in clients.values():
        assert client.twice_at_once == []
        assert client.told == Counter(ids)  # the clock stands still, so no lease runs out
    assert {(await opened[0].order(each)).status for each in ids} == {Status.CONFIRMED}


async def test_a_lease_passes_over_what_another_process_has_locked(
    open_storage: Callable[[], SqlStorage], terms: Terms
) -> None:
    first, second = open_storage(), open_storage()
    locked, free = new_id(), new_id()
    await first.execute([create(locked, terms), create(free, terms)])
    query = select(tables.orders).where(tables.orders.c.order_id == locked).with_for_update()
    with first._database.begin() as connection:
        connection.execute(query)
        (leased,) = await second.execute([Lease(Participant.LOYALTY, 10, lease_us=1)])
    assert isinstance(leased, list)
    assert [each.message.order_id for each in leased] == [free]


async def test_processes_that_decide_settle_and_lease_in_any_order_never_lock_each_other_out(
    open_storage: Callable[[], SqlStorage], terms: Terms
) -> None:
    random_ = random.Random(21)
    opened = [open_storage(), open_storage()]
    ids = [new_id() for _ in range(60)]

    def some_command() -> Command:
        order_id = random_.choice(ids)
        return random_.choice(
            (
                create(order_id, terms),
                Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK),
                Cancel(order_id),
                Complete(order_id),
                Lease(random_.choice(list(Participant)), 5, lease_us=1),
            )
        )

    async def use(storage: SqlStorage) -> None:
        outcomes = await storage.execute([some_command() for _ in range(random_.randint(1, 6))])
        leased = [delivery.message for outcome in outcomes if isinstance(outcome, list) for delivery in outcome]
        random_.shuffle(leased)
        await storage.execute([Answered(message, random_.choice([None, OUT_OF_STOCK])) for message in leased])

    for _ in range(25):
        await asyncio.gather(*(use(opened[n % 2]) for n in range(20)))
    assert query_one(opened[0], DEADLOCKS) == 0
    for order_id in ids:  # one decision each, whoever asks
        outcomes = [(await storage.execute([create(order_id, terms)]))[0] for storage in opened]
        assert outcomes[0] == outcomes[1] or isinstance(outcomes[0], Decided)


async def test_a_server_that_is_restarted_is_survived(postgresql: Server, storage: SqlStorage, terms: Terms) -> None:
    order_id = new_id()
    await storage.execute([create(order_id, terms)])
    postgresql.stop()
    try:
        with pytest.raises(StorageUnavailable):
            await storage.execute([Cancel(order_id)])
        assert not await storage.answers()
        with pytest.raises(StorageUnavailable):
            await storage.order(order_id)
    finally:
        postgresql.start()
    assert (await storage.order(order_id)).status is Status.ACCEPTED
    await storage.execute([Cancel(order_id)])
    assert await storage.answers()


async def test_a_prune_marks_past_what_others_have_locked_and_a_replay_waits_for_a_deletion(
    database_url: str, open_storage: Callable[[], SqlStorage], terms: Terms, clock: Clock
) -> None:
    storage = open_storage()
    locked, free = new_id(), new_id()
    await storage.execute([Refuse(each, PRINT, "c-1", OUT_OF_STOCK) for each in (locked, free)])
    leases = await storage.execute([Lease(to, 10, LATER_US) for to in Participant])
    told = [delivery.message for outcome in leases if isinstance(outcome, list) for delivery in outcome]
    await storage.execute([Answered(message, None) for message in told])
    with closing(SqlRetention(Database(database_url), 1, clock)) as retention:
        with storage._database.write() as session:
            carry_out(session, [create(locked, terms)], 0)  # a replay
            assert (await retention.mark("", 10)).count == 1
        assert (await retention.mark("", 10)).count == 1
        with storage._database.write() as session:
            assert retention_module.carry_out(session, [Delete([free], 0)], clock()) == [1]
            placed = asyncio.create_task(open_storage().execute([create(free, terms)]))
            async with asyncio.timeout(30):
                while not query_one(storage, WAITING):  # noqa: ASYNC110 (the event is in the server)
                    await asyncio.sleep(0.01)
    (decided,) = await placed
    assert isinstance(decided, Decided)
    assert not decided.replayed


def test_what_writes_sees_the_newest_rows_also_where_a_read_went_before(database_url: str) -> None:
    level = Statement(text("SHOW transaction_isolation"))
    with closing(Database(database_url)) as database:
        assert database.read(lambda session: session.rows(level)) == [("repeatable read",)]
        with database.write() as session:
            assert session.rows(level) == [("read committed",)]
        assert len(database._kept) == 1


def test_order_ids_are_sorted_by_their_bytes(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        query = "SELECT collation_name FROM information_schema.columns WHERE column_name = 'order_id'"
        assert set(connection.execute(text(query)).scalars()) == {"C"}
    database.close()


async def test_an_order_that_one_process_cancels_is_not_confirmed_by_another_at_the_same_time(
    open_storage: Callable[[], SqlStorage], terms: Terms
) -> None:
    first, second = open_storage(), open_storage()
    order_id = new_id()
    await first.execute([create(order_id, terms)])
    leases = await first.execute([Lease(to, 10, LATER_US) for to in Participant])
    told = [delivery.message for outcome in leases if isinstance(outcome, list) for delivery in outcome]
    await first.execute([Answered(told[0], None)])
    with first._database.write() as session:
        carry_out(session, [Cancel(order_id)], 0)
        last = asyncio.create_task(second.execute([Answered(told[1], None)]))
        async with asyncio.timeout(30):
            while not query_one(second, WAITING):  # noqa: ASYNC110 (the event is in the server)
                await asyncio.sleep(0.01)
    await last
    assert (await first.order(order_id)).status is Status.CANCELLED
    assert query_one(first, MESSAGES) == 2  # the releases


def test_a_newer_version_that_migrates_at_the_same_time_is_no_failure(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        connection.execute(text("UPDATE schema_support SET revision = '0000'"))
    with ThreadPoolExecutor(1) as other:
        with database.begin() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1936684395)")
            waiting = other.submit(migrate, database_url)
            query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while not connection.execute(query).scalar_one():
                assert not waiting.done()
            connection.execute(text("UPDATE schema_support SET revision = '9999'"))
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        waiting.result()
    database.close()


async def test_plans_that_were_made_while_tables_were_empty_are_those_of_full_ones(
    storage: SqlStorage, terms: Terms, prepared_plans: Callable[[Database], list[str]]
) -> None:
    placed, refused = create(new_id(), terms), Refuse(new_id(), PRINT, "c-1", OUT_OF_STOCK)
    await storage.execute([placed, refused])
    (leased,) = await storage.execute([Lease(Participant.LOYALTY, 8, lease_us=1)])
    assert isinstance(leased, list)
    await storage.execute([Answered(delivery.message, no=None) for delivery in leased])
    await storage.execute([Cancel(placed.order_id)])
    await storage.order_with_history(placed.order_id)
    await storage.orders("c-1", Status.CONFIRMED, START, 8)
    plans = prepared_plans(storage._database)
    assert len(plans) > 9
    assert [plan for plan in plans if re.search(r"Seq Scan|Hash Join|Merge Join", plan)] == []
    # By the key: by whom a message is for, each would be looked for among all.
    changes = [plan for plan in plans if plan.startswith(("UPDATE outbox", "DELETE FROM outbox"))]
    assert len(changes) == 2
    assert all("outbox_pkey" in plan for plan in changes)


def test_how_often_a_statement_is_carried_out_before_it_is_prepared_stands_in_the_url(postgresql: Server) -> None:
    url = postgresql.migrated(migrate)
    for query, threshold in (("", 0), ("?prepare_threshold=7", 7), ("?prepare_threshold=none", None)):
        with closing(Database(f"{url}{query}")) as database:
            found = database.read(lambda session: session._cursor.connection.prepare_threshold)
            assert found == threshold
    with pytest.raises(BadSetting, match="prepare_threshold in SOUK_ORDERS_DATABASE_URL must be a whole number"):
        Database(f"{url}?prepare_threshold=often")


@pytest.mark.pgbouncer
def test_a_pooler_is_refused_with_the_ways_out_unless_the_url_says_that_it_pools_by_session(
    postgresql: Server, tmp_path: Path
) -> None:
    direct = make_url(postgresql.migrated(migrate))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    settings = {
        **user, "listen_addr": "127.0.0.1", "listen_port": port, "auth_type": "any", "pool_mode": "transaction",
        "unix_socket_dir": "", "logfile": "",
    }  # fmt: skip
    config = tmp_path / "pgbouncer.ini"
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    config.write_text(f"[databases]\n* = host=127.0.0.1 port={direct.port} user=souk\n[pgbouncer]\n{lines}\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # for its user
    command = [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as pooler:
        try:
            assert pooler.stderr is not None
            said = ""
            while "process up" not in said:
                said = pooler.stderr.readline()
                assert said, "pgbouncer has ended"
            url = direct.set(port=port).render_as_string(hide_password=False)
            for name in ("migrate", "serve", "prune"):
                ended = subprocess.run(
                    [sys.executable, "-m", "souk_orders", name],
                    env={**os.environ, "SOUK_ORDERS_DATABASE_URL": url},
                    capture_output=True, text=True, timeout=60, check=False,
                )  # fmt: skip
                assert ended.returncode == 1
                assert ended.stderr.startswith("souk_orders: SOUK_ORDERS_DATABASE_URL names a pooler")
                assert "connect it directly" in ended.stderr
                assert "adding pooler=session to the URL" in ended.stderr
            with closing(Database(f"{url}?pooler=session&prepare_threshold=none")) as database:
                database.check_schema(REVISION, "1.0.0")
        finally:
            pooler.kill()
