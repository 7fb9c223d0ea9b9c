"""The gateway: the steps of a request, and what it makes of each answer."""

from tests.model.decisions import UNKNOWN, create, look_up, refuse
from tests.model.participants import hold, release_goods, release_points, reserve
from tests.model.rules import Rules
from tests.model.state import CONFIRMED, FINISHED, Answer, Message, State, put, with_gateway

FINAL = ("201", "409", "422")
"""Answers that a client gets again for the same key and content."""


def moved(state: State, request: int, step: str, **changes: object) -> State:
    """The request goes on to a step."""
    return with_gateway(state, request, state.gateways[request]._replace(step=step, **changes))  # type: ignore[arg-type]


def finished(rules: Rules, state: State, request: int, answer: Answer) -> State:
    """The client gets its answer; final ones are remembered."""
    key, content = rules.requests[request]
    # A late Create needs to know whether its holds live.
    late = any(message[:2] == ("Create", request) for message in state.network)
    gateway = state.gateways[request]._replace(step="done") if late else FINISHED
    state = with_gateway(state, request, gateway)
    return told(state, key, content, answer) if answer[0] in FINAL else state


def told(state: State, key: int, content: int, answer: Answer) -> State:
    """A client has this answer."""
    return state._replace(told=put(state.told, key, state.told[key] | {(content, answer)}))


def message_of(state: State, request: int) -> Message:
    """What a request asks next."""
    gateway = state.gateways[request]
    match gateway.step:
        case "Hold":
            return ("Hold", request, gateway.price)
        case "Create":
            return ("Create", request, gateway.price, gateway.redeemed, gateway.earned, gateway.with_loyalty)
        case "Refuse":
            return ("Refuse", request, gateway.reason[-1])
    return (gateway.step, request)


def run(rules: Rules, state: State, message: Message) -> list[tuple[State, Answer]]:
    """A message of a gateway reaches its callee."""
    kind, request = message[0], message[1]
    assert isinstance(request, int)
    key, content = rules.requests[request]
    match kind:
        case "Reserve" | "Reserve unchecked":
            return [reserve(rules, state, key, content, request, unchecked=kind != "Reserve")]
        case "Hold":
            return [hold(rules, state, key, content, request, int(message[2]))]
        case "Create":
            _, _, price, redeemed, earned, with_loyalty = message
            quote = state.gateways[request]._replace(
                price=int(price), redeemed=int(redeemed), earned=int(earned), with_loyalty=bool(with_loyalty)
            )
            return create(rules, state, key, content, quote)
        case "Refuse":
            return [refuse(rules, state, key, content, str(message[2]))]
        case "look up":
            return [(state, look_up(rules, state, key, content))]
        case "release goods":
            return [(release_goods(rules, state, key, request), ("DONE",))]
        case "release points":
            return [(release_points(rules, state, key, request), ("DONE",))]
    raise AssertionError(message)


def answered(rules: Rules, state: State, request: int, answer: Answer) -> State:
    """What the gateway does next."""
    step, reason = state.gateways[request].step, state.gateways[request].reason
    if step == "release goods":
        return moved(state, request, "release points")
    if step == "release points":
        return finished(rules, state, request, reason)
    if answer[0] == "HELD":
        return _held(state, request, answer)
    if answer[0] in ("SETTLED", "NO", "HELD_BY_OTHERS"):
        return _not_held(rules, state, request, answer)
    if answer == ("EXPIRING",):
        return _given_up(rules, state, request, ("503",))
    # BUSY, or what orders has decided.
    seen = {("TIMEOUT",): ("503",), UNKNOWN: ("lost",)}.get(answer, answer)
    return finished(rules, state, request, seen)


def timed_out(rules: Rules, state: State, request: int) -> list[tuple[str, State]]:
    """What the gateway may do where its call was not answered, besides asking again."""
    gateway = state.gateways[request]
    match gateway.step:
        case "Reserve" | "Reserve unchecked" | "Hold" | "Create" if rules.keyless:
            return [("asks Refuse", moved(state, request, "Refuse", reason=("409", "unavailable")))]
        case "Create" | "Refuse" | "look up":
            return [("503, outcome unknown", finished(rules, state, request, ("503",)))]
        case "release goods":
            return [("goes on", moved(state, request, "release points"))]
        case "release points":
            return [("answers", finished(rules, state, request, gateway.reason))]
    outcomes = [("gives up, 503", _given_up(rules, state, request, ("503",)))]
    if gateway.step == "Hold" and rules.loyalty_optional:
        without = moved(state, request, "Create", redeemed=0, earned=0, with_loyalty=False)
        outcomes.append(("goes on without loyalty", without))
        if rules.gateway_releases != "never":
            sent = without._replace(network=without.network | {("release points", request)})
            outcomes.append(("goes on without loyalty, releasing", sent))
    return outcomes


def _held(state: State, request: int, answer: Answer) -> State:
    if state.gateways[request].step == "Hold":
        _, redeemed, earned = answer
        return moved(state, request, "Create", redeemed=redeemed, earned=earned)
    return moved(state, request, "Hold", price=answer[1], lives=True)


def _not_held(rules: Rules, state: State, request: int, answer: Answer) -> State:
    if answer[0] == "NO":
        return _refused(rules, state, request, str(answer[1]))
    if answer[0] == "HELD_BY_OTHERS":  # it passes by itself
        if rules.keyless:
            return moved(state, request, "Refuse", reason=("409", "held by others"))
        return finished(rules, state, request, answer)
    # The order is settled: orders knows how, or has lost it.
    if answer[1] == CONFIRMED and rules.evidence_is_heeded:
        return (
            moved(state, request, "look up") if rules.evidence_is_checked else finished(rules, state, request, answer)
        )
    return moved(state, request, "Refuse", reason=("409", "settled"))


def _refused(rules: Rules, state: State, request: int, why: str) -> State:
    if not rules.refusals_are_recorded:
        return _given_up(rules, state, request, ("409", why))
    if rules.refused_before_recorded:
        state = told(state, *rules.requests[request], ("409", why))
    return moved(state, request, "Refuse", reason=("409", why))


def _given_up(rules: Rules, state: State, request: int, answer: Answer) -> State:
    if rules.gateway_releases == "never":
        return finished(rules, state, request, answer)
    return moved(state, request, "release goods", reason=answer)
