"""Bounded worlds in which the rules must hold, each small enough to see all of it, and two for walks."""

from dataclasses import replace

from tests.model.rules import Rules

PLAIN = Rules()
_POINTS = replace(PLAIN, points=2, redeem_of=(2, 2))
_TWO_ITEMS = replace(PLAIN, stock=(1, 1), item_of=(0, 1))
_EARNING = replace(
    PLAIN, requests=((0, 0), (1, 1)), rivals=False, points=0, redeem_of=(0, 2), earned=2, stock=(2,), faults=0
)


def _skewed(rules: Rules) -> Rules:
    """Clocks differ without bound: an order may be lost, but never goods, points or a second answer."""
    return replace(rules, clocks_agree=False, only_expiry_excuses_a_lost_order=False)


WORLDS = tuple(
    replace(rules, name=name)
    for name, rules in {
        "1 key, 2 requests, 2 faults": PLAIN,
        "1 key, 2 requests, 2 faults, clocks skewed": _skewed(PLAIN),
        "1 key, 2 requests, 3 faults": replace(PLAIN, faults=3),
        "1 key, 3 requests, 1 fault": replace(PLAIN, requests=((0, 0),) * 3, faults=1),
        "points redeemed, the price falls, 1 fault": replace(_POINTS, faults=1, price_changes=1),
        "points redeemed, the price falls, 1 fault, skewed": _skewed(replace(_POINTS, faults=1, price_changes=1)),
        "a key used again for another order, 1 fault": replace(_TWO_ITEMS, requests=((0, 0), (0, 1)), faults=1),
        "a key used again, 3 requests, no fault": replace(_TWO_ITEMS, requests=((0, 0), (0, 0), (0, 1)), faults=0),
        "a key used again, 1 fault, skewed": _skewed(replace(_TWO_ITEMS, requests=((0, 0), (0, 1)), faults=1)),
        "loyalty optional, 2 faults": replace(PLAIN, loyalty_optional=True),
        "loyalty optional, points, 1 fault, skewed": _skewed(replace(_POINTS, faults=1, loyalty_optional=True)),
        "earned points taken back, 2 keys, no fault": _EARNING,
        "earned points taken back, 2 keys, 1 fault, 2 expiries": replace(_EARNING, faults=1, expiries=2),
        "2 keys for 1 piece, 1 fault": replace(PLAIN, requests=((0, 0), (1, 0)), rivals=False, faults=1),
        "2 keys for 1 piece, 3 requests, no fault, 2 expiries, a restock": replace(
            PLAIN, requests=((0, 0), (0, 0), (1, 0)), rivals=False, faults=0, expiries=2, restocks=1
        ),
        "2 keys for 2 points, no fault": replace(
            _POINTS, requests=((0, 0), (1, 1)), rivals=False, faults=0, stock=(2,)
        ),
        "no key, 1 request, 3 faults": replace(PLAIN, requests=((0, 0),), faults=3, keyless=True),
        "complete races cancel, 1 fault": replace(PLAIN, faults=1, completes=True),
        "CLOSED rows pruned once nothing can come, 1 fault": replace(PLAIN, faults=1, prune="quiet"),
        "a gateway may release a hold that only it asked for, 2 faults": replace(PLAIN, gateway_releases="sole"),
        "the orders database goes back, 1 fault": replace(PLAIN, faults=1, losses=1),
        "the orders database goes back, points, 2 keys, no fault": replace(
            _POINTS, requests=((0, 0), (0, 0), (1, 1)), rivals=False, faults=0, losses=1, stock=(2,), expiries=2
        ),
        "the orders database goes back twice, a key used again, no fault": replace(
            _TWO_ITEMS, requests=((0, 0), (0, 0), (0, 1)), faults=0, losses=2, rivals=False
        ),
    }.items()
)

_BIG = Rules(
    requests=((0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (2, 1), (2, 1)),
    item_of=(0, 1),
    redeem_of=(2, 1),
    stock=(1, 1),
    points=2,
    earned=1,
    faults=8,
    price_changes=1,
    restocks=1,
    loyalty_optional=True,
    completes=True,
)
WALKED = (
    replace(_BIG, name="3 keys, 7 requests, 8 faults"),
    replace(_skewed(_BIG), name="3 keys, 7 requests, 8 faults, skewed, pruned", prune="quiet"),
    replace(_BIG, name="3 keys, 7 requests, 8 faults, 2 losses", losses=2),
)
