"""What reservations alone must do: several lines, prices, and stock that is corrected."""

from uuid import uuid4

import grpc
import pytest

from souk_contracts.reservations.v1 import (
    ConfirmRequest,
    GetItemRequest,
    Line,
    PutItemRequest,
    ReserveRequest,
    RestockItemRequest,
)
from tests.conformance.participants import Balance, Reservations, State, refusal


def lines(**quantities: int) -> list[Line]:
    return [Line(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]


async def two_items(reservations: Reservations) -> tuple[str, str]:
    return await reservations.account(10), await reservations.account(3)


async def test_all_lines_are_held_or_none(reservations: Reservations) -> None:
    (tea, mug), order_id = await two_items(reservations), str(uuid4())
    no = await refusal(reservations.stub.reserve(ReserveRequest(order_id=order_id, lines=lines(**{tea: 2, mug: 4}))))
    assert no.metadata == {"sku": mug, "requested": "4", "available": "3"}
    assert await reservations.balance(tea) == Balance(10, 0)
    assert await reservations.state(order_id) is State.NONE
    answer = await reservations.stub.reserve(ReserveRequest(order_id=order_id, lines=lines(**{mug: 3, tea: 2})))
    assert [(line.sku, line.quantity) for line in answer.lines] == [(mug, 3), (tea, 2)]
    assert (await reservations.balance(tea), await reservations.balance(mug)) == (Balance(10, 2), Balance(3, 3))


async def test_all_lines_are_sold_or_none(reservations: Reservations) -> None:
    (tea, mug), order_id = await two_items(reservations), str(uuid4())
    answer = await reservations.stub.confirm(ConfirmRequest(order_id=order_id, lines=lines(**{tea: 2, mug: 4})))
    assert not answer.confirmed
    assert (await reservations.balance(tea), await reservations.balance(mug)) == (Balance(10, 0), Balance(3, 0))
    assert (
        await reservations.stub.confirm(ConfirmRequest(order_id=str(uuid4()), lines=lines(**{tea: 2, mug: 3})))
    ).confirmed
    assert (await reservations.balance(tea), await reservations.balance(mug)) == (Balance(8, 0), Balance(0, 0))


async def test_the_same_lines_in_another_order_are_the_same(reservations: Reservations) -> None:
    (tea, mug), order_id = await two_items(reservations), str(uuid4())
    await reservations.stub.reserve(ReserveRequest(order_id=order_id, lines=lines(**{tea: 2, mug: 1})))
    answer = await reservations.stub.reserve(ReserveRequest(order_id=order_id, lines=lines(**{mug: 1, tea: 2})))
    assert [line.sku for line in answer.lines] == [mug, tea]
    assert (await reservations.balance(tea), await reservations.balance(mug)) == (Balance(10, 2), Balance(3, 1))


async def test_a_live_hold_keeps_its_price_and_a_new_one_takes_todays(reservations: Reservations) -> None:
    tea, order_id = await reservations.account(10), str(uuid4())
    first = await reservations.hold(order_id, tea, 2)
    await reservations.stub.put_item(PutItemRequest(sku=tea, name="Green tea", unit_price=999, on_hand=10))
    assert (await reservations.hold(order_id, tea, 2)).content == first.content
    request = ReserveRequest(order_id=str(uuid4()), lines=lines(**{tea: 2}))
    (line,) = (await reservations.stub.reserve(request)).lines
    assert (line.name, line.unit_price) == ("Green tea", 999)


async def test_pieces_are_added_to_those_there_are(reservations: Reservations) -> None:
    tea = await reservations.account(10)
    await reservations.hold(str(uuid4()), tea, 6)
    item = (await reservations.stub.restock_item(RestockItemRequest(sku=tea, quantity=5))).item
    assert item is not None
    assert (item.on_hand, item.held, item.available) == (15, 6, 9)
    assert (await refusal(reservations.stub.restock_item(RestockItemRequest(sku="no-such", quantity=1)))).reason == (
        "UNKNOWN_SKU"
    )


async def test_an_item_that_is_not_there_is_not_found(reservations: Reservations) -> None:
    no = await refusal(reservations.stub.get_item(GetItemRequest(sku="no-such-item")))
    assert (no.code, no.reason, no.metadata) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SKU", {"sku": "no-such-item"})


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ([], "lines"),
        ([Line(sku="a", quantity=1), Line(sku="a", quantity=2)], "lines"),
        ([Line(sku=f"s{n}", quantity=1) for n in range(101)], "lines"),
        ([Line(sku="a", quantity=0)], "quantity"),
        ([Line(sku="a", quantity=-1)], "quantity"),
        ([Line(sku="", quantity=1)], "sku"),
        ([Line(sku="a b", quantity=1)], "sku"),
    ],
)
async def test_lines_that_cannot_be_meant_are_refused_by_name(
    reservations: Reservations, wanted: list[Line], field: str
) -> None:
    order_id = str(uuid4())
    for call in (
        reservations.stub.reserve(ReserveRequest(order_id=order_id, lines=wanted)),
        reservations.stub.confirm(ConfirmRequest(order_id=order_id, lines=wanted)),
    ):
        no = await refusal(call)
        assert (no.code, no.reason, no.metadata) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            {"field": field},
        )
    assert await reservations.state(order_id) is State.NONE
