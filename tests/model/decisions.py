"""What orders makes of each call, and what its relay does."""

from tests.model.participants import confirm_goods, confirm_points, release_goods, release_points
from tests.model.rules import Rules
from tests.model.state import (
    ACCEPTED,
    CANCELLED,
    CONFIRM,
    CONFIRMED,
    REFUSED,
    RELEASE,
    Answer,
    Gateway,
    Message,
    Order,
    State,
    put,
    telling,
    with_order,
)

UNKNOWN: Answer = ("UNKNOWN",)
"""Orders has no row for this key."""


def stored(rules: Rules, order: Order, content: int) -> Answer:
    """What orders says to a request with this content."""
    if rules.content_is_checked and order.content != content:
        return ("422",)
    if order.status == REFUSED:
        return ("409", order.reason)
    return ("201", order.item, order.price, order.redeemed, order.with_loyalty)


def create(rules: Rules, state: State, key: int, content: int, quote: Gateway) -> list[tuple[State, Answer]]:
    """Accepts an order, or gives what was decided before. There is more than one outcome where rules are broken."""
    order = state.orders[key]
    if order is not None and rules.create_is_an_insert:
        return [(state, stored(rules, order, content))]
    if rules.clocks_agree and not quote.lives:
        return [(state, ("EXPIRING",))]
    order = Order(
        ACCEPTED,
        content,
        rules.item_of[content],
        quote.price,
        quote.redeemed,
        quote.earned,
        with_loyalty=quote.with_loyalty,
        points_confirmed=not quote.with_loyalty,
    )
    to_loyalty = CONFIRM if quote.with_loyalty else (RELEASE if rules.without_loyalty_releases else "")
    forgotten = state
    if rules.only_expiry_excuses_a_lost_order:
        world = state.world
        state = state._replace(world=world._replace(expired=put(world.expired, key, False)))
    answer = stored(rules, order, content)
    outcomes = [(with_order(state, key, order, (CONFIRM, to_loyalty)), answer)]
    if not rules.outbox_is_atomic:
        outcomes.append((with_order(state, key, order, ("", "")), ("TIMEOUT",)))
    if not rules.create_is_durable:
        outcomes.append((forgotten, answer))
    return outcomes


def look_up(rules: Rules, state: State, key: int, content: int) -> Answer:
    """Gives what was decided, and decides nothing: a Create whose holds have ended."""
    order = state.orders[key]
    return UNKNOWN if order is None else stored(rules, order, content)


def refuse(rules: Rules, state: State, key: int, content: int, reason: str) -> tuple[State, Answer]:
    """Records a refusal, or gives what was decided before."""
    order = state.orders[key]
    if order is not None:
        return state, stored(rules, order, content) if rules.first_decision_wins else ("409", reason)
    refused = Order(REFUSED, content, rules.item_of[content], reason=reason)
    outbox = (RELEASE, RELEASE) if rules.refuse_releases else ("", "")
    return with_order(state, key, refused, outbox), ("409", reason)


def cancel(rules: Rules, state: State, key: int) -> State:
    """Cancels an order that is not completed."""
    order = state.orders[key]
    assert order is not None
    cancelled = order._replace(status=CANCELLED)
    if not rules.cancel_releases:
        return with_order(state, key, cancelled, ("", ""))
    goods, points = state.outbox[key]
    if rules.cancel_replaces_confirm:
        goods = points = RELEASE
    return with_order(
        state, key, cancelled, (CONFIRM if goods == CONFIRM else RELEASE, CONFIRM if points == CONFIRM else RELEASE)
    )


def sent(rules: Rules, state: State, message: Message) -> tuple[State, Message]:
    """A message of the relay reaches its participant; gives the participant's answer."""
    kind, key, participant = message
    assert isinstance(key, int)
    if kind == CONFIRM:
        order = state.orders[key]
        assert order is not None
        state, said = (confirm_goods, confirm_points)[int(participant)](rules, state, key, order)
    else:
        state, said = (release_goods, release_points)[int(participant)](rules, state, key), "yes"
    return state, (key, participant, kind, said)


def recorded(rules: Rules, state: State, answer: Message) -> State:
    """The relay records what a participant has said."""
    key, participant, kind, said = answer
    assert isinstance(key, int)
    assert isinstance(participant, int)
    order, pending = state.orders[key], state.outbox[key]
    if order is None:
        return state
    if kind == RELEASE:
        done = telling(pending, participant, "")
        return state._replace(outbox=put(state.outbox, key, done)) if pending[participant] == RELEASE else state
    if rules.answers_count_only_while_pending and (order.status != ACCEPTED or pending[participant] != CONFIRM):
        if not rules.cancel_replaces_confirm and order.status == CANCELLED and pending[participant] == CONFIRM:
            return state._replace(outbox=put(state.outbox, key, telling(pending, participant, RELEASE)))
        return state
    if said == "no":
        if not rules.a_no_cancels:
            return with_order(state, key, order, telling(pending, participant, ""))
        return with_order(state, key, order._replace(status=CANCELLED, reason="lost"), (RELEASE, RELEASE))
    order = order._replace(goods_confirmed=True) if participant == 0 else order._replace(points_confirmed=True)
    if (order.goods_confirmed and order.points_confirmed) or not rules.both_confirm:
        order = order._replace(status=CONFIRMED)
    return with_order(state, key, order, telling(pending, participant, ""))
