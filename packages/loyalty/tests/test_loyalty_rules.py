"""What tiers and points are worth."""

import pytest

from souk_loyalty import rules
from souk_loyalty.rules import Tier


@pytest.mark.parametrize(("tier", "percent"), [(Tier.STANDARD, 0), (Tier.SILVER, 5), (Tier.GOLD, 10)])
def test_a_tier_gives_its_discount(tier: Tier, percent: int) -> None:
    assert rules.discount_percent(tier) == percent


def test_every_tier_gives_a_discount() -> None:
    assert all(0 <= rules.discount_percent(tier) <= 100 for tier in Tier)


@pytest.mark.parametrize(
    ("subtotal", "percent", "discount"),
    [(0, 10, 0), (999, 0, 0), (1000, 5, 50), (19, 5, 0), (20, 5, 1), (999, 10, 99), (10**17, 10, 10**16)],
)
def test_a_discount_is_a_part_of_the_subtotal_rounded_down(subtotal: int, percent: int, discount: int) -> None:
    assert rules.discount(subtotal, percent) == discount


def test_a_point_pays_for_one_minor_unit_of_what_is_left_after_the_discount() -> None:
    assert rules.payable(1000, 50) == 950
    assert rules.total(1000, 50, 30) == 920


def test_points_can_pay_for_the_whole_order() -> None:
    assert rules.total(1000, 50, points_redeemed=rules.payable(1000, 50)) == 0


@pytest.mark.parametrize(("total", "points"), [(0, 0), (99, 0), (100, 1), (199, 1), (920, 9), (10**17, 10**15)])
def test_an_order_earns_a_point_for_every_hundred_minor_units_paid(total: int, points: int) -> None:
    assert rules.points_earned(total) == points
