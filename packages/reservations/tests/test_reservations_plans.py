"""How the database carries out what the storage asks of it: by an index, however many rows there are."""

import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from souk_reservations import storage as storage_module
from souk_reservations.domain import Line
from souk_reservations.service import Confirm, ExpireDue, Forget, PutItem, Release, Reserve, RestockItem, RestockOnce
from souk_reservations.statements import Session
from souk_reservations.storage import SqlStorage


def new_id() -> str:
    return str(uuid.uuid4())


async def test_no_statement_reads_through_a_whole_table(
    storage: SqlStorage, advance: Callable[[float], None], plans_of: Callable[[type[Session]], Any]
) -> None:
    await storage.execute([PutItem(f"item-{n}", "Item", 1, 100) for n in range(2000)])
    await storage.execute([Confirm(new_id(), (Line(f"item-{n}", 1),)) for n in range(2000)])
    await storage.execute([Reserve(new_id(), (Line("item-1", 1),), ttl_us=1)])
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
    advance(1)
    order_id, lines = new_id(), (Line("item-7", 1), Line("item-8", 2))
    plans = plans_of(Session)
    await storage.execute([Reserve(order_id, lines, ttl_us=10)])
    await storage.execute([Confirm(order_id, lines)])
    await storage.execute([Release(order_id), PutItem("item-new", "Item", 1, 100)])
    damaged = new_id()
    await storage.execute([Reserve(damaged, (Line("item-9", 1),), ttl_us=0)])
    with storage._database.begin() as connection:
        connection.execute(text(f"UPDATE reservations SET lines = '[[1]]' WHERE order_id = '{damaged}'"))
    await storage.execute([ExpireDue(100)])
    await storage.execute([RestockItem("item-7", 1), RestockOnce(new_id(), "item-7", 1)])
    await storage.items("item-5", 10)
    await storage.item("item-5")
    await storage.reservation(order_id)
    await storage.execute([Forget((order_id,))])
    assert plans.reading_all == []
    storage_module.remembered_currency(storage._database, "EUR")  # its table has one row
    assert plans.missing(storage_module) == []
