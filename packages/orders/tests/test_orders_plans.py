"""How the database carries out what the storage asks of it: by an index, however many rows there are."""

import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from souk_orders import due as due_module
from souk_orders import storage as storage_module
from souk_orders.book import Participant
from souk_orders.domain import Refusal, Terms
from souk_orders.service import Answered, Cancel, Create, Lease, PutOff, Refuse
from souk_orders.statements import Session
from souk_orders.storage import SqlStorage

PRINT = bytes(32)
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {})


def create(terms: Terms) -> Create:
    return Create(str(uuid.uuid4()), PRINT, terms, LATER_US)


async def test_no_statement_reads_through_a_whole_table(
    storage: SqlStorage,
    terms: Terms,
    advance: Callable[[float], None],
    plans_of: Callable[[type[Session]], Any],
) -> None:
    await storage.execute([create(terms) for _ in range(2000)])
    for participant in Participant:
        await storage.execute([Lease(participant, 1900, lease_us=1)])
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
    advance(1)
    placed = create(terms)
    with_gift = create(terms)
    await storage.execute([with_gift])
    with storage._database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO outbox SELECT order_id, 'GIFTS', kind, 1, 1, 0, 0, '' FROM outbox WHERE order_id = :id "
                "AND participant = 'LOYALTY'"
            ),
            {"id": with_gift.order_id},
        )
    plans = plans_of(Session)
    await storage.execute([placed, Refuse(str(uuid.uuid4()), PRINT, "c-1", OUT_OF_STOCK)])
    (leased,) = await storage.execute([Lease(Participant.LOYALTY, 8, lease_us=1)])
    assert isinstance(leased, list)
    first, second, *_ = (delivery.message for delivery in leased)
    await storage.execute(
        [
            Answered(first, no=None),
            PutOff(second, "no one there", 1),
            Cancel(placed.order_id),
            Cancel(with_gift.order_id),
        ]
    )
    await storage.order(placed.order_id)
    await storage.order_with_history(placed.order_id)
    with storage._database.begin() as connection:
        connection.execute(text("UPDATE orders SET lines = '[[1]]'"))
    assert await storage.execute([Lease(Participant.LOYALTY, 8, lease_us=1)]) == [[]]  # none of them can be read
    assert len(leased) == 8
    assert plans.missing(storage_module) == []
    assert plans.missing(due_module) == []
    assert plans.reading_all == []
