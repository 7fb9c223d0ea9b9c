"""What was written by an older version is there after a migration, and that version goes on beside the newer one."""

import json
import uuid
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

import souk_reservations
from souk_reservations.database import Database
from souk_reservations.domain import Item, Line, QuotedLine, Reservation, State
from souk_reservations.migrate import migrate
from souk_reservations.service import Confirm, PutItem
from souk_reservations.storage import SqlStorage
from souk_reservations.writer import Clock

TEA = Item("tea", "Tea", 450, on_hand=10, held=2, sold=1)
LINES = (Line("tea", 2),)
HELD = Reservation(str(uuid.uuid4()), State.HELD, LINES, (QuotedLine("tea", "Tea", 2, 450),), expires_at_us=10**15)

INSERT_ITEM_AS_1_0 = text(
    "INSERT INTO items (sku, name, unit_price, on_hand, held, sold) "
    "VALUES (:sku, :name, :unit_price, :on_hand, :held, :sold)"
)
UPDATE_ITEM_AS_1_0 = text(
    "UPDATE items SET name = :name, unit_price = :unit_price, on_hand = :on_hand, held = :held, sold = :sold "
    "WHERE items.sku = :sku"
)
SELECT_ITEM_AS_1_0 = text("SELECT sku, name, unit_price, on_hand, held, sold FROM items WHERE sku = :sku")
INSERT_RESERVATION_AS_1_0 = text(
    "INSERT INTO reservations (order_id, state, lines, quote, expires_at_us) "
    "VALUES (:order_id, :state, :lines, :quote, :expires_at_us)"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url_at_0001(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as version 1.0 made it, of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").migrated(migrate_to_0001))
    url = f"sqlite:///{tmp_path}/reservations.db"
    migrate_to_0001(url)
    return url


def migrate_to_0001(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(souk_reservations.__file__).parent / "migrations"))
    database = Database(url)
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    database.close()


def row_of_1_0(item: Item) -> dict[str, object]:
    return {
        "sku": item.sku,
        "name": item.name,
        "unit_price": item.unit_price,
        "on_hand": item.on_hand,
        "held": item.held,
        "sold": item.sold,
    }


async def test_items_and_reservations_of_1_0_are_there_after_the_migration_and_go_their_way(
    url_at_0001: str, clock: Clock
) -> None:
    database = Database(url_at_0001)
    with database.begin() as connection:
        connection.execute(INSERT_ITEM_AS_1_0, row_of_1_0(TEA))
        row = {
            "order_id": HELD.order_id,
            "state": HELD.state.value,
            "lines": json.dumps([["tea", 2]]),
            "quote": json.dumps([["Tea", 450]]),
            "expires_at_us": HELD.expires_at_us,
        }
        connection.execute(INSERT_RESERVATION_AS_1_0, row)
    database.close()
    migrate(url_at_0001)
    storage = SqlStorage(Database(url_at_0001), clock)
    try:
        assert await storage.item("tea") == TEA
        assert await storage.reservation(HELD.order_id) == HELD
        assert await storage.execute([Confirm(HELD.order_id, LINES)]) == [None]
        assert await storage.item("tea") == Item("tea", "Tea", 450, on_hand=8, held=0, sold=3)
    finally:
        storage.close()


async def test_a_process_of_1_0_goes_on_through_the_migration_and_beside_the_newer_version(
    url_at_0001: str, clock: Clock
) -> None:
    older = Database(url_at_0001)
    with older.begin() as connection:
        connection.execute(INSERT_ITEM_AS_1_0, row_of_1_0(TEA))
    kept = older.engine.connect()
    for _ in range(10):  # so often that the driver prepares the statement
        with kept.begin():
            seen = kept.execute(SELECT_ITEM_AS_1_0, {"sku": "tea"}).one()
    migrate(url_at_0001)
    older.check_schema("0001", "1.0.0")
    mug = Item("mug", "Mug", 900, on_hand=3)
    with kept.begin():
        assert kept.execute(SELECT_ITEM_AS_1_0, {"sku": "tea"}).one() == seen
    kept.close()
    with older.begin() as connection:
        connection.execute(INSERT_ITEM_AS_1_0, row_of_1_0(mug))
    newer = SqlStorage(Database(url_at_0001), clock)
    try:
        assert await newer.item("mug") == mug
        await newer.execute([PutItem("mug", "Mug", 900, 3, "Blue")])
        with older.begin() as connection:  # a hold
            connection.execute(UPDATE_ITEM_AS_1_0, {**row_of_1_0(mug), "held": 2})
        assert await newer.item("mug") == Item("mug", "Mug", 900, on_hand=3, held=2, description="Blue")
    finally:
        newer.close()
        older.close()
