"""Everything that can happen next."""

from collections.abc import Iterator

from tests.model import gateway
from tests.model.decisions import cancel, recorded, sent
from tests.model.participants import expire_goods, expire_points, release_goods
from tests.model.rules import ANY_NUMBER, Rules
from tests.model.state import (
    ACCEPTED,
    CANCELLED,
    CLOSED,
    COMPLETED,
    CONFIRM,
    CONFIRMED,
    EXPIRED,
    HELD,
    NONE,
    PARTICIPANTS,
    REFUSED,
    RELEASE,
    RELEASED,
    Hold,
    Lost,
    Message,
    Reservation,
    State,
    put,
    with_hold,
    with_order,
    with_reservation,
)

Step = tuple[str, State]
"""What happens, and the state after it."""

_OF_THE_RELAY = (CONFIRM, RELEASE)
_JANITOR = "janitor"


def steps(rules: Rules, state: State) -> Iterator[Step]:
    """Every step that the world can take."""
    for request in range(len(rules.requests)):
        yield from _of_a_request(rules, state, request)
    for message in state.network:
        yield from _late(rules, state, message)
    for key in range(len(state.orders)):
        yield from _of_the_relay(rules, state, key)
    for answer in state.answers:
        yield from _recorded(rules, state, answer)
    for key in range(len(state.orders)):
        yield from _of_an_order(rules, state, key)
        yield from _of_time(rules, state, key)
        yield from _pruned(rules, state, key)
    yield from _of_the_shop(rules, state)


def without_leases(rules: Rules, state: State, key: int) -> State:
    """A hold of this key has expired: quotes that were made from it are no longer good."""
    gateways = list(state.gateways)
    for request, (its_key, _) in enumerate(rules.requests):
        late = any(message[:2] == ("Create", request) for message in state.network)
        if its_key == key and (gateways[request].step in ("Hold", "Create") or late):
            gateways[request] = gateways[request]._replace(lives=False)
    world = state.world
    left = world.expiries - (world.expiries != ANY_NUMBER)
    world = world._replace(expired=put(world.expired, key, True), expiries=left)
    return state._replace(gateways=tuple(gateways), world=world)


def _spent(state: State) -> State:
    return state._replace(world=state.world._replace(faults=state.world.faults - 1))


def _of_a_request(rules: Rules, state: State, request: int) -> Iterator[Step]:
    key, content = rules.requests[request]
    step = state.gateways[request].step
    if step == "idle":
        # Retries start in their order: they are alike otherwise.
        if all(
            state.gateways[other].step != "idle"
            for other, wanted in enumerate(rules.requests[:request])
            if wanted == (key, content)
        ):
            label = f"request {request} (key {key}, content {content}) reaches a gateway"
            yield label, gateway.moved(state, request, "Reserve")
        return
    if step == "done":
        return
    who = f"G{request}[key {key}]"
    if (
        step == "Reserve"
        and not rules.stock_is_checked_inside
        and state.reservations[key].state in (NONE, EXPIRED, RELEASED)
        and state.items[rules.item_of[content]].free
    ):
        yield f"{who} Reserve: reads that there is stock", gateway.moved(state, request, "Reserve unchecked")
        return
    message = gateway.message_of(state, request)
    for after, answer in gateway.run(rules, state, message):
        yield f"{who} {message[0]}{message[2:] or ''} -> {answer}", gateway.answered(rules, after, request, answer)
    yield f"{who} dies", gateway.finished(rules, state, request, ("dead",))
    if not state.world.faults:
        return
    spent = _spent(state)
    stalled = spent._replace(network=spent.network | {message})
    for label, after in gateway.timed_out(rules, stalled, request):
        yield f"{who} {message[0]} stalls in the network; {label}", after
    for ran, answer in gateway.run(rules, spent, message):
        for label, after in gateway.timed_out(rules, ran, request):
            yield f"{who} {message[0]} runs ({answer}) but the answer is lost; {label}", after
        repeated = ran._replace(network=ran.network | {message})
        label = f"{who} {message[0]} -> {answer}, and a copy stays in the network"
        yield label, gateway.answered(rules, repeated, request, answer)


def _late(rules: Rules, state: State, message: Message) -> Iterator[Step]:
    after = state._replace(network=state.network - {message})
    if message[0] == _JANITOR:
        key = int(message[1])
        is_held = state.reservations[key].state == HELD
        if is_held or (state.reservations[key].state == CONFIRMED and rules.janitor == "blind"):
            yield f"janitor expires what it read before: reservation {key}", expire_goods(after, key)
    elif message[0] in _OF_THE_RELAY:
        kind, key_of_it, participant = message
        after, answer = sent(rules, after, message)
        label = f"late {kind} runs at {PARTICIPANTS[int(participant)]}[{key_of_it}] -> {answer[-1]}"
        yield label, after._replace(answers=after.answers | {answer})
    else:
        for ran, said in gateway.run(rules, after, message):
            yield f"late {message[0]} of G{message[1]} runs -> {said}", ran


def _of_the_relay(rules: Rules, state: State, key: int) -> Iterator[Step]:
    for participant, kind in enumerate(state.outbox[key]):
        if not kind:
            continue
        where = f"{PARTICIPANTS[participant]}[{key}]"
        message = (kind, key, participant)
        after, answer = sent(rules, state, message)
        yield f"relay {kind} runs at {where} -> {answer[-1]}", after._replace(answers=after.answers | {answer})
        if state.world.faults:
            spent = _spent(state)
            yield f"relay {kind} to {where} stalls in the network", spent._replace(network=spent.network | {message})


def _recorded(rules: Rules, state: State, answer: Message) -> Iterator[Step]:
    key, participant, kind, said = answer
    after = recorded(rules, state, answer)
    order = after.orders[int(key)]
    status = "unknown" if order is None else order.status
    label = f"relay records {kind} {said} of {PARTICIPANTS[int(participant)]}[{key}]: order {status}"
    yield label, after._replace(answers=after.answers - {answer})


def _of_an_order(rules: Rules, state: State, key: int) -> Iterator[Step]:
    order = state.orders[key]
    if order is None:
        if rules.repairs_orphans and state.reservations[key].state == HELD:
            released = release_goods(rules, state, key)
            closed = released.reservations[key]._replace(state=CLOSED)
            yield f"somebody releases the orphan reservation {key}", with_reservation(released, key, closed)
        return
    if rules.completes and order.status == CONFIRMED:
        yield f"order {key} is completed", with_order(state, key, order._replace(status=COMPLETED))
    if rules.cancels and order.status in (ACCEPTED, CONFIRMED):
        yield f"order {key} is cancelled", cancel(rules, state, key)
    if state.world.losses and _nothing_is_under_way(rules, state, key):
        yield f"the orders database goes back to before order {key}", _lost(state, key)


def _nothing_is_under_way(rules: Rules, state: State, key: int) -> bool:
    """To put a database back takes longer than any request or message lives."""
    return all(
        state.gateways[request].step in ("idle", "done")
        for request, (its_key, _) in enumerate(rules.requests)
        if its_key == key
    ) and not any(_is_about(rules, message, key) for message in state.network)


def _is_about(rules: Rules, message: Message, key: int) -> bool:
    if message[0] == _JANITOR:
        return False
    if message[0] in _OF_THE_RELAY:
        return message[1] == key
    return rules.requests[int(message[1])][0] == key


def _lost(state: State, key: int) -> State:
    world = state.world
    lost = Lost(happened=True, proved=state.reservations[key].state == CONFIRMED)
    world = world._replace(losses=world.losses - 1, lost=put(world.lost, key, lost))
    state = with_order(state, key, None, ("", ""))
    answers = frozenset(answer for answer in state.answers if answer[0] != key)
    return state._replace(world=world, answers=answers, told=put(state.told, key, frozenset()))


def _of_time(rules: Rules, state: State, key: int) -> Iterator[Step]:
    is_held = state.reservations[key].state == HELD
    read = (_JANITOR, key)
    if rules.janitor != "atomic" and is_held and read not in state.network:
        due = state._replace(network=state.network | {read})
        yield f"janitor reads that reservation {key} is due", without_leases(rules, due, key)
    if not state.world.expiries:
        return
    if rules.janitor == "atomic" and is_held:
        yield f"reservation {key} expires", without_leases(rules, expire_goods(state, key), key)
    if state.holds[key].state == HELD:
        yield f"loyalty hold {key} expires", without_leases(rules, expire_points(state, key), key)


def _pruned(rules: Rules, state: State, key: int) -> Iterator[Step]:
    order = state.orders[key]
    if order is None or state.outbox[key] != ("", ""):
        return
    if rules.prunes_confirmed and order.status == CONFIRMED and state.reservations[key].state == CONFIRMED:
        yield f"confirmed reservation {key} is pruned", with_reservation(state, key, Reservation())
    if rules.prune == "no" or order.status not in (CANCELLED, REFUSED):
        return
    if rules.prune == "quiet" and any(message[0] in _OF_THE_RELAY and message[1] == key for message in state.network):
        return
    if state.reservations[key].state == CLOSED:
        yield f"closed reservation {key} is pruned", with_reservation(state, key, Reservation())
    if state.holds[key].state == CLOSED:
        yield f"closed hold {key} is pruned", with_hold(state, key, Hold())


def _of_the_shop(rules: Rules, state: State) -> Iterator[Step]:
    world = state.world
    if world.price_changes:
        cheaper = world._replace(price=1, price_changes=world.price_changes - 1)
        yield "the price falls", state._replace(world=cheaper)
    if world.restocks:
        item = state.items[0]
        more = item._replace(on_hand=item.on_hand + 1, put_in=item.put_in + 1)
        after = state._replace(items=put(state.items, 0, more))
        yield "restock", after._replace(world=world._replace(restocks=world.restocks - 1))
    if rules.rivals:
        yield from _of_rivals(rules, state)


def _of_rivals(rules: Rules, state: State) -> Iterator[Step]:
    for number, item in enumerate(state.items):
        if item.others:
            left = item.on_hand - item.others
            back = item._replace(others=0)
            bought = back._replace(on_hand=left, put_in=item.put_in - item.others, lowest=min(item.lowest, left))
            yield f"rivals give item {number} back", state._replace(items=put(state.items, number, back))
            yield f"rivals buy item {number}", state._replace(items=put(state.items, number, bought))
        elif item.free > 0:
            held = item._replace(others=item.free)
            yield f"rivals hold what is free of item {number}", state._replace(items=put(state.items, number, held))
    account = state.account
    if not max(rules.redeem_of):
        return
    if account.others:
        left = account.points - account.others
        spent = account._replace(
            points=left, others=0, spent=account.spent + account.others, lowest=min(account.lowest, left)
        )
        yield "the customer's other orders give points back", state._replace(account=account._replace(others=0))
        yield "the customer's other orders spend points", state._replace(account=spent)
    elif account.free > 0:
        yield "the customer's other orders hold points", state._replace(account=account._replace(others=account.free))
