"""The state table of a hold, cell by cell, and the sums of the points."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from souk_loyalty.domain import (
    Account,
    Busy,
    DomainError,
    HeldByOthers,
    Hold,
    InsufficientPoints,
    Ledger,
    PointsBelowHeld,
    RedeemExceedsTotal,
    Settled,
    State,
    UnknownCustomer,
)
from souk_loyalty.rules import Tier

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
ADA = Account("ada", "Ada", Tier.SILVER, points=100)
BOB = Account("bob", "Bob", Tier.STANDARD, points=5)
NOW_US = 50
LATER_US = 1_000
EARNED = 9
"""By an order of 1000 less 5 percent less 30 points: 920."""


def ledger_with(state: State | None) -> Ledger:
    """Ada's hundred points and Bob's five; the order's hold is in a state, with 30 of Ada's points on 1000."""
    ledger = Ledger({"ada": ADA, "bob": BOB}, {})
    if state is None:
        return ledger
    if state is State.CLOSED:
        ledger.release(ORDER)
        return ledger
    ledger.place_hold(ORDER, "ada", 1000, 30, expires_at_us=100, now_us=NOW_US)
    if state is State.CONFIRMED:
        ledger.confirm(ORDER, "ada", 30, EARNED)
    elif state is State.EXPIRED:
        ledger.expire_due(now_us=100)
    return ledger


def points(ledger: Ledger, customer_id: str = "ada") -> tuple[int, int]:
    account = ledger.accounts[customer_id]
    return account.points, account.points_held


def everything(ledger: Ledger) -> tuple[dict[str, Account], dict[str, Hold], int]:
    return dict(ledger.accounts), dict(ledger.holds), len(ledger.journal)


def take_back_what_was_earned_and_spent(ledger: Ledger) -> None:
    """Leaves Ada with 20 points, 30 of which the order holds."""
    ledger.confirm("earns", "ada", 0, 70)
    ledger.confirm("spends", "ada", 80, 0)
    ledger.place_hold("spends more", "ada", 1000, 60, LATER_US, now_us=NOW_US)
    ledger.release("earns")
    ledger.release("spends more")


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_a_hold_fixes_the_discount_and_sets_the_points_aside(state: State | None) -> None:
    ledger = ledger_with(state)
    hold = ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    assert hold == Hold(
        order_id=ORDER,
        state=State.HELD,
        customer_id="ada",
        subtotal=1000,
        redeem_points=30,
        discount_percent=5,
        discount=50,
        points_redeemed=30,
        points_earned=EARNED,
        expires_at_us=LATER_US,
    )
    assert points(ledger) == (100, 30)


def test_an_expired_hold_may_be_taken_anew_with_other_content_and_todays_tier() -> None:
    ledger = ledger_with(State.EXPIRED)
    ledger.put("bob", "Bob", Tier.GOLD, 5)
    hold = ledger.place_hold(ORDER, "bob", 500, 1, LATER_US, now_us=NOW_US)
    assert (hold.customer_id, hold.discount, hold.points_redeemed, hold.points_earned) == ("bob", 50, 1, 4)
    assert (points(ledger, "ada"), points(ledger, "bob")) == ((100, 0), (5, 1))


def test_a_hold_repeated_gives_the_same_quote_and_a_new_time_even_if_the_tier_changed() -> None:
    ledger = ledger_with(State.HELD)
    first = ledger.holds[ORDER]
    ledger.put("ada", "Ada", Tier.GOLD, 100)
    again = ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    assert again == first._replace(expires_at_us=LATER_US)
    assert points(ledger) == (100, 30)


@pytest.mark.parametrize(("expires_at_us", "percent"), [(0, 5), (NOW_US + 1, 5), (NOW_US, 0), (1, 0)])
def test_a_tier_that_has_expired_is_worth_no_more_than_the_standard_one(expires_at_us: int, percent: int) -> None:
    ledger = ledger_with(None)
    ledger.put("ada", "Ada", Tier.SILVER, 100, expires_at_us)
    hold = ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    discount = 10 * percent
    assert (hold.discount_percent, hold.discount) == (percent, discount)
    assert hold.points_earned == (1000 - discount - 30) // 100
    assert ledger.accounts["ada"].tier is Tier.SILVER


def test_a_hold_keeps_its_quote_when_the_tier_expires_and_once_it_is_taken_anew_has_another() -> None:
    ledger = ledger_with(None)
    ledger.put("ada", "Ada", Tier.SILVER, 100, NOW_US + 1)
    ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    assert ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US + 1).discount == 50
    ledger.expire_due(LATER_US)
    assert ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US + 9, now_us=LATER_US).discount == 0


def test_put_without_an_expiry_leaves_it_and_one_of_0_takes_it_away() -> None:
    ledger = ledger_with(None)
    assert ledger.put("eve", "Eve", Tier.GOLD, 7).tier_expires_at_us == 0
    assert ledger.put("ada", "Ada", Tier.SILVER, 100, 77).tier_expires_at_us == 77
    assert ledger.put("ada", "Ada", Tier.GOLD, 100).tier_expires_at_us == 77
    assert ledger.put("ada", "Ada", Tier.GOLD, 100, 0).tier_expires_at_us == 0


@pytest.mark.parametrize("content", [("bob", 1000, 30), ("ada", 1001, 30), ("ada", 1000, 29)])
def test_a_hold_with_other_content_is_busy(content: tuple[str, int, int]) -> None:
    ledger = ledger_with(State.HELD)
    before = everything(ledger)
    with pytest.raises(Busy):
        ledger.place_hold(ORDER, *content, LATER_US, now_us=NOW_US)
    assert everything(ledger) == before


@pytest.mark.parametrize("state", [State.CONFIRMED, State.CLOSED])
def test_a_hold_after_the_end_is_settled(state: State) -> None:
    ledger = ledger_with(state)
    before = everything(ledger)
    with pytest.raises(Settled) as refusal:
        ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    assert refusal.value.metadata == {"state": state.value}
    assert everything(ledger) == before


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_a_hold_of_more_points_than_are_free_is_refused_and_changes_nothing(state: State | None) -> None:
    ledger = ledger_with(state)
    ledger.place_hold("another", "ada", 1000, 80, LATER_US, now_us=NOW_US)
    before = everything(ledger)
    for redeemed, error in ((21, HeldByOthers), (100, HeldByOthers), (101, InsufficientPoints)):
        with pytest.raises(error, match=f"redeems {redeemed} points of 'ada', but 20 are") as refusal:
            ledger.place_hold(ORDER, "ada", 1000, redeemed, LATER_US, now_us=NOW_US)
        assert refusal.value.metadata == {"customer_id": "ada", "requested": str(redeemed), "available": "20"}
        assert everything(ledger) == before
    ledger.place_hold(ORDER, "ada", 1000, 20, LATER_US, now_us=NOW_US)
    assert points(ledger) == (100, 100)


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_a_hold_of_more_points_than_is_left_to_pay_is_refused_and_changes_nothing(state: State | None) -> None:
    ledger = ledger_with(state)
    before = everything(ledger)
    with pytest.raises(RedeemExceedsTotal) as refusal:
        ledger.place_hold(ORDER, "ada", 60, 58, LATER_US, now_us=NOW_US)
    assert refusal.value.metadata == {"requested": "58", "payable": "57"}
    assert everything(ledger) == before
    assert ledger.place_hold(ORDER, "ada", 60, 57, LATER_US, now_us=NOW_US).points_earned == 0


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_a_hold_for_an_unknown_customer_is_refused_and_changes_nothing(state: State | None) -> None:
    ledger = ledger_with(state)
    before = everything(ledger)
    with pytest.raises(UnknownCustomer, match="'eve'"):
        ledger.place_hold(ORDER, "eve", 1000, 0, LATER_US, now_us=NOW_US)
    assert everything(ledger) == before


def test_redeeming_nothing_is_possible_with_a_negative_balance() -> None:
    ledger = Ledger({"ada": ADA._replace(points=-7)}, {})
    assert ledger.place_hold(ORDER, "ada", 1000, 0, LATER_US, now_us=NOW_US).discount == 50
    assert ledger.confirm(ORDER, "ada", 0, 9) is None
    assert points(ledger) == (2, 0)
    ledger.release(ORDER)
    with pytest.raises(InsufficientPoints, match="0 are available"):
        ledger.place_hold("another", "ada", 1000, 1, LATER_US, now_us=NOW_US)


@pytest.mark.parametrize("state", [None, State.EXPIRED, State.HELD, State.CONFIRMED])
def test_confirm_takes_and_gives_points_once(state: State | None) -> None:
    ledger = ledger_with(state)
    assert ledger.confirm(ORDER, "ada", 30, EARNED) is None
    assert ledger.confirm(ORDER, "ada", 30, EARNED) is None
    assert ledger.holds[ORDER].state is State.CONFIRMED
    assert points(ledger) == (79, 0)


@pytest.mark.parametrize("state", [None, State.EXPIRED, State.HELD])
def test_confirm_takes_what_the_order_says_whatever_was_held(state: State | None) -> None:
    ledger = ledger_with(state)
    assert ledger.confirm(ORDER, "bob", 5, 2) is None
    assert (points(ledger, "ada"), points(ledger, "bob")) == ((100, 0), (2, 0))
    hold = ledger.holds[ORDER]
    assert (hold.customer_id, hold.points_redeemed, hold.points_earned) == ("bob", 5, 2)


def test_confirm_may_take_more_than_was_held_where_it_is_there() -> None:
    ledger = ledger_with(State.HELD)
    assert ledger.confirm(ORDER, "ada", 100, 0) is None
    assert points(ledger) == (0, 0)


def test_confirm_of_a_closed_hold_says_no() -> None:
    ledger = ledger_with(State.CLOSED)
    before = everything(ledger)
    assert isinstance(ledger.confirm(ORDER, "ada", 30, EARNED), Settled)
    assert everything(ledger) == before


@pytest.mark.parametrize("state", [None, State.EXPIRED])
def test_confirm_of_points_that_are_gone_says_no_for_ever(state: State | None) -> None:
    ledger = ledger_with(state)
    ledger.place_hold("another", "ada", 1000, 71, LATER_US, now_us=NOW_US)
    assert isinstance(ledger.confirm(ORDER, "ada", 30, EARNED), InsufficientPoints)
    assert ledger.holds[ORDER].state is State.CLOSED
    ledger.release("another")
    assert isinstance(ledger.confirm(ORDER, "ada", 30, EARNED), Settled)
    assert points(ledger) == (100, 0)


@pytest.mark.parametrize("state", [None, State.EXPIRED, State.HELD])
def test_confirm_for_an_unknown_customer_says_no_and_lets_go_of_the_hold(state: State | None) -> None:
    ledger = ledger_with(state)
    assert isinstance(ledger.confirm(ORDER, "eve", 0, EARNED), UnknownCustomer)
    assert ledger.holds[ORDER].state is State.CLOSED
    assert points(ledger) == (100, 0)
    assert "eve" not in ledger.accounts


def test_confirm_refused_lets_go_of_the_hold() -> None:
    ledger = ledger_with(State.HELD)
    assert isinstance(ledger.confirm(ORDER, "ada", 101, EARNED), InsufficientPoints)
    assert ledger.holds[ORDER].state is State.CLOSED
    assert points(ledger) == (100, 0)


@pytest.mark.parametrize("redeemed", [30, 25])
def test_confirm_of_held_points_is_never_refused_even_where_points_were_taken_back(redeemed: int) -> None:
    ledger = ledger_with(State.HELD)
    take_back_what_was_earned_and_spent(ledger)
    assert points(ledger) == (20, 30)
    assert ledger.confirm(ORDER, "ada", redeemed, 0) is None
    assert points(ledger) == (20 - redeemed, 0)


def test_a_hold_promises_no_more_than_it_holds() -> None:
    ledger = ledger_with(State.HELD)
    take_back_what_was_earned_and_spent(ledger)
    assert isinstance(ledger.confirm(ORDER, "ada", 31, 0), InsufficientPoints)
    assert points(ledger) == (20, 0)


def test_a_hold_promises_nothing_to_another_customer() -> None:
    ledger = ledger_with(State.HELD)
    assert isinstance(ledger.confirm(ORDER, "bob", 30, 0), InsufficientPoints)
    assert (points(ledger, "ada"), points(ledger, "bob")) == ((100, 0), (5, 0))


@pytest.mark.parametrize("state", [None, *State])
def test_release_gives_everything_back_once_and_closes(state: State | None) -> None:
    ledger = ledger_with(state)
    ledger.release(ORDER)
    ledger.release(ORDER)
    assert ledger.holds[ORDER].state is State.CLOSED
    assert points(ledger) == (100, 0)


def test_a_release_that_comes_first_shuts_the_door_on_a_late_confirm() -> None:
    ledger = ledger_with(None)
    ledger.release(ORDER)
    assert ledger.holds[ORDER] == Hold(ORDER, State.CLOSED)
    assert isinstance(ledger.confirm(ORDER, "ada", 30, EARNED), Settled)
    with pytest.raises(Settled):
        ledger.place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)


def test_points_that_were_earned_and_spent_are_taken_back_all_the_same() -> None:
    ledger = ledger_with(State.CONFIRMED)
    ledger.confirm("spends all", "ada", 79, 0)
    ledger.confirm("earns", "ada", 0, 5)
    ledger.confirm("spends that", "ada", 5, 0)
    ledger.release("earns")
    assert points(ledger) == (-5, 0)


def test_only_holds_whose_time_has_passed_expire() -> None:
    ledger = ledger_with(State.HELD)
    ledger.place_hold("later", "ada", 1000, 20, expires_at_us=101, now_us=NOW_US)
    assert ledger.expire_due(now_us=99) == 0
    assert ledger.expire_due(now_us=100) == 1
    assert ledger.expire_due(now_us=100) == 0
    assert ledger.holds[ORDER].state is State.EXPIRED
    assert ledger.holds["later"].state is State.HELD
    assert points(ledger) == (100, 20)


@pytest.mark.parametrize("state", [State.CONFIRMED, State.CLOSED, State.EXPIRED])
def test_what_is_not_held_does_not_expire(state: State) -> None:
    ledger = ledger_with(state)
    before = everything(ledger)
    assert ledger.expire_due(now_us=10**9) == 0
    assert everything(ledger) == before


def test_put_creates_an_account_and_changes_it_and_journals_the_difference() -> None:
    ledger = ledger_with(State.CONFIRMED)
    assert ledger.put("eve", "Eve", Tier.GOLD, 7) == Account("eve", "Eve", Tier.GOLD, points=7)
    ledger.put("ada", "Ada L.", Tier.GOLD, 100)
    ledger.put("ada", "Ada L.", Tier.STANDARD, 100)
    ledger.put("ada", "Ada L.", Tier.STANDARD, 60)
    ledger.put("bert", "Bert", Tier.STANDARD, 0)
    assert [(entry.customer_id, entry.points) for entry in ledger.journal] == [("eve", 7), ("ada", 21), ("ada", -40)]
    assert ledger.accounts["ada"] == Account("ada", "Ada L.", Tier.STANDARD, points=60)


def test_put_leaves_held_points_held() -> None:
    ledger = ledger_with(State.HELD)
    ledger.put("ada", "Ada", Tier.GOLD, 30)
    assert points(ledger) == (30, 30)


def test_put_below_what_is_held_is_refused_and_changes_nothing() -> None:
    ledger = ledger_with(State.HELD)
    before = everything(ledger)
    with pytest.raises(PointsBelowHeld, match="orders hold 30") as refusal:
        ledger.put("ada", "Ada", Tier.GOLD, 29)
    assert refusal.value.metadata == {"customer_id": "ada", "held": "30"}
    assert everything(ledger) == before


def test_a_ledger_leaves_what_it_was_given_alone() -> None:
    accounts, rows = {"ada": ADA}, dict[str, Hold]()
    Ledger(accounts, rows).place_hold(ORDER, "ada", 1000, 30, LATER_US, now_us=NOW_US)
    assert accounts == {"ada": ADA}
    assert rows == {}


def test_an_order_that_moves_no_points_leaves_its_account_as_it_was() -> None:
    ledger = ledger_with(None)
    ledger.place_hold(ORDER, "ada", 50, 0, LATER_US, now_us=NOW_US)
    ledger.confirm(ORDER, "ada", 0, 0)
    assert ledger.accounts["ada"] is ADA


_order_ids = st.sampled_from(["o1", "o2", "o3", "o4"])
_customer_ids = st.sampled_from(["ada", "bob", "eve"])
_points = st.integers(0, 12)
_calls = st.one_of(
    st.tuples(
        st.just("place_hold"), _order_ids, _customer_ids, st.sampled_from([10, 100, 900]), _points, _points, _points
    ),
    st.tuples(st.just("confirm"), _order_ids, _customer_ids, _points, _points),
    st.tuples(st.just("release"), _order_ids),
    st.tuples(st.just("expire_due"), _points),
    st.tuples(st.just("put"), _customer_ids, st.just("A"), st.sampled_from(Tier), _points, st.none() | _points),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(_calls, max_size=40))
def test_whoever_asks_for_what_points_are_neither_made_nor_lost_nor_held_twice(
    calls: list[tuple[Any, ...]],
) -> None:
    ledger = Ledger({}, {})
    ledger.put("ada", "Ada", Tier.GOLD, 20)
    ledger.put("bob", "Bob", Tier.STANDARD, 10)
    for name, *arguments in calls:
        before = everything(ledger)
        held = {hold.order_id: hold for hold in ledger.holds.values() if hold.state is State.HELD}
        try:
            outcome = getattr(ledger, name)(*arguments)
        except DomainError:
            assert everything(ledger) == before
        else:
            if name == "place_hold" and outcome.order_id not in held and outcome.points_redeemed:
                account = ledger.accounts[outcome.customer_id]
                assert account.points_held <= account.points
            if name == "confirm":
                check_promise(held, arguments, outcome)
        check_sums(ledger)


def check_promise(held: dict[str, Hold], arguments: list[Any], outcome: DomainError | None) -> None:
    """A live hold of this customer, of at least these points, is never refused."""
    order_id, customer_id, redeemed, _ = arguments
    if order_id in held and held[order_id].customer_id == customer_id and redeemed <= held[order_id].points_redeemed:
        assert outcome is None


def check_sums(ledger: Ledger) -> None:
    for customer_id, account in ledger.accounts.items():
        own = [hold for hold in ledger.holds.values() if hold.customer_id == customer_id]
        put_in = sum(entry.points for entry in ledger.journal if entry.customer_id == customer_id)
        moved = sum(hold.points_earned - hold.points_redeemed for hold in own if hold.state is State.CONFIRMED)
        assert account.points == put_in + moved
        assert account.points_held == sum(hold.points_redeemed for hold in own if hold.state is State.HELD)
