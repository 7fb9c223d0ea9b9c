"""An order whose row is damaged: it alone fails, and says so; all others are as if it were not there."""

import uuid
from collections.abc import Callable

import grpc
import pytest
from sqlalchemy import text

from souk_contracts.errors import refusal_of
from souk_contracts.orders.v1 import CancelRequest, GetRequest, ListRequest, OrdersStub
from souk_orders.book import Decided, Participant
from souk_orders.domain import Damaged, Refusal, Status, Terms
from souk_orders.limits import START
from souk_orders.service import Answered, Cancel, Command, Create, Lease, Refuse
from souk_orders.storage import SqlStorage

PRINT = bytes(32)
LATER_US = 10**15
ANYWHERE = [
    ("lines", "'[[1]]'"),
    ("lines", "'{}'"),
    ("lines", """'[["tea", "Tea", "2", 450]]'"""),
    ("status", "'SHIPPED'"),
]
SQLITE_ONLY = [
    ("lines", "'['"),
    ("discount", "'much'"),
    ("customer_id", "CAST(x'63ff' AS TEXT)"),
    ("note", "x'00'"),
    ("points_earned", "1.5"),
]


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def create(order_id: str, terms: Terms) -> Create:
    return Create(order_id, PRINT, terms, LATER_US)


def damage(storage: SqlStorage, order_id: str, field: str, value: str, table: str = "orders") -> None:
    with storage._database.begin() as connection:
        connection.execute(text(f"UPDATE {table} SET {field} = {value} WHERE order_id = '{order_id}'"))


@pytest.mark.parametrize(
    ("database_url", "field", "value"),
    [
        *(("sqlite", *each) for each in [*ANYWHERE, *SQLITE_ONLY]),
        *(("postgresql", *each) for each in ANYWHERE),
    ],
    indirect=["database_url"],
)
async def test_a_damaged_order_fails_alone_and_names_itself(
    storage: SqlStorage, terms: Terms, field: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = new_ids(5)
    for order_id in ids:
        await storage.execute([create(order_id, terms)])
    bad, *others = ids[2], *ids[:2], *ids[3:]
    damage(storage, bad, field, value)
    for call in (storage.order, storage.order_with_history):
        with pytest.raises(Damaged, match=f"the stored order {bad} is damaged: its field {field} cannot be read"):
            await call(bad)
    assert f"the stored order {bad} is damaged: its field {field} cannot be read" in caplog.text
    outcomes = await storage.execute([create(each, terms) for each in ids] + [Cancel(bad), Cancel(others[0])])
    assert [type(outcome).__name__ for outcome in outcomes] == [
        *("Damaged" if each == bad else "Decided" for each in ids), "Damaged", "Order"
    ]  # fmt: skip
    listed: list[str] = []
    after = START
    while page := await storage.orders("", None, after, 2):
        listed += [order.order_id for order in page]
        after = page[-1].created_at_us, page[-1].order_id
    assert sorted(listed) == sorted(others)
    assert {order.order_id for order in await storage.orders("", None, START, 4)} == {
        *others
    }  # a page is as long as asked


async def test_a_refusal_that_is_damaged_is_no_answer(storage: SqlStorage, terms: Terms) -> None:
    (order_id,) = new_ids(1)
    await storage.execute([Refuse(order_id, PRINT, "c-1", Refusal("OUT_OF_STOCK", "none is left", {}))])
    for value in ("'{}'", "NULL", """'["OUT_OF_STOCK", 1, {}]'"""):
        damage(storage, order_id, "refusal", value)
        (outcome,) = await storage.execute([create(order_id, terms)])
        assert isinstance(outcome, Damaged)


@pytest.mark.parametrize("steps", ["'?'", "'[1],'", """'["ACCEPTED", "now", "", ""],'"""])
async def test_a_history_that_is_damaged_is_named(storage: SqlStorage, terms: Terms, steps: str) -> None:
    (order_id,) = new_ids(1)
    await storage.execute([create(order_id, terms)])
    damage(storage, order_id, "steps", steps)
    with pytest.raises(Damaged, match="its field steps"):
        await storage.order_with_history(order_id)
    assert (await storage.order(order_id)).status is Status.ACCEPTED


@pytest.mark.parametrize(("table", "field", "value"), [("orders", "status", "'SHIPPED'"), ("outbox", "kind", "'TELL'")])
async def test_more_damaged_orders_than_are_leased_at_once_hold_up_nobody_and_are_looked_at_30_s_later(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None], table: str, field: str, value: str
) -> None:
    bad = new_ids(12)
    await storage.execute([create(order_id, terms) for order_id in bad])
    for order_id in bad:
        damage(storage, order_id, field, value, table)
    advance(1)
    (good,) = new_ids(1)
    await storage.execute([create(good, terms)])

    async def lease() -> list[str]:
        (leased,) = await storage.execute([Lease(Participant.LOYALTY, 3, lease_us=1)])
        assert isinstance(leased, list)
        return [delivery.message.order_id for delivery in leased]

    found = [order_id for _ in range(4) for order_id in await lease()]
    assert found == [good]
    with storage._database.begin() as connection:
        query = "SELECT due_at_us, attempts, last_error FROM outbox WHERE participant = 'LOYALTY' AND order_id != '{}'"
        rows = connection.execute(text(query.format(good))).all()
    assert {(due_at_us, attempts) for due_at_us, attempts, _ in rows} == {(1_031_000_000, 1)}
    assert all(f"is damaged: its field {field} cannot be read" in error for *_, error in rows)
    advance(29.9)
    assert await lease() == [good]
    for order_id in bad:
        damage(storage, order_id, field, {"status": "'ACCEPTED'", "kind": "'CONFIRM'"}[field], table)
    advance(0.1)
    assert set(await lease()) & {*bad}


async def test_an_answer_for_an_order_that_was_damaged_meanwhile_is_taken_again_when_it_is_mended(
    storage: SqlStorage, terms: Terms
) -> None:
    ids = new_ids(2)
    await storage.execute([create(order_id, terms) for order_id in ids])
    leases = await storage.execute([Lease(to, 10, LATER_US) for to in Participant])
    answers: list[Command] = [
        Answered(each.message, None) for leased in leases if isinstance(leased, list) for each in leased
    ]
    damage(storage, ids[0], "status", "'SHIPPED'")
    await storage.execute(answers)
    assert (await storage.order(ids[1])).status is Status.CONFIRMED
    damage(storage, ids[0], "status", "'ACCEPTED'")
    await storage.execute(answers)
    assert (await storage.order(ids[0])).status is Status.CONFIRMED


async def test_on_the_wire_a_damaged_order_is_data_loss_with_its_name_and_field(
    stub: OrdersStub, storage: SqlStorage, terms: Terms
) -> None:
    bad, good = new_ids(2)
    decided = await storage.execute([create(bad, terms), create(good, terms)])
    assert all(isinstance(each, Decided) for each in decided)
    damage(storage, bad, "lines", "'[[1]]'")
    for call in (stub.get(GetRequest(order_id=bad)), stub.cancel(CancelRequest(order_id=bad))):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        refusal = refusal_of(failed.value)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RECORD_DAMAGED")
        assert refusal.metadata == {"record": "order", "id": bad, "damaged_field": "lines"}
    assert [order.id for order in (await stub.list(ListRequest())).orders] == [good]
