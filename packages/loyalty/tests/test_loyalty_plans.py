"""How the database carries out what the storage asks of it: by an index, however many rows there are."""

import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from souk_loyalty import storage as storage_module
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, ExpireDue, Forget, PlaceHold, PutAccount, Release
from souk_loyalty.statements import Session
from souk_loyalty.storage import SqlStorage


def new_id() -> str:
    return str(uuid.uuid4())


async def test_no_statement_reads_through_a_whole_table(
    storage: SqlStorage, advance: Callable[[float], None], plans_of: Callable[[type[Session]], Any]
) -> None:
    await storage.execute([PutAccount(f"c-{n}", "Customer", Tier.SILVER, 60) for n in range(2000)])
    await storage.execute([Confirm(new_id(), f"c-{n}", 1, 1) for n in range(2000)])
    await storage.execute([PlaceHold(new_id(), "c-1", 1000, 1, ttl_us=1)])
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
    advance(1)
    order_id = new_id()
    plans = plans_of(Session)
    await storage.execute([PlaceHold(order_id, "c-7", 1000, 1, ttl_us=10)])
    await storage.execute([Confirm(order_id, "c-7", 1, 1), PlaceHold(new_id(), "c-8", 10**15, 0, ttl_us=10)])
    await storage.execute([Release(order_id), PutAccount("c-new", "Customer", Tier.SILVER, 60)])
    damaged = new_id()
    await storage.execute([PlaceHold(damaged, "c-9", 1000, 1, ttl_us=0)])
    with storage._database.begin() as connection:
        connection.execute(text("UPDATE accounts SET tier = 'WOOD' WHERE customer_id = 'c-9'"))
    await storage.execute([ExpireDue(100)])
    await storage.accounts("c-5", 10)
    await storage.account("c-5")
    await storage.hold(order_id)
    await storage.execute([Forget((order_id,))])
    assert plans.missing(storage_module) == []
    assert plans.reading_all == []
