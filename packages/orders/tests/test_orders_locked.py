"""Rows that another process keeps locked (PostgreSQL): who needs them waits, and everybody else is served."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import grpc
import pytest
from sqlalchemy import insert, select

from souk_contracts.errors import refusal_of
from souk_contracts.orders.v1 import CancelRequest, OrdersStub
from souk_orders import tables
from souk_orders.book import Decided, Participant
from souk_orders.domain import Order, Overloaded, Refusal, RefusedOrder, Status, StorageUnavailable, Terms
from souk_orders.migrate import migrate
from souk_orders.retention import DAY_US, SqlRetention
from souk_orders.service import Answered, Cancel, Command, Complete, Create, Lease, PutOff, Refuse
from souk_orders.storage import SqlStorage
from souk_orders.tables import orders

PRINT = bytes(32)
LATER_US = 10**15
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {})


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def migrated(self, migrate: Callable[[str], None]) -> str: ...


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


@contextmanager
def locked(storage: SqlStorage, order_id: str) -> Iterator[None]:
    """Another process's transaction that has locked an order, and goes on for as long as the block."""
    with storage._database.begin() as connection:
        assert connection.execute(select(orders).where(orders.c.order_id == order_id).with_for_update()).all()
        yield


async def test_an_order_that_is_locked_holds_up_only_who_needs_it(storage: SqlStorage, terms: Terms) -> None:
    order_id, *others = (str(uuid.uuid4()) for _ in range(30))
    await storage.execute([Create(order_id, PRINT, terms, LATER_US)])
    (leased,) = await storage.execute([Lease(Participant.LOYALTY, 1, lease_us=10**9)])
    assert isinstance(leased, list)
    (delivery,) = leased
    needing: list[Command] = [
        Create(order_id, PRINT, terms, LATER_US),
        Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK),
        Complete(order_id),
        Answered(delivery.message, None),
        PutOff(delivery.message, "", 1),
        Cancel(order_id),
    ]
    with locked(storage, order_id):
        first, *outcomes = await asyncio.gather(
            storage.execute([*needing, Create(str(uuid.uuid4()), PRINT, terms, LATER_US)]),
            *(storage.execute([Create(each, PRINT, terms, LATER_US)]) for each in others),
        )
    assert [type(outcome) for outcome in first] == [Overloaded] * len(needing) + [Decided]
    assert [type(outcome) for (outcome,) in outcomes] == [Decided] * len(others)
    assert (await storage.order(order_id)).status is Status.ACCEPTED
    assert isinstance((await storage.execute([Cancel(order_id)]))[0], Order)


async def test_a_call_that_meets_a_lock_is_told_to_come_again(
    storage: SqlStorage, stub: OrdersStub, terms: Terms
) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([Create(order_id, PRINT, terms, LATER_US)])
    with locked(storage, order_id), pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.cancel(CancelRequest(order_id=order_id))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    refusal = refusal_of(error.value)
    assert refusal is not None
    assert refusal.reason == "OVERLOADED"


async def test_an_order_that_another_process_is_about_to_write_holds_up_nobody_else(
    storage: SqlStorage, terms: Terms
) -> None:
    order_id = str(uuid.uuid4())
    row = tables.order_row(RefusedOrder(order_id, PRINT, "c-1", OUT_OF_STOCK, 0)) | {"lines": [], "refusal": None}
    with storage._database.begin() as connection:
        connection.execute(insert(orders).values(row))
        first, *outcomes = await asyncio.gather(
            storage.execute([Create(each, PRINT, terms, LATER_US) for each in (str(uuid.uuid4()), order_id)]),
            *(storage.execute([Create(str(uuid.uuid4()), PRINT, terms, LATER_US)]) for _ in range(30)),
        )
    assert [type(outcome) for outcome in first] == [Decided, Overloaded]
    assert [type(outcome) for (outcome,) in outcomes] == [Decided] * 30


async def test_a_prune_that_meets_a_lock_says_so(
    storage: SqlStorage, advance: Callable[[float], None], clock: Callable[[], int]
) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK)])
    for participant in Participant:
        (leased,) = await storage.execute([Lease(participant, 1, lease_us=10**9)])
        assert isinstance(leased, list)
        await storage.execute([Answered(delivery.message, None) for delivery in leased])
    retention = SqlRetention(storage._database, 1, clock)
    try:
        assert (await retention.mark("", 10)).count == 1
        advance(2 * DAY_US / 1e6)
        with locked(storage, order_id), pytest.raises(StorageUnavailable):
            await retention.delete([order_id])
        assert await retention.delete([order_id]) == 1
    finally:
        retention._writer.close()
