"""Puts: what they leave alone, their conditions, and what Souk itself made of the numbers that they set."""

import grpc
import pytest
from test_reservations_rpc import refused

from souk_contracts.reservations.v1 import (
    ConfirmRequest,
    GetItemRequest,
    Item,
    ItemEdit,
    Line,
    PutItemRequest,
    ReleaseRequest,
    ReservationsStub,
    ReserveRequest,
    RestockItemRequest,
)
from souk_reservations import domain
from souk_reservations.domain import InvalidArgument, PreconditionFailed, Stock
from souk_reservations.revisions import ANY, Condition

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
TEA = domain.Item("tea", "Tea", unit_price=450, on_hand=10)


async def put(stub: ReservationsStub, *, price: int = 450, edit: ItemEdit | None, on_hand: int = -1) -> Item:
    request = PutItemRequest(sku="tea", name="Tea", unit_price=price, on_hand=on_hand, edit=edit)
    item = (await stub.put_item(request)).item
    assert item is not None
    return item


async def read(stub: ReservationsStub) -> Item:
    item = (await stub.get_item(GetItemRequest(sku="tea"))).item
    assert item is not None
    return item


async def test_a_price_changes_and_what_was_sold_stays_sold(stub: ReservationsStub) -> None:
    before = await put(stub, on_hand=10, edit=None)
    lines = [Line(sku="tea", quantity=8)]
    await stub.reserve(ReserveRequest(order_id=ORDER, lines=lines))
    await stub.confirm(ConfirmRequest(order_id=ORDER, lines=lines))
    after = await put(stub, price=500, edit=ItemEdit(revisions=[before.revision]))
    assert (after.unit_price, after.on_hand, after.sold) == (500, 2, 8)
    assert after == await read(stub)
    refusal = await refused(
        stub.put_item(
            PutItemRequest(
                sku="tea",
                name="Tea",
                unit_price=500,
                on_hand=-1,
                edit=ItemEdit(on_hand=10, revisions=[before.revision]),
            )
        )
    )
    assert (refusal.reason, refusal.code) == ("PRECONDITION_FAILED", grpc.StatusCode.FAILED_PRECONDITION)
    assert refusal.metadata == {"sku": "tea"}
    assert after == await read(stub)


async def test_an_edit_needs_the_number_that_older_versions_refuse(stub: ReservationsStub) -> None:
    for on_hand in (0, 10):
        request = PutItemRequest(sku="tea", name="Tea", unit_price=1, on_hand=on_hand, edit=ItemEdit())
        assert (await refused(stub.put_item(request))).metadata == {"field": "on_hand"}
    many = ItemEdit(revisions=["a"] * 17)
    refusal = await refused(stub.put_item(PutItemRequest(sku="tea", name="Tea", unit_price=1, on_hand=-1, edit=many)))
    assert refusal.metadata == {"field": "revisions"}


async def test_more_pieces_than_may_be_put_can_stay_as_they_are(stub: ReservationsStub) -> None:
    limit, lines = 1_000_000_000, [Line(sku="tea", quantity=1000)]
    await put(stub, on_hand=limit, edit=None)
    await stub.reserve(ReserveRequest(order_id=ORDER, lines=lines))
    await stub.confirm(ConfirmRequest(order_id=ORDER, lines=lines))
    await stub.restock_item(RestockItemRequest(sku="tea", quantity=1000))
    await stub.release(ReleaseRequest(order_id=ORDER))
    assert (await put(stub, price=7, on_hand=limit + 1000, edit=None)).unit_price == 7
    assert (await put(stub, price=8, edit=ItemEdit(on_hand=limit + 1000))).unit_price == 8
    assert (await put(stub, price=9, edit=ItemEdit())).on_hand == limit + 1000
    for other in (limit + 999, limit + 1001):
        request = PutItemRequest(sku="tea", name="Tea", unit_price=1, on_hand=other)
        assert (await refused(stub.put_item(request))).metadata == {"field": "on_hand"}


def test_a_put_without_pieces_leaves_them_and_journals_nothing() -> None:
    stock = Stock({"tea": TEA._replace(held=3, sold=2)}, {})
    assert stock.put("tea", "Green tea", 500, None) == TEA._replace(name="Green tea", unit_price=500, held=3, sold=2)
    assert stock.put("cup", "Cup", 1, None) == domain.Item("cup", "Cup", 1, on_hand=0)
    assert stock.journal == []


@pytest.mark.parametrize("changed", [{"name": "T"}, {"unit_price": 1}, {"description": "x"}, {"on_hand": 9}])
def test_a_revision_changes_with_all_that_a_put_sets(changed: dict[str, object]) -> None:
    assert TEA._replace(**changed).revision != TEA.revision  # type: ignore[arg-type]


def test_a_revision_is_the_same_whatever_is_held_or_sold() -> None:
    assert TEA._replace(held=1, sold=5).revision == TEA.revision


SOLD = TEA._replace(on_hand=9, sold=1)
DEARER = TEA._replace(unit_price=999)
MET = [
    (None, ANY),
    (TEA, ANY),
    (TEA, Condition((TEA.revision,))),
    (TEA, Condition((DEARER.revision, TEA.revision))),
    (TEA, Condition(must_exist=True)),
    (None, Condition(must_be_new=True)),
]
NOT_MET = [
    (None, Condition((TEA.revision,))),
    (None, Condition(must_exist=True)),
    (TEA, Condition(must_be_new=True)),
    (TEA, Condition((DEARER.revision,))),
]


@pytest.mark.parametrize(("there", "condition"), MET)
@pytest.mark.parametrize("on_hand", [None, 5])
def test_a_put_whose_condition_is_met_takes_effect(
    there: domain.Item | None, condition: Condition, on_hand: int | None
) -> None:
    stock = Stock({"tea": there} if there else {}, {})
    assert stock.put("tea", "Tea", 1, on_hand, condition=condition).unit_price == 1


@pytest.mark.parametrize(("there", "condition"), NOT_MET)
@pytest.mark.parametrize("on_hand", [None, 5])
def test_a_put_whose_condition_is_not_met_changes_nothing(
    there: domain.Item | None, condition: Condition, on_hand: int | None
) -> None:
    stock = Stock({"tea": there} if there else {}, {})
    with pytest.raises(PreconditionFailed):
        stock.put("tea", "Tea", 1, on_hand, condition=condition)
    assert stock.items == ({"tea": there} if there else {})


def test_the_pieces_on_hand_count_only_for_a_put_that_sets_them() -> None:
    stock = Stock({"tea": SOLD}, {})
    condition = Condition((TEA.revision,))
    with pytest.raises(PreconditionFailed):
        stock.put("tea", "Tea", 450, 10, condition=condition)
    assert stock.put("tea", "Tea", 500, None, condition=condition).on_hand == 9


@pytest.mark.parametrize("condition", [Condition((DEARER.revision,)), Condition(must_be_new=True)])
def test_a_repetition_of_what_was_carried_out_succeeds_and_changes_nothing(condition: Condition) -> None:
    stock = Stock({"tea": TEA}, {})
    again = condition._replace(is_repeat=True)
    assert stock.put("tea", "Tea", 450, 10, condition=again) == TEA
    assert stock.journal == []
    with pytest.raises(PreconditionFailed):
        stock.put("tea", "Tea", 450, 9, condition=again)


def test_pieces_beyond_the_limits_are_refused() -> None:
    stock = Stock({"tea": TEA}, {})
    for on_hand in (-1, 1_000_000_001):
        with pytest.raises(InvalidArgument):
            stock.put("tea", "Tea", 450, on_hand)
