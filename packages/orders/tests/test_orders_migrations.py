"""What was written by an older version is there after a migration, and that version goes on beside the newer one."""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import souk_orders
from souk_orders import __version__
from souk_orders.book import Participant
from souk_orders.database import Database
from souk_orders.domain import HistoryEntry, Order, Refusal, Status, Terms
from souk_orders.migrate import migrate
from souk_orders.service import Answered, Cancel, Create, Lease
from souk_orders.storage import SqlStorage
from souk_orders.writer import Clock

PRINT = bytes(range(32))

ORDER_COLUMNS_OF_1_0 = (
    "order_id, fingerprint, status, status_reason, customer_id, currency, lines, discount_percent, discount, "
    "points_redeemed, points_earned, without_loyalty, refusal, created_at_us"
)
OUTBOX_COLUMNS_OF_1_0 = "order_id, participant, kind, created_at_us, due_at_us, leased_until_us, attempts, last_error"


@pytest.fixture(params=["sqlite", "postgresql"])
def url_at_0001(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as version 1.0 made it, of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").migrated(migrate_to_0001))
    url = f"sqlite:///{tmp_path}/orders.db"
    migrate_to_0001(url)
    return url


def migrate_to_0001(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(souk_orders.__file__).parent / "migrations"))
    database = Database(url)
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    database.close()


def insert(connection: Connection, table: str, columns: str, values: Mapping[str, object]) -> None:
    binds = ", ".join(f":{name}" for name in columns.split(", "))
    connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({binds})"), values)


def place_as_1_0(connection: Connection, order: Order) -> None:
    """What version 1.0 writes for a new order; the history's id is the database's to give."""
    terms = order.terms
    values = {
        "order_id": order.order_id,
        "fingerprint": order.fingerprint,
        "status": order.status.value,
        "status_reason": order.status_reason,
        "customer_id": terms.customer_id,
        "currency": terms.currency,
        "lines": json.dumps([[line.sku, line.name, line.quantity, line.unit_price] for line in terms.lines]),
        "discount_percent": terms.discount_percent,
        "discount": terms.discount,
        "points_redeemed": terms.points_redeemed,
        "points_earned": terms.points_earned,
        "without_loyalty": terms.without_loyalty,
        "refusal": None,
        "created_at_us": order.created_at_us,
    }
    insert(connection, "orders", ORDER_COLUMNS_OF_1_0, values)
    for participant in ("RESERVATIONS", "LOYALTY"):
        message = {
            "order_id": order.order_id,
            "participant": participant,
            "kind": "CONFIRM",
            "created_at_us": 1,
            "due_at_us": 1,
            "leased_until_us": 0,
            "attempts": 0,
            "last_error": "",
        }
        insert(connection, "outbox", OUTBOX_COLUMNS_OF_1_0, message)
    step = {"order_id": order.order_id, "step": "ACCEPTED", "at_us": 1, "served_by": "orders/1.0.0", "detail": ""}
    insert(connection, "history", "order_id, step, at_us, served_by, detail", step)


def read_as_1_0(connection: Connection, order_id: str) -> tuple[object, ...]:
    query = text(f"SELECT {ORDER_COLUMNS_OF_1_0} FROM orders WHERE order_id = :order_id")
    return tuple(connection.execute(query, {"order_id": order_id}).one())


def new_order(terms: Terms) -> Order:
    return Order(str(uuid.uuid4()), PRINT, terms, Status.ACCEPTED, "", created_at_us=1)


async def test_orders_of_1_0_are_there_after_the_migration_and_go_their_way(
    url_at_0001: str, terms: Terms, clock: Clock
) -> None:
    order = new_order(terms)
    database = Database(url_at_0001)
    with database.begin() as connection:
        place_as_1_0(connection, order)
    database.close()
    migrate(url_at_0001)
    storage = SqlStorage(Database(url_at_0001), clock)
    try:
        history = [HistoryEntry("ACCEPTED", 1, "orders/1.0.0", "")]
        assert await storage.order_with_history(order.order_id) == (order, history)
        for participant in Participant:
            (leased,) = await storage.execute([Lease(participant, 10, lease_us=1)])
            assert isinstance(leased, list)
            assert [delivery.decision for delivery in leased] == [order]
            await storage.execute([Answered(leased[0].message, no=None)])
        assert (await storage.order(order.order_id)).status is Status.CONFIRMED
    finally:
        storage.close()


async def test_a_process_of_1_0_goes_on_through_the_migration_and_beside_the_newer_version(
    url_at_0001: str, terms: Terms, clock: Clock
) -> None:
    older = Database(url_at_0001)
    before, after = new_order(terms), new_order(terms)
    with older.begin() as connection:
        place_as_1_0(connection, before)
    kept = older.engine.connect()
    for _ in range(10):  # so often that the driver prepares the statement
        with kept.begin():
            seen = read_as_1_0(kept, before.order_id)
    migrate(url_at_0001)
    older.check_schema("0001", "1.0.0")
    with kept.begin():
        assert read_as_1_0(kept, before.order_id) == seen
    kept.close()
    with older.begin() as connection:
        place_as_1_0(connection, after)
    newer = SqlStorage(Database(url_at_0001), clock)
    try:
        assert await newer.order(after.order_id) == after
        noted = Create(str(uuid.uuid4()), PRINT, terms._replace(note="Ring twice"), 10**15)
        await newer.execute([noted])
        with older.begin() as connection:
            assert read_as_1_0(connection, noted.order_id)[4] == terms.customer_id
            status = text("UPDATE orders SET status = 'CANCELLED', status_reason = 'CUSTOMER' WHERE order_id = :key")
            connection.execute(status, {"key": noted.order_id})
        assert (await newer.order(noted.order_id)).terms.note == "Ring twice"
        assert isinstance((await newer.execute([Cancel(noted.order_id)]))[0], Order)
    finally:
        newer.close()
        older.close()


def history_as_1_0(connection: Connection, order_id: str) -> list[tuple[object, ...]]:
    query = text("SELECT step, at_us, served_by, detail FROM history WHERE order_id = :key ORDER BY id")
    return [tuple(row) for row in connection.execute(query, {"key": order_id})]


async def test_older_and_newer_steps_are_one_history_in_their_order_for_both_versions(
    url_at_0001: str, terms: Terms, clock: Clock
) -> None:
    order, detail = new_order(terms), """it's "1,2],[" \\ Ä\n"""
    older = Database(url_at_0001)
    with older.begin() as connection:
        place_as_1_0(connection, order)
    migrate(url_at_0001)
    step = {"order_id": order.order_id, "step": "PACKED", "at_us": 2, "served_by": "orders/1.0.0", "detail": detail}
    with older.begin() as connection:
        insert(connection, "history", "order_id, step, at_us, served_by, detail", step)
    newer = SqlStorage(Database(url_at_0001), clock)
    try:
        (leased,) = await newer.execute([Lease(Participant.LOYALTY, 10, lease_us=1)])
        assert isinstance(leased, list)
        no = Refusal("NO_POINTS", detail, {})
        await newer.execute([Answered(leased[0].message, no, "loyalty/2.0.0")])
        with older.begin() as connection:
            insert(connection, "history", "order_id, step, at_us, served_by, detail", {**step, "step": "SHELVED"})
            seen = history_as_1_0(connection, order.order_id)
        _, history = await newer.order_with_history(order.order_id)
        assert history == [
            HistoryEntry("ACCEPTED", 1, "orders/1.0.0", ""),
            HistoryEntry("PACKED", 2, "orders/1.0.0", detail),
            HistoryEntry("LOYALTY_DECLINED", clock(), "loyalty/2.0.0", f"NO_POINTS: {detail}"),
            HistoryEntry("CANCELLED", clock(), f"orders/{__version__}", "NO_POINTS"),
            HistoryEntry("SHELVED", 2, "orders/1.0.0", detail),
        ]
        assert seen == history
    finally:
        newer.close()
        older.close()


PAGE_OF_1_0 = (
    "SELECT order_id FROM orders WHERE status != 'REFUSED'{more} AND (created_at_us, order_id) < (9, '9')"
    " ORDER BY created_at_us DESC, order_id DESC LIMIT 50"
)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT step FROM history WHERE order_id = '0' ORDER BY id",
        PAGE_OF_1_0.format(more=" AND customer_id = 'c'"),
        PAGE_OF_1_0.format(more=""),
    ],
)
async def test_what_version_1_0_reads_it_finds_by_an_index(storage: SqlStorage, terms: Terms, query: str) -> None:
    await storage.execute([Create(str(uuid.uuid4()), PRINT, terms, 10**15) for _ in range(1000)])
    embedded = storage._database.embedded
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
        how = "EXPLAIN QUERY PLAN" if embedded else "EXPLAIN (COSTS OFF)"
        steps = [str(row[-1]) for row in connection.execute(text(f"{how} {query}"))]
    read = [step for step in steps if "orders" in step]
    assert read
    assert [step for step in read if not re.search("SEARCH|Index Scan", step)] == []
