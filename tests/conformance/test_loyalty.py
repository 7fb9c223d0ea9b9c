"""What loyalty alone must do: discounts, points that are earned, and points that are taken back."""

from uuid import uuid4

import grpc
import pytest

from souk_contracts.loyalty.v1 import GetAccountRequest, Tier
from tests.conformance.participants import Balance, Loyalty, State, refusal


@pytest.mark.parametrize(
    ("tier", "subtotal", "redeem", "quote"),
    [
        (Tier.STANDARD, 1899, 0, (0, 0, 0, 18)),
        (Tier.SILVER, 1899, 0, (5, 94, 0, 18)),
        (Tier.GOLD, 1899, 100, (10, 189, 100, 16)),
        (Tier.GOLD, 199, 180, (10, 19, 180, 0)),
        (Tier.GOLD, 0, 0, (10, 0, 0, 0)),
    ],
)
async def test_the_quote_follows_the_tier(
    loyalty: Loyalty, tier: Tier, subtotal: int, redeem: int, quote: tuple[int, int, int, int]
) -> None:
    customer = await loyalty.account(0)
    await loyalty.put_account(customer, tier, 500)
    answer = await loyalty.quote(str(uuid4()), customer, subtotal, redeem)
    assert (answer.discount_percent, answer.discount, answer.points_redeemed, answer.points_earned) == quote


async def test_a_live_hold_keeps_its_discount(loyalty: Loyalty) -> None:
    customer, order_id = await loyalty.account(100), str(uuid4())
    await loyalty.quote(order_id, customer, 1000, 10)
    await loyalty.put_account(customer, Tier.GOLD, 100)
    assert (await loyalty.quote(order_id, customer, 1000, 10)).discount_percent == 0
    assert (await loyalty.quote(str(uuid4()), customer, 1000, 10)).discount_percent == 10


async def test_another_subtotal_is_other_content(loyalty: Loyalty) -> None:
    customer, order_id = await loyalty.account(100), str(uuid4())
    await loyalty.quote(order_id, customer, 1000, 10)
    assert (await refusal(loyalty.quote(order_id, customer, 1001, 10))).reason == "BUSY"


async def test_no_more_points_are_redeemed_than_there_is_to_pay(loyalty: Loyalty) -> None:
    customer, order_id = await loyalty.account(0), str(uuid4())
    await loyalty.put_account(customer, Tier.GOLD, 5000)
    no = await refusal(loyalty.quote(order_id, customer, 1000, 901))
    assert (no.code, no.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REDEEM_EXCEEDS_TOTAL")
    assert no.metadata == {"requested": "901", "payable": "900"}
    assert await loyalty.state(order_id) is State.NONE
    await loyalty.quote(order_id, customer, 1000, 900)


async def test_earned_points_come_with_the_confirm_and_not_before(loyalty: Loyalty) -> None:
    customer, order_id = await loyalty.account(100), str(uuid4())
    await loyalty.quote(order_id, customer, 1000, 0)
    assert await loyalty.balance(customer) == Balance(100, 0)
    for _ in range(2):
        assert await loyalty.confirm(order_id, customer, 0, earned=10) == ""
    assert await loyalty.balance(customer) == Balance(110, 0)


async def test_a_confirm_gives_exactly_the_points_that_the_order_says(loyalty: Loyalty) -> None:
    customer, order_id = await loyalty.account(100), str(uuid4())
    await loyalty.quote(order_id, customer, 1000, 40)
    assert await loyalty.confirm(order_id, customer, 30, earned=7) == ""
    row = await loyalty.row(order_id)
    assert (row.points_redeemed, row.points_earned) == (30, 7)
    assert await loyalty.balance(customer) == Balance(77, 0)
    await loyalty.release(order_id)
    assert await loyalty.balance(customer) == Balance(100, 0)


async def test_the_balance_goes_negative_for_earned_points_that_were_spent(loyalty: Loyalty) -> None:
    customer, earning, spending = await loyalty.account(0), str(uuid4()), str(uuid4())
    assert await loyalty.confirm(earning, customer, 0, earned=50) == ""
    assert await loyalty.confirm(spending, customer, 50) == ""
    for _ in range(2):
        await loyalty.release(earning)
    assert await loyalty.balance(customer) == Balance(-50, 0)
    await loyalty.quote(str(uuid4()), customer, 1000, 0)  # who redeems nothing needs nothing
    assert (await refusal(loyalty.quote(str(uuid4()), customer, 1000, 1))).metadata["available"] == "0"


async def test_a_live_hold_is_a_promise_also_where_points_were_taken_back(loyalty: Loyalty) -> None:
    customer, earning, spending = await loyalty.account(0), str(uuid4()), str(uuid4())
    assert await loyalty.confirm(earning, customer, 0, earned=50) == ""
    await loyalty.quote(spending, customer, 1000, 50)
    await loyalty.release(earning)
    assert await loyalty.confirm(spending, customer, 50) == ""
    assert await loyalty.balance(customer) == Balance(-50, 0)


async def test_a_customer_who_is_not_there_is_not_found(loyalty: Loyalty) -> None:
    no = await refusal(loyalty.stub.get_account(GetAccountRequest(customer_id="nobody")))
    assert (no.code, no.reason, no.metadata) == (
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_CUSTOMER",
        {"customer_id": "nobody"},
    )


@pytest.mark.parametrize(
    ("customer_id", "subtotal", "redeem", "field"),
    [("", 1, 0, "customer_id"), ("a b", 1, 0, "customer_id"), ("a", -1, 0, "subtotal"), ("a", 1, -1, "redeem_points")],
)
async def test_a_hold_that_cannot_be_meant_is_refused_by_name(
    loyalty: Loyalty, customer_id: str, subtotal: int, redeem: int, field: str
) -> None:
    no = await refusal(loyalty.quote(str(uuid4()), customer_id, subtotal, redeem))
    assert (no.code, no.reason, no.metadata) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        {"field": field},
    )
