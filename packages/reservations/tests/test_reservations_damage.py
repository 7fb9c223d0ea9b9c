"""A row that is damaged: what needs it fails, and says so; all others are as if it were not there."""

import uuid
from collections.abc import Callable

import grpc
import pytest
from sqlalchemy import text

from souk_contracts.errors import refusal_of
from souk_contracts.reservations.v1 import ConfirmRequest, GetItemRequest, ListItemsRequest, ReservationsStub
from souk_contracts.reservations.v1 import Line as WireLine
from souk_reservations.domain import Damaged, Item, Line, Reservation, State
from souk_reservations.service import Confirm, ExpireDue, Forget, PutItem, Release, Reservations, Reserve, RestockItem
from souk_reservations.storage import SqlStorage

ROWS_ANYWHERE = [
    ("lines", "'[[1]]'"),
    ("lines", """'{"tea": 1}'"""),
    ("quote", """'[["Tea", "450"]]'"""),
    ("state", "'GONE'"),
]
ROWS_OF_SQLITE = [("lines", "'['"), ("quote", "x'00'"), ("state", "CAST(x'ff' AS TEXT)")]
TEA = (Line("tea", 1),)


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def damage(storage: SqlStorage, change: str) -> None:
    with storage._database.begin() as connection:
        connection.execute(text(f"UPDATE {change}"))


@pytest.mark.parametrize(
    ("database_url", "field", "value"),
    [
        *(("sqlite", *each) for each in [*ROWS_ANYWHERE, *ROWS_OF_SQLITE]),
        *(("postgresql", *each) for each in ROWS_ANYWHERE),
    ],
    indirect=["database_url"],
)
async def test_a_damaged_reservation_fails_alone_and_names_itself(
    storage: SqlStorage, field: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = new_ids(2)
    await storage.execute([PutItem("tea", "Tea", 450, 9), Reserve(bad, TEA, 10), Reserve(good, TEA, 10)])
    damage(storage, f"reservations SET {field} = {value} WHERE order_id = '{bad}'")
    with pytest.raises(Damaged, match=f"the stored reservation {bad} is damaged: its field {field} cannot be read"):
        await storage.reservation(bad)
    assert f"the stored reservation {bad} is damaged: its field {field} cannot be read" in caplog.text
    outcomes = await storage.execute(
        [Reserve(bad, TEA, 10), Confirm(bad, TEA), Release(bad), Forget((bad, good)), Confirm(good, TEA)]
    )
    assert [type(each) for each in outcomes[:3]] == [Damaged] * 3
    assert sorted(outcomes[3]) == sorted([bad, good])  # type: ignore[arg-type]
    assert outcomes[4] is None
    assert (await storage.reservation(good)).state is State.CONFIRMED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "x'00'"), ("unit_price", "'dear'"), ("on_hand", "4.5"), ("description", "CAST(x'ff' AS TEXT)")],
)
async def test_a_damaged_item_fails_alone_and_names_itself(
    storage: SqlStorage, field: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    skus = ["bag", "cup", "mug", "rug", "tea"]
    await storage.execute([PutItem(sku, sku.title(), 450, 9) for sku in skus])
    held, other = new_ids(2)
    await storage.execute([Reserve(held, (Line("mug", 1), Line("tea", 1)), 10)])
    damage(storage, f"items SET {field} = {value} WHERE sku = 'mug'")
    with pytest.raises(Damaged, match=f"the stored item mug is damaged: its field {field} cannot be read"):
        await storage.item("mug")
    assert f"the stored item mug is damaged: its field {field} cannot be read" in caplog.text
    outcomes = await storage.execute(
        [
            *(Reserve(other, (Line(sku, 1),), 10) for sku in ("mug", "tea")),
            PutItem("mug", "Mug", 1, 1),
            RestockItem("mug", 1),
            Confirm(held, (Line("mug", 1), Line("tea", 1))),
            Release(held),
            RestockItem("tea", 1),
        ]
    )
    assert [type(each) for each in outcomes] == [Damaged, Reservation, Damaged, Damaged, Damaged, Damaged, Item]
    listed: list[str] = []
    while page := await storage.items(listed[-1] if listed else "", 2):
        listed += [item.sku for item in page]
    assert listed == ["bag", "cup", "rug", "tea"]
    assert len(await storage.items("", 4)) == 4  # a page is as long as was asked for


async def test_more_damaged_reservations_than_expire_at_once_hold_up_no_other(
    storage: SqlStorage, advance: Callable[[float], None]
) -> None:
    ids = new_ids(8)
    await storage.execute([PutItem("tea", "Tea", 450, 9), *(Reserve(each, TEA, 1) for each in ids)])
    good = ids.pop()
    for order_id in ids:
        damage(storage, f"reservations SET lines = '[[1]]', expires_at_us = 1 WHERE order_id = '{order_id}'")
    advance(1)
    ended = [(await storage.execute([ExpireDue(3)]))[0] for _ in range(4)]
    assert sum(count for count in ended if isinstance(count, int)) == 1
    assert (await storage.reservation(good)).state is State.EXPIRED
    with storage._database.begin() as connection:
        due = connection.execute(text(f"SELECT expires_at_us FROM reservations WHERE order_id != '{good}'")).scalars()
        assert set(due) == {1_031_000_000}


async def test_on_the_wire_a_damaged_row_is_data_loss_with_its_name_and_no_answer_to_a_confirm(
    stub: ReservationsStub, storage: SqlStorage
) -> None:
    (order_id,) = new_ids(1)
    await storage.execute([PutItem("tea", "Tea", 450, 9), Reserve(order_id, TEA, 10**9)])
    damage(storage, "reservations SET state = 'GONE'")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.confirm(ConfirmRequest(order_id=order_id, lines=[WireLine(sku="tea", quantity=1)]))
    refusal = refusal_of(failed.value)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RECORD_DAMAGED")
    assert refusal.metadata == {"record": "reservation", "id": order_id, "damaged_field": "state"}
    assert (await stub.get_item(GetItemRequest(sku="tea"))).item is not None
    assert len((await stub.list_items(ListItemsRequest())).items) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_list_goes_on_after_an_item_that_is_damaged_meanwhile(storage: SqlStorage) -> None:
    await storage.execute([PutItem(sku, sku.title(), 450, 9) for sku in ("bag", "cup", "mug")])
    reservations = Reservations(storage, hold_ttl_s=60)
    _, token = await reservations.items(2, "")
    damage(storage, "items SET unit_price = 'dear' WHERE sku = 'cup'")
    rest, _ = await reservations.items(2, token)
    assert [item.sku for item in rest] == ["mug"]
