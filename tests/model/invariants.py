"""What must hold: in every state, and once the world has come to rest."""

from tests.model import gateway
from tests.model.decisions import recorded, sent
from tests.model.participants import expire_goods, expire_points
from tests.model.rules import Rules
from tests.model.state import (
    ACCEPTED,
    CANCELLED,
    COMPLETED,
    CONFIRMED,
    FINISHED,
    HELD,
    REFUSED,
    RELEASED,
    Answer,
    Order,
    State,
    with_hold,
    with_reservation,
)
from tests.model.steps import without_leases

_MOST_STEPS = 12
"""That a quiet request takes, or rounds that the relay needs."""


def broken_now(rules: Rules, state: State) -> str:
    """What is wrong with this state, as a sentence; empty if nothing is."""
    for number, item in enumerate(state.items):
        rows = [row for row in state.reservations if row.item == number]
        if item.on_hand + item.sold != item.put_in:
            return f"pieces of item {number} were made or lost: {item}"
        if not 0 <= item.held + item.others <= item.on_hand:
            return f"item {number} is oversold: {item}"
        if item.sold != sum(row.state == CONFIRMED for row in rows) and not rules.prunes_confirmed:
            return f"item {number}: {item.sold} sold is not what is CONFIRMED"
        if item.held != sum(row.state == HELD for row in rows):
            return f"item {number}: {item.held} held is not what is HELD"
    booked = sum(row.earned - row.redeemed for row in state.holds if row.state == CONFIRMED)
    if state.account.points + state.account.spent != rules.points + booked:
        return f"points were made or lost: {state.account}"
    if state.account.held != sum(row.redeemed for row in state.holds if row.state == HELD):
        return "points held are not what is HELD"
    for key, order in enumerate(state.orders):
        if wrong := _answers(rules, state, key, order) or _decision(rules, state, key, order):
            return f"key {key}: {wrong}"
    return ""


def _answers(rules: Rules, state: State, key: int, order: Order | None) -> str:
    first: dict[int, Answer] = {}
    for content, answer in state.told[key]:
        if first.setdefault(content, answer) != answer:
            return f"two final answers to one request: {first[content]} and {answer}"
        if answer[0] == "409" and order is not None and order.status != REFUSED:
            return f"the client was told {answer}, and yet there is an order, {order.status}"
        if answer[0] == "201" and answer[1] != rules.item_of[content]:
            return f"content {content} was answered with another request's order"
        if answer[0] == "201" and (order is None or order.status == REFUSED):
            return "the client was told 201, and there is no order"
    return ""


def _decision(rules: Rules, state: State, key: int, order: Order | None) -> str:
    if state.world.lost[key].proved and (order is not None or state.reservations[key].state != CONFIRMED):
        status = "nothing" if order is None else order.status
        return (
            f"its goods were sold and its order was lost, and now it is {status}, its goods {state.reservations[key]}"
        )
    if order is None:
        return ""
    if order.status == CANCELLED and order.reason == "lost" and not state.world.expired[key]:
        return "an accepted order was lost though no hold of it expired"
    if order.redeemed > order.price:
        return f"the order redeems {order.redeemed} points on a subtotal of {order.price}"
    if order.reason == "stock" and state.items[order.item].lowest >= 1:
        return "it was refused for good, though others only held its goods and never bought them"
    if order.reason == "points" and state.account.lowest >= rules.redeem_of[order.content]:
        return "it was refused for good, though others only held its points and never spent them"
    return ""


def broken_at_rest(rules: Rules, state: State, known: dict[State, str]) -> str:
    """What is wrong once nothing disturbs the world any more, also for a client that then tries again."""
    rested, wrong = _at_rest(rules, state)
    if wrong:
        return wrong
    if rested not in known:
        known[rested] = broken_now(rules, rested) or _unsettled(rested) or _retries(rules, rested)
    return known[rested]


def _at_rest(rules: Rules, state: State) -> tuple[State, str]:
    """No more faults, clients or late messages: the relay empties the outbox, the janitor ends what is HELD."""
    finished = (FINISHED,) * len(state.gateways)
    state = state._replace(network=frozenset(), answers=frozenset(), gateways=finished)
    for _ in range(_MOST_STEPS):
        before = state
        for key in range(len(state.outbox)):
            for participant in (0, 1):
                if kind := state.outbox[key][participant]:
                    state, answer = sent(rules, state, (kind, key, participant))
                    state = recorded(rules, state, answer)
        if state == before:
            break
    else:
        return state, "the outbox never empties"
    for key in range(len(state.orders)):
        if state.reservations[key].state == HELD:
            state = without_leases(rules, expire_goods(state, key), key)
        if state.holds[key].state == HELD:
            state = without_leases(rules, expire_points(state, key), key)
    # What is left of the budgets makes no difference any more.
    world = state.world._replace(faults=0, price_changes=0, restocks=0, expiries=0, losses=0)
    return state._replace(world=world), ""


def _unsettled(state: State) -> str:
    for key, order in enumerate(state.orders):
        goods, points = state.reservations[key], state.holds[key]
        if order is not None and order.status == ACCEPTED:
            return f"order {key} stays ACCEPTED for ever"
        if order is not None and order.status in (CONFIRMED, COMPLETED):
            if goods.state != CONFIRMED or goods.item != order.item:
                return f"order {key} is CONFIRMED, but its reservation is {goods}"
            booked = (points.redeemed, points.earned) == (order.redeemed, order.earned)
            if order.with_loyalty and not (points.state == CONFIRMED and booked):
                return f"order {key} is CONFIRMED with {order.redeemed} points redeemed, but loyalty says {points}"
            if not order.with_loyalty and points.state == CONFIRMED:
                return f"order {key} goes without loyalty, but its hold is CONFIRMED"
        elif CONFIRMED in (goods.state, points.state) and not (order is None and state.world.lost[key].happened):
            return f"order {key} is {order.status if order else 'nothing'}, but something is CONFIRMED"
    return ""


def _retries(rules: Rules, state: State) -> str:
    """Each request comes once more, alone and without faults."""
    if not rules.retries_are_tried:
        return ""
    for request, (key, content) in enumerate(rules.requests):
        after, last = _tried(rules, state, request)
        before = [answer for its_content, answer in state.told[key] if its_content == content]
        wrong = ""
        # Where CLOSED rows are pruned, goods that others hold may hide for a moment what orders has decided.
        hidden = rules.prune != "no" and _may_stay_open(rules, state, key, content, last)
        if before and last != before[0] and not hidden:
            wrong = f"was told {before[0]}, and a quiet retry is told {last}"
        elif not before and last[0] != "201" and _could_be_had(rules, state, key, content):
            wrong = f"is poisoned: no order, goods and points are there, and a quiet retry is told {last}"
        elif last[0] not in gateway.FINAL and not _may_stay_open(rules, state, key, content, last):
            wrong = f"a quiet retry gets no final answer: {last}"
        if wrong:
            return f"key {key} {wrong}"
        after, wrong = _at_rest(rules, after)
        if wrong := wrong or broken_now(rules, after) or _unsettled(after):
            return f"after a quiet retry: {wrong}"
    return ""


def _could_be_had(rules: Rules, state: State, key: int, content: int) -> bool:
    return (
        state.orders[key] is None
        and not state.world.lost[key].happened
        and state.items[rules.item_of[content]].free >= 1
        and state.account.free >= min(rules.redeem_of[content], state.world.price)
    )


def _may_stay_open(rules: Rules, state: State, key: int, content: int, last: Answer) -> bool:
    if last[0] == "lost":
        return state.world.lost[key].happened
    item, account = state.items[rules.item_of[content]], state.account
    return last[0] == "HELD_BY_OTHERS" and bool(item.others or account.others)


def _tried(rules: Rules, state: State, request: int) -> tuple[State, Answer]:
    key, _ = rules.requests[request]
    # It is a new request: what gateways of an earlier one marked as theirs is not its own.
    if state.reservations[key].state == RELEASED:
        state = with_reservation(state, key, state.reservations[key]._replace(owner=None))
    if state.holds[key].state == RELEASED:
        state = with_hold(state, key, state.holds[key]._replace(owner=None))
    state = gateway.moved(state, request, "Reserve", lives=True)
    answer: Answer = ("none",)
    for _ in range(_MOST_STEPS):
        message = gateway.message_of(state, request)
        reason = state.gateways[request].reason
        ran, answer = gateway.run(rules, state, message)[0]
        state = gateway.answered(rules, ran, request, answer)
        if state.gateways[request].step == "done":
            break
        if message[0] == "release points":
            answer = reason
    return state, _to_the_client(answer)


def _to_the_client(answer: Answer) -> Answer:
    seen: dict[str, Answer] = {"UNKNOWN": ("lost",), "SETTLED": ("lost",), "EXPIRING": ("503",), "TIMEOUT": ("503",)}
    return seen.get(str(answer[0]), answer)
