"""Puts: what they leave alone, their conditions, and what Souk itself made of the numbers that they set."""

import grpc
import pytest
from test_loyalty_rpc import refused

from souk_contracts.loyalty.v1 import (
    Account,
    AccountEdit,
    ConfirmRequest,
    GetAccountRequest,
    HoldRequest,
    LoyaltyStub,
    PutAccountRequest,
    ReleaseRequest,
    Tier,
)
from souk_loyalty import domain, rules
from souk_loyalty.domain import InvalidArgument, Ledger, PointsBelowHeld, PreconditionFailed
from souk_loyalty.revisions import ANY, Condition

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
ADA = domain.Account("ada", "Ada", rules.Tier.SILVER, points=100)


async def put(
    stub: LoyaltyStub, *, tier: Tier = Tier.STANDARD, points: int = -1, edit: AccountEdit | None = None
) -> Account:
    request = PutAccountRequest(customer_id="ada", name="Ada", tier=tier, points=points, edit=edit)
    account = (await stub.put_account(request)).account
    assert account is not None
    return account


async def spend(stub: LoyaltyStub) -> None:
    """Leaves 10 points less than none: they were earned, redeemed, and taken back."""
    await put(stub, points=0)
    await stub.confirm(ConfirmRequest(order_id=ORDER, customer_id="ada", points_earned=10))
    other = ORDER.replace("1", "2")
    await stub.hold(HoldRequest(order_id=other, customer_id="ada", subtotal=10, redeem_points=10))
    await stub.confirm(ConfirmRequest(order_id=other, customer_id="ada", points_redeemed=10))
    await stub.release(ReleaseRequest(order_id=ORDER))


async def test_points_below_zero_do_not_stop_a_change_of_the_tier(stub: LoyaltyStub) -> None:
    await spend(stub)
    before = (await stub.get_account(GetAccountRequest(customer_id="ada"))).account
    assert before is not None
    assert before.points == -10
    silver = await put(stub, tier=Tier.SILVER, edit=AccountEdit(revisions=[before.revision]))
    assert (silver.tier, silver.points) == (Tier.SILVER, -10)
    # What GET shows can be put.
    assert (await put(stub, tier=Tier.GOLD, points=-10)).points == -10
    assert (await put(stub, tier=Tier.GOLD, edit=AccountEdit(points=-10))).points == -10
    refusal = await refused(stub.put_account(PutAccountRequest(customer_id="ada", name="A", tier=Tier.GOLD, points=-9)))
    assert refusal.metadata == {"field": "points"}


async def test_points_count_only_for_a_put_that_sets_them(stub: LoyaltyStub) -> None:
    before = await put(stub, points=100)
    await stub.confirm(ConfirmRequest(order_id=ORDER, customer_id="ada", points_earned=10))
    condition = [before.revision]
    request = PutAccountRequest(
        customer_id="ada", name="Ada", tier=Tier.GOLD, points=-1, edit=AccountEdit(points=100, revisions=condition)
    )
    refusal = await refused(stub.put_account(request))
    assert (refusal.reason, refusal.code) == ("PRECONDITION_FAILED", grpc.StatusCode.FAILED_PRECONDITION)
    assert refusal.metadata == {"customer_id": "ada"}
    after = await put(stub, tier=Tier.GOLD, edit=AccountEdit(revisions=condition))
    assert (after.tier, after.points) == (Tier.GOLD, 110)


async def test_an_edit_needs_the_number_that_older_versions_refuse(stub: LoyaltyStub) -> None:
    request = PutAccountRequest(customer_id="ada", name="Ada", tier=Tier.GOLD, points=0, edit=AccountEdit())
    assert (await refused(stub.put_account(request))).metadata == {"field": "points"}
    many = AccountEdit(revisions=["a"] * 17)
    request = PutAccountRequest(customer_id="ada", name="Ada", tier=Tier.GOLD, points=-1, edit=many)
    assert (await refused(stub.put_account(request))).metadata == {"field": "revisions"}


def test_a_put_without_points_leaves_them_and_journals_nothing() -> None:
    ledger = Ledger({"ada": ADA._replace(points=-20, points_held=30)}, {})
    assert ledger.put("ada", "Ada L.", rules.Tier.GOLD, None).points == -20
    assert ledger.put("bob", "Bob", rules.Tier.GOLD, None).points == 0
    assert ledger.journal == []


@pytest.mark.parametrize("points", [5, 10**12 + 1, -5])
def test_the_points_that_there_are_can_be_put_whatever_they_are(points: int) -> None:
    ledger = Ledger({"ada": ADA._replace(points=points, points_held=30)}, {})
    assert ledger.put("ada", "Ada", rules.Tier.GOLD, points).tier is rules.Tier.GOLD
    with pytest.raises(PointsBelowHeld):
        ledger.put("ada", "Ada", rules.Tier.GOLD, 29)
    for other in (-1, 10**12 + 2):
        with pytest.raises(InvalidArgument):
            ledger.put("ada", "Ada", rules.Tier.GOLD, other)


@pytest.mark.parametrize(
    "changed", [{"name": "A"}, {"tier": rules.Tier.GOLD}, {"tier_expires_at_us": 1}, {"points": 99}]
)
def test_a_revision_changes_with_all_that_a_put_sets(changed: dict[str, object]) -> None:
    assert ADA._replace(**changed).revision != ADA.revision  # type: ignore[arg-type]
    assert ADA._replace(points_held=1).revision == ADA.revision


GOLD = ADA._replace(tier=rules.Tier.GOLD)


@pytest.mark.parametrize(
    ("there", "condition", "is_met"),
    [
        (None, ANY, True),
        (None, Condition(must_be_new=True), True),
        (None, Condition(must_exist=True), False),
        (None, Condition((ADA.revision,)), False),
        (ADA, Condition((ADA.revision,)), True),
        (ADA, Condition((GOLD.revision, ADA.revision)), True),
        (ADA, Condition((GOLD.revision,)), False),
        (ADA, Condition(must_exist=True), True),
        (ADA, Condition(must_be_new=True), False),
    ],
)
@pytest.mark.parametrize("points", [None, 5])
def test_a_put_takes_effect_if_its_condition_is_met(
    there: domain.Account | None, condition: Condition, is_met: bool, points: int | None
) -> None:
    accounts = {"ada": there} if there else {}
    ledger = Ledger(accounts, {})
    if is_met:
        assert ledger.put("ada", "A", rules.Tier.SILVER, points, condition=condition).name == "A"
    else:
        with pytest.raises(PreconditionFailed):
            ledger.put("ada", "A", rules.Tier.SILVER, points, condition=condition)
        assert ledger.accounts == accounts


def test_a_repetition_of_what_was_carried_out_succeeds_and_changes_nothing() -> None:
    ledger = Ledger({"ada": ADA}, {})
    again = Condition((GOLD.revision,), is_repeat=True)
    assert ledger.put("ada", "Ada", rules.Tier.SILVER, 100, condition=again) == ADA
    assert ledger.journal == []
    with pytest.raises(PreconditionFailed):
        ledger.put("ada", "Ada", rules.Tier.SILVER, 99, condition=again)
