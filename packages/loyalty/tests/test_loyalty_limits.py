"""No sum of points passes 2^53 - 1: orders are refused when they are held, with all that others will earn."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from souk_loyalty.domain import MAX_NUMBER, Account, Hold, Ledger, LimitExceeded, State, counts_pending
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, ExpireDue, PlaceHold, PutAccount, Release
from souk_loyalty.storage import SqlStorage

MOST = MAX_NUMBER
"""That an order may cost."""
EARNED = MOST // 100
ADA = Account("ada", "Ada", Tier.STANDARD, points=0)


def new_id() -> str:
    return str(uuid.uuid4())


def test_an_order_may_cost_as_much_as_can_be_counted_and_no_more() -> None:
    ledger = Ledger({"ada": ADA}, {})
    with pytest.raises(LimitExceeded, match=str(MOST + 1)):
        ledger.place_hold("order", "ada", MOST + 1, 0, 1, 0)
    assert (ledger.accounts, ledger.holds) == ({"ada": ADA}, {})
    assert ledger.place_hold("order", "ada", MOST, 0, 1, 0).points_earned == EARNED


@pytest.mark.parametrize("earned", [0, 1, 1000])
def test_a_high_balance_fills_up_to_the_limit_and_no_further(earned: int) -> None:
    account = ADA._replace(points=MAX_NUMBER - earned)
    assert counts_pending(account, earned)
    ledger = Ledger({"ada": account}, {})
    with pytest.raises(LimitExceeded):
        ledger.place_hold("more", "ada", 100 * (earned + 1), 0, 1, 0)
    ledger.place_hold("order", "ada", 100 * earned, 0, 1, 0)
    with pytest.raises(LimitExceeded):
        ledger.place_hold("more", "ada", 100, 0, 1, 0)
    assert ledger.confirm("order", "ada", 0, earned) is None
    assert ledger.accounts["ada"].points == MAX_NUMBER


@pytest.mark.parametrize("end", ["release", "expire", "confirm for another"])
def test_what_is_no_longer_held_makes_room(end: str) -> None:
    ledger = Ledger({"ada": ADA._replace(points=MAX_NUMBER - 1), "bob": ADA._replace(customer_id="bob")}, {})
    ledger.place_hold("order", "ada", 100, 0, 1, 0)
    if end == "release":
        ledger.release("order")
    elif end == "expire":
        ledger.expire_due(now_us=1)
    else:
        ledger.confirm("order", "bob", 0, 1)
    assert ledger.place_hold("next", "ada", 100, 0, 1, 0).state is State.HELD


def test_an_order_that_was_not_held_is_refused_instead_of_passing_the_limit() -> None:
    full = ADA._replace(points=MAX_NUMBER)
    expired = Hold("order", State.EXPIRED, "ada", subtotal=100, points_earned=1, expires_at_us=1)
    ledger = Ledger({"ada": full}, {"order": expired})
    for order_id in ("order", "unknown"):
        assert isinstance(ledger.confirm(order_id, "ada", 0, 1), LimitExceeded)
        assert ledger.holds[order_id].state is State.CLOSED
    assert ledger.accounts["ada"] == full


async def accepted(storages: list[SqlStorage], subtotal: int, count: int) -> list[str]:
    """The ids of those of so many orders at once that are held."""
    ids = [new_id() for _ in range(count)]
    outcomes: list[Any] = await asyncio.gather(
        *(
            storages[n % len(storages)].execute([PlaceHold(order_id, "ada", subtotal, 0, ttl_us=60_000_000)])
            for n, order_id in enumerate(ids)
        )
    )
    for (outcome,) in outcomes:
        assert isinstance(outcome, Hold | LimitExceeded)
    return [order_id for order_id, (outcome,) in zip(ids, outcomes, strict=True) if isinstance(outcome, Hold)]


async def test_all_that_is_held_at_the_same_time_can_be_confirmed(open_storage: Callable[[], SqlStorage]) -> None:
    storages = [open_storage(), open_storage()]
    await storages[0].execute([PutAccount("ada", "Ada", Tier.STANDARD, 0)])
    held = await accepted(storages, MOST, 120)
    assert len(held) == 99
    assert await storages[1].execute([Confirm(order_id, "ada", 0, EARNED) for order_id in held]) == [None] * 99
    held = await accepted(storages, MOST, 3)
    assert len(held) == 1
    assert await storages[0].execute([Confirm(held[0], "ada", 0, EARNED)]) == [None]
    assert MAX_NUMBER - 100 <= (await storages[0].account("ada")).points <= MAX_NUMBER
    assert await accepted(storages, MOST, 1) == []


async def test_released_and_expired_orders_make_room_for_others(
    storage: SqlStorage, advance: Callable[[float], None]
) -> None:
    await storage.execute([PutAccount("ada", "Ada", Tier.STANDARD, 0)])
    held = await accepted([storage], MOST, 100)
    assert len(held) == 99
    await storage.execute([Release(held[0])])
    assert len(await accepted([storage], MOST, 2)) == 1
    advance(61)
    await storage.execute([ExpireDue(200)])
    assert len(await accepted([storage], MOST, 100)) == 99
    # None of those that expired was promised anything.
    (no,) = await storage.execute([Confirm(held[1], "ada", 0, EARNED)])
    assert isinstance(no, LimitExceeded)
