"""What is PostgreSQL's own: processes that lock rows, a server that goes and comes back."""

import asyncio
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import pytest
from sqlalchemy import select, text

from souk_loyalty.database import Database
from souk_loyalty.domain import Hold, State, StorageUnavailable
from souk_loyalty.migrate import migrate
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, ExpireDue, PlaceHold, PutAccount, Release
from souk_loyalty.storage import SqlStorage, holds


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def migrated(self, migrate: Callable[[str], None]) -> str: ...


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


def new_id() -> str:
    return str(uuid.uuid4())


async def all_holds(storage: SqlStorage) -> list[Hold]:
    with storage._database.begin() as connection:
        order_ids = connection.execute(select(holds.c.order_id)).scalars().all()
    return [await storage.hold(order_id) for order_id in order_ids]


async def test_processes_that_use_the_same_accounts_in_any_order_never_lock_each_other_out(
    open_storage: Callable[[], SqlStorage],
) -> None:
    random_ = random.Random(22)
    names = [f"c-{n}" for n in range(5)]
    opened = [open_storage(), open_storage()]
    await opened[0].execute([PutAccount(name, "Customer", Tier.SILVER, 60) for name in names])
    ids = [new_id() for _ in range(80)]
    confirmed = Counter[str]()

    async def use(storage: SqlStorage) -> None:
        # Several orders at once, as where many callers' commands share a transaction.
        some = [(order_id, random_.choice(names)) for order_id in random_.sample(ids, 4)]
        await storage.execute([PlaceHold(order_id, name, 1000, 3, ttl_us=10) for order_id, name in some])
        order_id, name = some[0]
        await storage.execute([random_.choice((Confirm(order_id, name, 3, 1), Release(order_id)))])

    for _ in range(10):
        await asyncio.gather(*(use(opened[n % 2]) for n in range(20)))

    held = Counter[str]()
    for hold in await all_holds(opened[0]):
        if hold.state is State.HELD:
            held[hold.customer_id] += hold.points_redeemed
        elif hold.state is State.CONFIRMED:
            confirmed[hold.customer_id] += hold.points_redeemed - hold.points_earned
    for account in await opened[0].accounts("", 100):
        assert account.points_held == held[account.customer_id]
        assert account.points == 60 - confirmed[account.customer_id]
    with opened[0]._database.begin() as connection:
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert connection.execute(text(deadlocks)).scalar_one() == 0


async def test_a_server_that_is_restarted_is_survived(postgresql: Server, storage: SqlStorage) -> None:
    order_id = new_id()
    await storage.execute([PutAccount("ada", "Ada", Tier.SILVER, 50), PlaceHold(order_id, "ada", 1000, 20, ttl_us=10)])
    postgresql.stop()
    try:
        with pytest.raises(StorageUnavailable):
            await storage.execute([Release(order_id)])
        assert not await storage.answers()
        with pytest.raises(StorageUnavailable):
            await storage.account("ada")
    finally:
        postgresql.start()
    assert (await storage.account("ada")).points_held == 20
    assert await storage.execute([Release(order_id)]) == [None]


def test_customer_ids_are_sorted_by_their_bytes(database_url: str) -> None:
    database = Database(database_url)
    with database.begin() as connection:
        query = (
            "SELECT collation_name FROM information_schema.columns "
            "WHERE column_name = 'customer_id' AND table_name = 'accounts'"
        )
        assert connection.execute(text(query)).scalar_one() == "C"
    database.close()


async def test_plans_that_were_made_while_tables_were_empty_are_those_of_full_ones(
    storage: SqlStorage, prepared_plans: Callable[[Database], list[str]]
) -> None:
    order_id = new_id()
    await storage.execute([PutAccount("c-1", "Amina", Tier.GOLD, 100)])
    await storage.execute([PlaceHold(order_id, "c-1", 1000, 10, ttl_us=10)])
    await storage.execute([Confirm(order_id, "c-1", 10, 1), Release(order_id), ExpireDue(100)])
    await storage.accounts("", 10)
    plans = prepared_plans(storage._database)
    assert len(plans) > 10
    assert [plan for plan in plans if re.search(r"Seq Scan|Hash Join|Merge Join", plan)] == []
