"""Each rule taken away, in the smallest world that shows why it is there.

What is harmless is said to be so: the rule saves time, or makes the protocol easier to reason about.
"""

from dataclasses import dataclass, replace
from typing import Any

from tests.model.rules import Rules
from tests.model.worlds import PLAIN

MOST_STATES = 2_500_000
SOON = 2_000

_CALM = replace(PLAIN, faults=0)
_ONE_FAULT = replace(PLAIN, faults=1)
_POINTS = replace(_ONE_FAULT, price_changes=1, points=2, redeem_of=(2, 2))
_TWO_ITEMS = replace(_ONE_FAULT, requests=((0, 0), (0, 1)), stock=(1, 1), item_of=(0, 1))
_TWO_KEYS = replace(_CALM, requests=((0, 0), (1, 0)), rivals=False)
_EARNING = replace(_TWO_KEYS, requests=((0, 0), (1, 1)), points=0, redeem_of=(0, 2), earned=2, stock=(2,))
_WITHOUT_LOYALTY = replace(_ONE_FAULT, loyalty_optional=True)
_LOSS = replace(_CALM, losses=1)
_RELEASING = replace(_ONE_FAULT, gateway_releases="naive")


@dataclass(frozen=True)
class Mutation:
    """Rules of which one is broken."""

    what: str
    rules: Rules
    harmless: bool = False

    @property
    def is_found_soon(self) -> bool:
        """Whether it shows within the first `SOON` states: those of the calm worlds do, the others need a fault."""
        return not self.harmless and self.rules.faults == 0


def _without(what: str, world: Rules, *, harmless: bool = False, **broken: Any) -> Mutation:
    return Mutation(what, replace(world, name=what, **broken), harmless)


MUTATIONS = (
    # What passes by itself, and what was lost.
    _without("goods that others hold are refused for good", _CALM, goods_held_by_others_pass=False),
    _without(
        "points that others hold are refused for good",
        replace(_CALM, points=2, redeem_of=(2, 2)),
        points_held_by_others_pass=False,
    ),
    _without("evidence of a lost order is not heeded: it is refused", _LOSS, evidence_is_heeded=False),
    _without("evidence is taken for a loss without asking orders", _CALM, evidence_is_checked=False),
    # Reserve and Hold.
    _without("stock is checked before the update", _TWO_KEYS, stock_is_checked_inside=False),
    _without("Hold with another subtotal is answered from the old hold", _POINTS, other_content="join"),
    _without("Reserve with other lines is answered from the old hold", _TWO_ITEMS, other_content="join"),
    _without("Reserve with other lines replaces the hold", _TWO_ITEMS, other_content="replace"),
    _without("EXPIRED is final", _CALM, expired_is_new=False),
    _without("a repeated Reserve takes twice", replace(_ONE_FAULT, stock=(2,)), reserve_is_idempotent=False),
    _without("Reserve on CONFIRMED answers as if HELD", _CALM, says_settled=False, harmless=True),
    # Confirm, Release, and the janitor.
    _without("Confirm takes what was held, not what the order says", _POINTS, confirm_takes_what_the_order_says=False),
    _without("Confirm of a live hold may be refused", _EARNING, hold_is_promise=False),
    _without("Confirm sells twice", replace(_CALM, stock=(2,)), confirm_once=False),
    _without("Confirm after Release takes the goods again", _ONE_FAULT, closed_is_final=False),
    _without("Release leaves no CLOSED row", _ONE_FAULT, release_leaves_closed=False),
    _without("Release gives back twice", _CALM, release_once=False),
    _without("Release ignores what is CONFIRMED", _CALM, release_undoes_confirmed=False),
    _without("points that were earned are taken back down to 0 only", _EARNING, earned_points_are_taken_back=False),
    _without("the janitor updates rows that it read earlier", _CALM, janitor="blind"),
    _without("the janitor looks at the state again, but not at the time", _CALM, janitor="stale"),
    _without("a no to Confirm is not final at the participant", _ONE_FAULT, a_no_is_final=False, harmless=True),
    # Orders and its relay.
    _without("an outbox row is written outside the transaction", _CALM, outbox_is_atomic=False),
    _without("Create is no insert on a unique key", _CALM, create_is_an_insert=False),
    _without("Create does not look at the end of the holds", _CALM, clocks_agree=False),
    _without("201 before the commit", _CALM, create_is_durable=False),
    _without("the content is not checked", _TWO_ITEMS, content_is_checked=False),
    _without("a refusal is answered and not recorded", _CALM, refusals_are_recorded=False),
    _without("a refusal is answered before it is recorded", _CALM, refused_before_recorded=True),
    _without("Refuse ignores an order that is there", _CALM, first_decision_wins=False),
    _without("an answer counts without a look at the order", _ONE_FAULT, answers_count_only_while_pending=False),
    _without("CONFIRMED after the first yes of two", _CALM, both_confirm=False),
    _without("a no to Confirm does not cancel the order", _CALM, a_no_cancels=False),
    _without("Cancel writes no Release rows", _CALM, cancel_releases=False),
    _without("Cancel keeps a Confirm before its Release", _ONE_FAULT, cancel_replaces_confirm=False, harmless=True),
    _without("Refuse writes no Release rows: the holds expire", _ONE_FAULT, refuse_releases=False, harmless=True),
    _without(
        "an order without loyalty tells it nothing: the hold expires",
        _WITHOUT_LOYALTY,
        without_loyalty_releases=False,
        harmless=True,
    ),
    # Gateways and people that release.
    _without("a gateway releases when it gives up", _RELEASING, gateway_release_undoes_confirmed=False),
    _without("such a Release undoes what is CONFIRMED", _RELEASING, retries_are_tried=False),
    _without("a gateway releases; the last request owns the hold", _ONE_FAULT, gateway_releases="takeover"),
    _without("a gateway releases; the first request owns the hold", _ONE_FAULT, gateway_releases="first"),
    _without("somebody releases an orphan at the participant", _ONE_FAULT, repairs_orphans=True),
    _without("a CLOSED row is pruned while a Confirm may come", _ONE_FAULT, prune="any"),
    _without("a CONFIRMED row is pruned before its order is final", _CALM, prunes_confirmed=True),
)
