"""The state table of a reservation, cell by cell, and the sums of the stock."""

import pytest

from souk_reservations.domain import (
    Busy,
    HeldByOthers,
    Item,
    Line,
    OnHandAboveLimit,
    OnHandBelowHeld,
    OutOfStock,
    Reservation,
    Settled,
    State,
    Stock,
    UnknownSku,
)

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
TEA = Item("tea", "Tea", unit_price=450, on_hand=10)
MUG = Item("mug", "Mug", unit_price=900, on_hand=3)
TWO_TEAS = (Line("tea", 2),)
LATER_US = 1_000


def stock_with(state: State | None, lines: tuple[Line, ...] = TWO_TEAS) -> Stock:
    """A stock of ten teas and three mugs in which the order's reservation is in a state, with two teas."""
    stock = Stock({"tea": TEA, "mug": MUG}, {})
    if state is None:
        return stock
    if state is State.CLOSED:
        stock.release(ORDER)
        return stock
    stock.reserve(ORDER, lines, expires_at_us=100)
    if state is State.CONFIRMED:
        stock.confirm(ORDER, lines)
    elif state is State.EXPIRED:
        stock.expire_due(now_us=100)
    return stock


def pieces(stock: Stock, sku: str = "tea") -> tuple[int, int, int]:
    item = stock.items[sku]
    return item.on_hand, item.held, item.sold


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_reserve_holds_the_pieces_at_todays_price(state: State | None) -> None:
    stock = stock_with(state)
    reservation = stock.reserve(ORDER, TWO_TEAS, LATER_US)
    assert (reservation.state, reservation.expires_at_us) == (State.HELD, LATER_US)
    assert [(line.name, line.quantity, line.unit_price) for line in reservation.quote] == [("Tea", 2, 450)]
    assert pieces(stock) == (10, 2, 0)


def test_reserve_repeated_gives_the_same_quote_and_a_new_time() -> None:
    stock = stock_with(State.HELD)
    first = stock.reservations[ORDER]
    stock.put("tea", "Tea", unit_price=999, on_hand=10)
    again = stock.reserve(ORDER, TWO_TEAS, LATER_US)
    assert again.quote == first.quote
    assert again.expires_at_us == LATER_US
    assert pieces(stock) == (10, 2, 0)


def test_reserve_repeated_with_its_lines_in_another_order_is_the_same_request() -> None:
    both = (Line("tea", 2), Line("mug", 1))
    stock = stock_with(State.HELD, both)
    stock.reserve(ORDER, both[::-1], LATER_US)
    assert pieces(stock) == (10, 2, 0)


@pytest.mark.parametrize("lines", [(Line("tea", 3),), (Line("mug", 1),), (Line("tea", 2), Line("mug", 1))])
def test_reserve_with_other_lines_is_busy(lines: tuple[Line, ...]) -> None:
    stock = stock_with(State.HELD)
    with pytest.raises(Busy):
        stock.reserve(ORDER, lines, LATER_US)
    assert pieces(stock) == (10, 2, 0)


@pytest.mark.parametrize("state", [State.CONFIRMED, State.CLOSED])
def test_reserve_after_the_end_is_settled(state: State) -> None:
    stock = stock_with(state)
    before = pieces(stock)
    with pytest.raises(Settled) as refusal:
        stock.reserve(ORDER, TWO_TEAS, LATER_US)
    assert refusal.value.metadata == {"state": state.value}
    assert pieces(stock) == before


def test_reserve_takes_all_lines_or_none() -> None:
    stock = stock_with(None)
    with pytest.raises(OutOfStock, match="4 pieces of 'mug' were ordered, but 3 are available") as refusal:
        stock.reserve(ORDER, (Line("tea", 2), Line("mug", 4)), LATER_US)
    assert refusal.value.metadata == {"sku": "mug", "requested": "4", "available": "3"}
    assert pieces(stock) == (10, 0, 0)
    assert ORDER not in stock.reservations


def test_reserve_of_an_unknown_item_changes_nothing() -> None:
    stock = stock_with(None)
    with pytest.raises(UnknownSku, match="'tae'"):
        stock.reserve(ORDER, (Line("tea", 2), Line("tae", 1)), LATER_US)
    assert pieces(stock) == (10, 0, 0)


def test_held_pieces_are_not_available_to_others() -> None:
    stock = stock_with(State.HELD, (Line("mug", 2),))
    with pytest.raises(HeldByOthers, match="2 pieces of 'mug' were ordered, but 1 are available") as refusal:
        stock.reserve("another", (Line("tea", 1), Line("mug", 2)), LATER_US)
    assert refusal.value.metadata == {"sku": "mug", "requested": "2", "available": "1"}
    assert pieces(stock) == (10, 0, 0)
    stock.release(ORDER)
    stock.reserve("another", (Line("tea", 1), Line("mug", 2)), LATER_US)


@pytest.mark.parametrize(("missing", "error"), [(Line("tea", 11), OutOfStock), (Line("cup", 1), UnknownSku)])
def test_what_will_not_pass_by_itself_is_said_first(missing: Line, error: type[Exception]) -> None:
    stock = stock_with(State.HELD, (Line("mug", 2),))
    with pytest.raises(error):
        stock.reserve("another", (Line("mug", 2), missing), LATER_US)


@pytest.mark.parametrize("state", [None, State.EXPIRED, State.HELD, State.CONFIRMED])
def test_confirm_sells_once(state: State | None) -> None:
    stock = stock_with(state)
    assert stock.confirm(ORDER, TWO_TEAS) is None
    assert stock.confirm(ORDER, TWO_TEAS) is None
    assert stock.reservations[ORDER].state is State.CONFIRMED
    assert pieces(stock) == (8, 0, 2)


def test_confirm_sells_what_the_order_says_whatever_was_held() -> None:
    stock = stock_with(State.HELD)
    assert stock.confirm(ORDER, (Line("mug", 3),)) is None
    assert pieces(stock, "tea") == (10, 0, 0)
    assert pieces(stock, "mug") == (0, 0, 3)
    assert stock.reservations[ORDER].lines == (Line("mug", 3),)


def test_confirm_of_a_closed_reservation_says_no() -> None:
    stock = stock_with(State.CLOSED)
    assert isinstance(stock.confirm(ORDER, TWO_TEAS), Settled)
    assert pieces(stock) == (10, 0, 0)


def test_confirm_of_what_is_gone_says_no_for_ever() -> None:
    stock = stock_with(State.EXPIRED)
    stock.reserve("another", (Line("tea", 9),), LATER_US)
    assert isinstance(stock.confirm(ORDER, TWO_TEAS), OutOfStock)
    stock.release("another")
    assert isinstance(stock.confirm(ORDER, TWO_TEAS), Settled)
    assert pieces(stock) == (10, 0, 0)


def test_confirm_of_a_live_hold_is_never_refused() -> None:
    stock = stock_with(State.HELD, (Line("mug", 3),))
    assert stock.confirm(ORDER, (Line("mug", 3),)) is None


def test_confirm_refused_lets_go_of_the_hold() -> None:
    stock = stock_with(State.HELD)
    assert isinstance(stock.confirm(ORDER, (Line("tea", 11),)), OutOfStock)
    assert pieces(stock) == (10, 0, 0)


@pytest.mark.parametrize("state", [None, *State])
def test_release_gives_everything_back_and_closes(state: State | None) -> None:
    stock = stock_with(state)
    stock.release(ORDER)
    stock.release(ORDER)
    assert stock.reservations[ORDER].state is State.CLOSED
    assert pieces(stock) == (10, 0, 0)


def test_a_release_that_comes_first_shuts_the_door_on_a_late_confirm() -> None:
    stock = stock_with(None)
    stock.release(ORDER)
    assert isinstance(stock.confirm(ORDER, TWO_TEAS), Settled)
    with pytest.raises(Settled):
        stock.reserve(ORDER, TWO_TEAS, LATER_US)


def test_only_holds_whose_time_has_passed_expire() -> None:
    stock = stock_with(State.HELD)
    stock.reserve("later", TWO_TEAS, expires_at_us=101)
    assert stock.expire_due(now_us=99) == 0
    assert stock.expire_due(now_us=100) == 1
    assert stock.expire_due(now_us=100) == 0
    assert stock.reservations[ORDER].state is State.EXPIRED
    assert stock.reservations["later"].state is State.HELD
    assert pieces(stock) == (10, 2, 0)


@pytest.mark.parametrize("state", [State.CONFIRMED, State.CLOSED, State.EXPIRED])
def test_what_is_not_held_does_not_expire(state: State) -> None:
    assert stock_with(state).expire_due(now_us=10**9) == 0


def test_put_journals_the_difference() -> None:
    stock = stock_with(State.CONFIRMED)
    stock.put("tea", "Green tea", unit_price=500, on_hand=20)
    stock.put("tea", "Green tea", unit_price=500, on_hand=5)
    stock.put("tea", "Green tea", unit_price=550, on_hand=5)
    stock.restock("tea", 4)
    assert [entry.pieces for entry in stock.journal] == [12, -15, 4]
    assert pieces(stock) == (9, 0, 2)


def test_put_without_a_description_leaves_it_and_an_empty_one_takes_it_away() -> None:
    stock = stock_with(None)
    assert stock.put("cup", "Cup", unit_price=1, on_hand=1).description == ""
    assert stock.put("tea", "Tea", 450, 10, "First flush").description == "First flush"
    assert stock.put("tea", "Green tea", 450, 10).description == "First flush"
    assert stock.put("tea", "Green tea", 450, 10, "").description == ""


def test_put_below_what_is_held_is_refused() -> None:
    stock = stock_with(State.HELD)
    with pytest.raises(OnHandBelowHeld, match="orders hold 2"):
        stock.put("tea", "Tea", unit_price=1, on_hand=1)
    assert stock.items["tea"] == Item("tea", "Tea", 450, on_hand=10, held=2)
    assert stock.journal == []


def test_restock_stops_at_the_most_that_an_item_can_have() -> None:
    stock = Stock({"tea": Item("tea", "Tea", 450, on_hand=1_000_000_000 - 1)}, {})
    stock.restock("tea", 1)
    with pytest.raises(OnHandAboveLimit, match="more than 1000000000"):
        stock.restock("tea", 1)


def test_a_stock_leaves_what_it_was_given_alone() -> None:
    items, rows = {"tea": TEA}, dict[str, Reservation]()
    Stock(items, rows).reserve(ORDER, TWO_TEAS, LATER_US)
    assert items == {"tea": TEA}
    assert rows == {}
