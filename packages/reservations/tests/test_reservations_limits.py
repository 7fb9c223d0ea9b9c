"""No sum passes 2^53 - 1, whatever is put in, sold and taken back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from souk_reservations.domain import MAX_NUMBER, Item, LimitExceeded, Line, OnHandAboveLimit, Stock

LAMPS = {f"lamp-{n}": Item(f"lamp-{n}", "Lamp", 10**9, on_hand=10**9) for n in range(10)}


def test_an_order_may_cost_as_much_as_can_be_counted_and_no_more() -> None:
    nine = tuple(Line(f"lamp-{n}", 10**6) for n in range(9))
    left = MAX_NUMBER - 9 * 10**15
    stock = Stock({**LAMPS, "rest": Item("rest", "Rest", 1, on_hand=10**9)}, {})
    stock.items["lamp-9"] = LAMPS["lamp-9"]._replace(unit_price=left // 10**6)
    exactly = (*nine, Line("lamp-9", 10**6), Line("rest", left % 10**6))
    before = dict(stock.items)
    with pytest.raises(LimitExceeded, match=str(MAX_NUMBER + 1)):
        stock.reserve("more", (*exactly[:-1], Line("rest", left % 10**6 + 1)), 1)
    assert (stock.items, stock.reservations) == (before, {})
    assert sum(line.quantity * line.unit_price for line in stock.reserve("most", exactly, 1).quote) == MAX_NUMBER


@pytest.mark.parametrize("on_hand", [0, 10**9 - 5])
def test_the_pieces_of_an_item_are_counted_with_those_that_were_sold(on_hand: int) -> None:
    item = Item("tea", "Tea", 1, on_hand=on_hand, sold=MAX_NUMBER - on_hand - 2)
    stock = Stock({"tea": item}, {})
    with pytest.raises(LimitExceeded) as caught:
        stock.restock("tea", 3)
    assert caught.value.metadata == {"sku": "tea"}
    with pytest.raises(LimitExceeded):
        stock.put("tea", "Tea", 1, on_hand + 3)
    with pytest.raises(LimitExceeded):
        stock.restock_once("key", "tea", 3, now_us=0)
    assert (stock.items["tea"], stock.journal, stock.restocks) == (item, [], {})
    assert stock.restock("tea", 2).on_hand == on_hand + 2
    assert stock.put("tea", "T", 2, None).unit_price == 2
    assert stock.put("tea", "T", 2, on_hand).on_hand == on_hand


@given(st.lists(st.tuples(st.sampled_from(["restock", "sell", "cancel"]), st.integers(1, 10**6)), max_size=30))
def test_whatever_is_sold_and_taken_back_stays_countable(steps: list[tuple[str, int]]) -> None:
    stock = Stock({"tea": Item("tea", "Tea", 1, on_hand=10**9 - 10**6, sold=MAX_NUMBER - 10**9)}, {})
    for n, (step, pieces) in enumerate(steps):
        if step == "restock":
            with suppress(LimitExceeded, OnHandAboveLimit):
                stock.restock("tea", pieces)
        elif step == "sell":
            stock.confirm(str(n), (Line("tea", pieces),))
        else:
            for order_id in list(stock.reservations):
                stock.release(order_id)
        item = stock.items["tea"]
        assert 0 <= item.on_hand <= MAX_NUMBER
        assert 0 <= item.sold <= MAX_NUMBER
