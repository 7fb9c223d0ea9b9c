"""What was written by an older version is there after a migration, and that version goes on beside the newer one."""

import uuid
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import souk_loyalty
from souk_loyalty.database import Database
from souk_loyalty.domain import Account, Hold, State
from souk_loyalty.migrate import migrate
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, PutAccount
from souk_loyalty.storage import SqlStorage
from souk_loyalty.writer import Clock

ADA = Account("ada", "Ada", Tier.GOLD, points=50, points_held=20)
HELD = Hold(str(uuid.uuid4()), State.HELD, "ada", 1000, 20, 10, 100, 20, 8, expires_at_us=10**15)

INSERT_ACCOUNT_AS_1_0 = text(
    "INSERT INTO accounts (customer_id, name, tier, points, points_held) "
    "VALUES (:customer_id, :name, :tier, :points, :points_held)"
)
UPDATE_ACCOUNT_AS_1_0 = text(
    "UPDATE accounts SET name = :name, tier = :tier, points = :points, points_held = :points_held "
    "WHERE accounts.customer_id = :customer_id"
)
SELECT_ACCOUNT_AS_1_0 = text(
    "SELECT customer_id, name, tier, points, points_held FROM accounts WHERE customer_id = :customer_id"
)
INSERT_HOLD_AS_1_0 = text(
    "INSERT INTO holds (order_id, state, customer_id, subtotal, redeem_points, discount_percent, discount, "
    "points_redeemed, points_earned, expires_at_us) VALUES (:order_id, :state, :customer_id, :subtotal, "
    ":redeem_points, :discount_percent, :discount, :points_redeemed, :points_earned, :expires_at_us)"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url_at_0001(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as version 1.0 made it, of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").migrated(migrate_to_0001))
    url = f"sqlite:///{tmp_path}/loyalty.db"
    migrate_to_0001(url)
    return url


def migrate_to_0001(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(souk_loyalty.__file__).parent / "migrations"))
    database = Database(url)
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    database.close()


def row_of_1_0(account: Account) -> dict[str, object]:
    return {
        "customer_id": account.customer_id,
        "name": account.name,
        "tier": account.tier.value,
        "points": account.points,
        "points_held": account.points_held,
    }


def insert_hold_as_1_0(connection: Connection, hold: Hold) -> None:
    connection.execute(INSERT_HOLD_AS_1_0, {**hold._asdict(), "state": hold.state.value})


async def test_accounts_and_holds_of_1_0_are_there_after_the_migration_and_go_their_way(
    url_at_0001: str, clock: Clock
) -> None:
    database = Database(url_at_0001)
    with database.begin() as connection:
        connection.execute(INSERT_ACCOUNT_AS_1_0, row_of_1_0(ADA))
        insert_hold_as_1_0(connection, HELD)
    database.close()
    migrate(url_at_0001)
    storage = SqlStorage(Database(url_at_0001), clock)
    try:
        assert await storage.account("ada") == ADA
        assert (await storage.account("ada")).tier_at(10**18) is Tier.GOLD
        assert await storage.hold(HELD.order_id) == HELD
        assert await storage.execute([Confirm(HELD.order_id, "ada", 20, 8)]) == [None]
        assert await storage.account("ada") == Account("ada", "Ada", Tier.GOLD, points=38)
    finally:
        storage.close()


async def test_a_process_of_1_0_goes_on_through_the_migration_and_beside_the_newer_version(
    url_at_0001: str, clock: Clock
) -> None:
    older = Database(url_at_0001)
    with older.begin() as connection:
        connection.execute(INSERT_ACCOUNT_AS_1_0, row_of_1_0(ADA))
    kept = older.engine.connect()
    for _ in range(10):  # so often that the driver prepares the statement
        with kept.begin():
            seen = kept.execute(SELECT_ACCOUNT_AS_1_0, {"customer_id": "ada"}).one()
    migrate(url_at_0001)
    older.check_schema("0001", "1.0.0")
    bob = Account("bob", "Bob", Tier.SILVER, points=1)
    with kept.begin():
        assert kept.execute(SELECT_ACCOUNT_AS_1_0, {"customer_id": "ada"}).one() == seen
    kept.close()
    with older.begin() as connection:
        connection.execute(INSERT_ACCOUNT_AS_1_0, row_of_1_0(bob))
    newer = SqlStorage(Database(url_at_0001), clock)
    try:
        assert await newer.account("bob") == bob
        await newer.execute([PutAccount("bob", "Bob", Tier.GOLD, 5, tier_expires_at_us=77)])
        with older.begin() as connection:
            connection.execute(UPDATE_ACCOUNT_AS_1_0, {**row_of_1_0(bob), "points": 9})
        assert await newer.account("bob") == Account("bob", "Bob", Tier.SILVER, points=9, tier_expires_at_us=77)
    finally:
        newer.close()
        older.close()
