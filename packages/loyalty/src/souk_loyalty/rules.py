"""What a tier is worth, and what points are: the business rules, as pure functions.

Money is in minor units (cents), always whole; percentages and points are whole, too, so every division rounds down.
"""

from enum import StrEnum

MINOR_UNITS_PER_EARNED_POINT = 100


class Tier(StrEnum):
    """A customer's standing."""

    STANDARD = "standard"
    SILVER = "silver"
    GOLD = "gold"


_DISCOUNT_PERCENT = {Tier.STANDARD: 0, Tier.SILVER: 5, Tier.GOLD: 10}


def discount_percent(tier: Tier) -> int:
    """The discount that a tier gives on every order."""
    return _DISCOUNT_PERCENT[tier]


def discount(subtotal: int, percent: int) -> int:
    """The discount on an order, in minor units."""
    return subtotal * percent // 100


def payable(subtotal: int, discount: int) -> int:
    """What is left to pay after the discount, in minor units. Redeeming more points than that is refused."""
    return subtotal - discount


def total(subtotal: int, discount: int, points_redeemed: int) -> int:
    """What is paid in money, in minor units: each point that is redeemed pays for one."""
    return payable(subtotal, discount) - points_redeemed


def points_earned(total: int) -> int:
    """The points that an order earns once it is confirmed: for what is paid, not for what points paid for."""
    return total // MINOR_UNITS_PER_EARNED_POINT
