"""What reservations and loyalty make of each call, in one transaction."""

from tests.model.rules import Rules
from tests.model.state import (
    CLOSED,
    CONFIRMED,
    EXPIRED,
    HELD,
    NONE,
    RELEASED,
    Answer,
    Hold,
    Order,
    Reservation,
    State,
    with_hold,
    with_item,
    with_reservation,
)


def reserve(
    rules: Rules, state: State, key: int, content: int, request: int, *, unchecked: bool = False
) -> tuple[State, Answer]:
    """Holds a piece. `unchecked`: whether there is one was looked at before, outside the transaction."""
    row, item = state.reservations[key], rules.item_of[content]
    if (barred := _barred(rules, row, request)) is not None:
        return state, barred or ("HELD", row.price)
    if row.state == HELD:
        if row.item == item:
            if not rules.reserve_is_idempotent and state.items[item].free:
                state = with_item(state, item, held=+1)
            return with_reservation(state, key, row._replace(owner=_owner(rules, row.owner, request))), (
                "HELD",
                row.price,
            )
        if rules.other_content == "busy":
            return state, ("BUSY",)
        if rules.other_content == "join":
            return state, ("HELD", row.price)
        state = with_item(state, row.item, held=-1)
        state = with_reservation(state, key, Reservation(EXPIRED, row.item, row.price))
    if state.items[item].free >= 1 or unchecked:
        state = with_item(state, item, held=+1)
        price = state.world.price
        return with_reservation(state, key, Reservation(HELD, item, price, request)), ("HELD", price)
    if state.items[item].on_hand >= 1 and rules.goods_held_by_others_pass:
        return state, ("HELD_BY_OTHERS",)
    return state, ("NO", "stock")


def confirm_goods(rules: Rules, state: State, key: int, order: Order) -> tuple[State, str]:
    """Sells what the order says."""
    row = state.reservations[key]
    if row.state == CONFIRMED:
        again = not rules.confirm_once and state.items[row.item].free
        return (with_item(state, row.item, on_hand=-1, sold=+1) if again else state), "yes"
    if _cannot_confirm(rules, row.state):
        return state, "no"
    wanted = order.item if rules.confirm_takes_what_the_order_says else row.item
    if row.state == HELD:
        state = with_item(state, row.item, held=-1)
    promised = rules.hold_is_promise and row.state == HELD and wanted == row.item
    if state.items[wanted].free >= 1 or promised:
        state = with_item(state, wanted, on_hand=-1, sold=+1)
        return with_reservation(state, key, Reservation(CONFIRMED, wanted, row.price)), "yes"
    return with_reservation(state, key, Reservation(_after_no(rules), wanted, row.price)), "no"


def release_goods(rules: Rules, state: State, key: int, by: int | None = None) -> State:
    """Ends a hold, or takes back what was sold. `by` a request, where it is a gateway that gives up."""
    row = state.reservations[key]
    if by is not None and rules.gateway_releases != "naive":
        if row.state == HELD and row.owner == by:
            return with_reservation(with_item(state, row.item, held=-1), key, row._replace(state=RELEASED, owner=by))
        return _marked(state, key, by) if row.state in (NONE, EXPIRED) else state
    final = CLOSED if by is None and rules.gateway_releases != "naive" else RELEASED
    closed = row._replace(state=final, owner=None)
    if row.state == HELD:
        return with_reservation(with_item(state, row.item, held=-1), key, closed)
    if row.state == CONFIRMED:
        if not rules.release_undoes_confirmed or (by is not None and not rules.gateway_release_undoes_confirmed):
            return state
        return with_reservation(with_item(state, row.item, on_hand=+1, sold=-1), key, closed)
    if row.state in (CLOSED, final):
        return state if rules.release_once else with_item(state, row.item, on_hand=+1, sold=-1)
    return with_reservation(state, key, closed) if rules.release_leaves_closed else state


def expire_goods(state: State, key: int) -> State:
    """Ends a hold whose time is over."""
    row = state.reservations[key]
    return with_reservation(with_item(state, row.item, held=-1), key, row._replace(state=EXPIRED, owner=None))


def hold(rules: Rules, state: State, key: int, content: int, request: int, subtotal: int) -> tuple[State, Answer]:
    """Holds points."""
    row, wanted = state.holds[key], min(rules.redeem_of[content], subtotal)
    if (barred := _barred(rules, row, request)) is not None:
        return state, barred or ("HELD", row.redeemed, row.earned)
    if row.state == HELD:
        if (row.subtotal, row.redeemed) == (subtotal, wanted):
            same = row._replace(owner=_owner(rules, row.owner, request))
            return with_hold(state, key, same), ("HELD", row.redeemed, row.earned)
        if rules.other_content == "busy":
            return state, ("BUSY",)
        if rules.other_content == "join":
            return state, ("HELD", row.redeemed, row.earned)
        state = with_hold(state, key, row._replace(state=EXPIRED, owner=None), held=-row.redeemed)
    if state.account.free >= wanted or wanted == 0:
        earned = 0 if wanted else rules.earned
        return with_hold(state, key, Hold(HELD, subtotal, wanted, earned, request), held=wanted), (
            "HELD",
            wanted,
            earned,
        )
    if state.account.points >= wanted and rules.points_held_by_others_pass:
        return state, ("HELD_BY_OTHERS",)
    return state, ("NO", "points")


def confirm_points(rules: Rules, state: State, key: int, order: Order) -> tuple[State, str]:
    """Takes and gives the points that the order says."""
    row = state.holds[key]
    if row.state == CONFIRMED:
        return state, "yes"
    if _cannot_confirm(rules, row.state):
        return state, "no"
    takes = (order.redeemed, order.earned) if rules.confirm_takes_what_the_order_says else (row.redeemed, row.earned)
    redeemed, earned = takes
    if row.state == HELD:
        state = with_hold(state, key, row, held=-row.redeemed)
    promised = rules.hold_is_promise and row.state == HELD and redeemed <= row.redeemed
    if state.account.free >= redeemed or redeemed == 0 or promised:
        return with_hold(state, key, Hold(CONFIRMED, row.subtotal, redeemed, earned), points=earned - redeemed), "yes"
    return with_hold(state, key, row._replace(state=_after_no(rules), owner=None)), "no"


def release_points(rules: Rules, state: State, key: int, by: int | None = None) -> State:
    """Ends a hold, or undoes what was booked; see `release_goods`."""
    row = state.holds[key]
    if by is not None and rules.gateway_releases != "naive":
        if row.state == HELD and row.owner == by:
            return with_hold(state, key, row._replace(state=RELEASED, owner=by), held=-row.redeemed)
        marked = row._replace(state=RELEASED, owner=by)
        return with_hold(state, key, marked) if row.state in (NONE, EXPIRED) else state
    final = CLOSED if by is None and rules.gateway_releases != "naive" else RELEASED
    closed = row._replace(state=final, owner=None)
    if row.state == HELD:
        return with_hold(state, key, closed, held=-row.redeemed)
    if row.state == CONFIRMED:
        if by is not None and not rules.gateway_release_undoes_confirmed:
            return state
        back = row.redeemed - row.earned
        if not rules.earned_points_are_taken_back:
            back = max(back, -state.account.points)
        return with_hold(state, key, closed, points=back)
    if row.state in (CLOSED, final):
        return state if rules.release_once else with_hold(state, key, row, points=row.redeemed)
    return with_hold(state, key, closed) if rules.release_leaves_closed else state


def expire_points(state: State, key: int) -> State:
    """Ends a hold whose time is over."""
    row = state.holds[key]
    return with_hold(state, key, row._replace(state=EXPIRED, owner=None), held=-row.redeemed)


def _barred(rules: Rules, row: Reservation | Hold, request: int) -> Answer | None:
    """The answer of a row that cannot be held any more, () where it passes for HELD; None if it can."""
    if row.state in (CONFIRMED, CLOSED):
        if rules.says_settled:
            return ("SETTLED", row.state)
        return () if row.state == CONFIRMED else ("NO", "released")
    if row.state == RELEASED and rules.gateway_releases != "naive" and row.owner == request:
        return ("NO", "released")
    if row.state == EXPIRED and not rules.expired_is_new:
        return ("NO", "expired")
    return None


def _owner(rules: Rules, owner: object, request: int) -> object:
    if owner == request:
        return owner
    return {"takeover": request, "sole": "shared"}.get(rules.gateway_releases, owner)


def _cannot_confirm(rules: Rules, row_state: str) -> bool:
    if row_state == CLOSED and rules.closed_is_final:
        return True
    return row_state in (RELEASED, NONE) and not rules.confirm_takes_what_the_order_says


def _after_no(rules: Rules) -> str:
    return CLOSED if rules.a_no_is_final else EXPIRED


def _marked(state: State, key: int, by: int) -> State:
    return with_reservation(state, key, state.reservations[key]._replace(state=RELEASED, owner=by))
