"""The service over a real server on loopback."""

import inspect
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import pytest

from souk_contracts.channel import served_by
from souk_contracts.errors import Refused, refusal_of
from souk_contracts.loyalty.v1 import (
    Account,
    AccountEdit,
    ConfirmRequest,
    ErrorReason,
    GetAccountRequest,
    GetHoldRequest,
    Hold,
    HoldRequest,
    HoldResponse,
    HoldState,
    ListAccountsRequest,
    LoyaltyStub,
    PutAccountRequest,
    ReleaseRequest,
    Tier,
)
from souk_loyalty import __version__, domain, rules
from souk_loyalty.servicer import STATUSES
from souk_loyalty.storage import SqlStorage

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
ADA = PutAccountRequest(customer_id="ada", name="Ada", tier=Tier.SILVER, points=100)


def hold_request(order_id: str = ORDER, *, customer_id: str = "ada", redeem_points: int = 30) -> HoldRequest:
    return HoldRequest(order_id=order_id, customer_id=customer_id, subtotal=1000, redeem_points=redeem_points)


def confirm_request(order_id: str = ORDER, *, customer_id: str = "ada", points_redeemed: int = 30) -> ConfirmRequest:
    return ConfirmRequest(order_id=order_id, customer_id=customer_id, points_redeemed=points_redeemed, points_earned=9)


async def refused(call: Awaitable[object]) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = refusal_of(caught.value)
    assert refusal is not None, caught.value
    assert refusal.domain == "loyalty.souk"
    return refusal


async def test_an_order_goes_its_way(stub: LoyaltyStub) -> None:
    await stub.put_account(ADA)
    assert await stub.hold(hold_request()) == HoldResponse(
        discount_percent=5, discount=50, points_redeemed=30, points_earned=9, expires_at_us=1_060_000_000
    )
    held = Hold(
        order_id=ORDER,
        state=HoldState.HELD,
        customer_id="ada",
        points_redeemed=30,
        points_earned=9,
        expires_at_us=1_060_000_000,
    )
    assert (await stub.get_hold(GetHoldRequest(order_id=ORDER))).hold == held
    account = Account(customer_id="ada", name="Ada", tier=Tier.SILVER, discount_percent=5, points=100, points_held=30)
    read = (await stub.get_account(GetAccountRequest(customer_id="ada"))).account
    assert read is not None
    assert replace(read, revision="") == account
    answer = await stub.confirm(confirm_request())
    assert (answer.confirmed, answer.reason, answer.detail) == (True, ErrorReason.UNSPECIFIED, "")
    (account,) = (await stub.list_accounts(ListAccountsRequest())).accounts
    assert (account.points, account.points_held) == (79, 0)
    await stub.release(ReleaseRequest(order_id=ORDER))
    (account,) = (await stub.list_accounts(ListAccountsRequest())).accounts
    assert (account.points, account.points_held) == (100, 0)


async def test_a_hold_that_was_closed_before_it_was_placed_names_no_customer(stub: LoyaltyStub) -> None:
    await stub.release(ReleaseRequest(order_id=ORDER))
    answer = await stub.get_hold(GetHoldRequest(order_id=ORDER))
    assert answer.hold == Hold(order_id=ORDER, state=HoldState.CLOSED)


async def test_confirm_says_no_and_why(stub: LoyaltyStub) -> None:
    await stub.put_account(ADA)
    poor, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    for request, reason in [
        (confirm_request(poor, points_redeemed=101), ErrorReason.INSUFFICIENT_POINTS),
        (confirm_request(unknown, customer_id="eve"), ErrorReason.UNKNOWN_CUSTOMER),
        (confirm_request(poor), ErrorReason.SETTLED),
        (confirm_request(unknown), ErrorReason.SETTLED),
    ]:
        answer = await stub.confirm(request)
        assert (answer.confirmed, answer.reason) == (False, reason)
        assert answer.detail


@pytest.mark.parametrize("tier", rules.Tier)
async def test_every_tier_goes_over_the_wire_with_its_discount(stub: LoyaltyStub, tier: rules.Tier) -> None:
    wanted = PutAccountRequest(customer_id="ada", name="Ada", tier=Tier[tier.name], points=0)
    account = (await stub.put_account(wanted)).account
    assert account is not None
    assert (account.tier, account.discount_percent) == (wanted.tier, rules.discount_percent(tier))


async def test_a_tier_counts_until_it_expires(stub: LoyaltyStub, advance: Callable[[float], None]) -> None:
    expires_at_us = 1_000_000_000 + 60_000_000
    wanted = PutAccountRequest(
        customer_id="ada", name="Ada", tier=Tier.GOLD, points=0, tier_expires_at_us=expires_at_us
    )

    async def percents() -> set[int]:
        """What the account says, wherever it is shown, and what an order gets."""
        hold = await stub.hold(hold_request(str(uuid.uuid4()), redeem_points=0))
        accounts = [
            (await stub.get_account(GetAccountRequest(customer_id="ada"))).account,
            *(await stub.list_accounts(ListAccountsRequest())).accounts,
        ]
        found = {hold.discount_percent}
        for account in accounts:
            assert account is not None
            assert (account.tier, account.tier_expires_at_us) == (Tier.GOLD, expires_at_us)
            found.add(account.discount_percent)
        return found

    account = (await stub.put_account(wanted)).account
    assert account is not None
    assert account.discount_percent == 10
    advance(59)
    assert await percents() == {10}
    advance(1)
    assert await percents() == {0}


async def test_an_expiry_is_kept_until_it_is_put_anew(stub: LoyaltyStub) -> None:
    async def put(tier_expires_at_us: int | None) -> int:
        wanted = PutAccountRequest(
            customer_id="ada", name="Ada", tier=Tier.GOLD, points=0, tier_expires_at_us=tier_expires_at_us
        )
        account = (await stub.put_account(wanted)).account
        assert account == (await stub.get_account(GetAccountRequest(customer_id="ada"))).account
        assert account is not None
        return account.tier_expires_at_us

    last = 253_402_300_799_999_999
    assert [await put(each) for each in (None, last, None, 0)] == [0, last, last, 0]


def test_the_contract_has_the_same_tiers_and_states() -> None:
    assert {tier.name for tier in rules.Tier} == {tier.name for tier in Tier} - {"UNSPECIFIED"}
    assert {state.name for state in domain.State} == {state.name for state in HoldState} - {"UNSPECIFIED"}


async def test_every_refusal_reaches_the_client_with_its_code_and_reason(stub: LoyaltyStub) -> None:
    await stub.put_account(ADA)
    other = str(uuid.uuid4())
    await stub.hold(hold_request())
    await stub.release(ReleaseRequest(order_id=other))
    calls: dict[str, tuple[Awaitable[object], grpc.StatusCode]] = {
        "BUSY": (stub.hold(hold_request(redeem_points=29)), grpc.StatusCode.ABORTED),
        "SETTLED": (stub.hold(hold_request(other)), grpc.StatusCode.FAILED_PRECONDITION),
        "HELD_BY_OTHERS": (stub.hold(hold_request(str(uuid.uuid4()), redeem_points=71)), grpc.StatusCode.ABORTED),
        "INSUFFICIENT_POINTS": (
            stub.hold(hold_request(str(uuid.uuid4()), redeem_points=101)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "REDEEM_EXCEEDS_TOTAL": (
            stub.hold(hold_request(str(uuid.uuid4()), redeem_points=951)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "UNKNOWN_CUSTOMER": (stub.get_account(GetAccountRequest(customer_id="eve")), grpc.StatusCode.NOT_FOUND),
        "UNKNOWN_HOLD": (stub.get_hold(GetHoldRequest(order_id=str(uuid.uuid4()))), grpc.StatusCode.NOT_FOUND),
        "POINTS_BELOW_HELD": (
            stub.put_account(PutAccountRequest(customer_id="ada", name="Ada", tier=Tier.GOLD, points=29)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "LIMIT_EXCEEDED": (
            stub.hold(HoldRequest(order_id=str(uuid.uuid4()), customer_id="ada", subtotal=2**53)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "PRECONDITION_FAILED": (
            stub.put_account(replace(ADA, points=-1, edit=AccountEdit(must_be_new=True))),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "INVALID_ARGUMENT": (stub.get_account(GetAccountRequest()), grpc.StatusCode.INVALID_ARGUMENT),
    }
    for reason, (call, code) in calls.items():
        refusal = await refused(call)
        assert (refusal.reason, refusal.code) == (reason, code)
    assert {*calls, "UNSPECIFIED", "STORAGE_UNAVAILABLE", "OVERLOADED", "RECORD_DAMAGED"} == {
        reason.name for reason in ErrorReason
    }


async def test_a_lost_database_is_unavailable_and_says_so(stub: LoyaltyStub, storage: SqlStorage) -> None:
    storage._writer.close()
    refusal = await refused(stub.release(ReleaseRequest(order_id=ORDER)))
    assert (refusal.reason, refusal.code) == ("STORAGE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (HoldRequest(order_id="", customer_id="ada"), "order_id"),
        (HoldRequest(order_id="no uuid", customer_id="ada"), "order_id"),
        (HoldRequest(order_id=ORDER.upper(), customer_id="ada"), "order_id"),
        (HoldRequest(order_id=ORDER), "customer_id"),
        (HoldRequest(order_id=ORDER, customer_id="a da"), "customer_id"),
        (HoldRequest(order_id=ORDER, customer_id="ada\n"), "customer_id"),
        (HoldRequest(order_id=ORDER, customer_id="ada", subtotal=-1), "subtotal"),
        (HoldRequest(order_id=ORDER, customer_id="ada", subtotal=10**17 + 1), "subtotal"),
        (HoldRequest(order_id=ORDER, customer_id="ada", redeem_points=-1), "redeem_points"),
        (HoldRequest(order_id=ORDER, customer_id="ada", redeem_points=10**12 + 1), "redeem_points"),
        (ConfirmRequest(order_id="", customer_id="ada"), "order_id"),
        (ConfirmRequest(order_id=ORDER), "customer_id"),
        (ConfirmRequest(order_id=ORDER, customer_id="ada", points_redeemed=-1), "points_redeemed"),
        (ConfirmRequest(order_id=ORDER, customer_id="ada", points_earned=-1), "points_earned"),
        (ConfirmRequest(order_id=ORDER, customer_id="ada", points_earned=10**15 + 1), "points_earned"),
        (PutAccountRequest(customer_id="x" * 65, name="X", tier=Tier.GOLD), "customer_id"),
        (PutAccountRequest(customer_id="x", name=" ", tier=Tier.GOLD), "name"),
        (PutAccountRequest(customer_id="x", name="a\0b", tier=Tier.GOLD), "name"),
        (PutAccountRequest(customer_id="x", name="x" * 201, tier=Tier.GOLD), "name"),
        (PutAccountRequest(customer_id="x", name="X"), "tier"),
        (PutAccountRequest(customer_id="x", name="X", tier=Tier(4)), "tier"),
        (PutAccountRequest(customer_id="x", name="X", tier=Tier.GOLD, points=-1), "points"),
        (PutAccountRequest(customer_id="x", name="X", tier=Tier.GOLD, points=10**12 + 1), "points"),
        (PutAccountRequest(customer_id="x", name="X", tier=Tier.GOLD, tier_expires_at_us=-1), "tier_expires_at_us"),
        (
            PutAccountRequest(customer_id="x", name="X", tier=Tier.GOLD, tier_expires_at_us=253_402_300_800_000_000),
            "tier_expires_at_us",
        ),
        (ListAccountsRequest(page_size=-1), "page_size"),
        (ListAccountsRequest(page_size=501), "page_size"),
        (ListAccountsRequest(page_token="\n"), "page_token"),
        (ListAccountsRequest(page_token="nobody"), "page_token"),
        (PutAccountRequest(customer_id="..", name="Bo", tier=Tier.GOLD, points=1), "customer_id"),
        (PutAccountRequest(customer_id=".", name="Bo", tier=Tier.GOLD, points=1), "customer_id"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(
    stub: LoyaltyStub,
    request_: HoldRequest | ConfirmRequest | PutAccountRequest | ListAccountsRequest,
    field: str,
) -> None:
    call: Awaitable[object]
    match request_:
        case HoldRequest():
            call = stub.hold(request_)
        case ConfirmRequest():
            call = stub.confirm(request_)
        case PutAccountRequest():
            call = stub.put_account(request_)
        case ListAccountsRequest():
            call = stub.list_accounts(request_)
    refusal = await refused(call)
    assert (refusal.reason, refusal.metadata) == ("INVALID_ARGUMENT", {"field": field})
    assert (await stub.list_accounts(ListAccountsRequest())).accounts == []
    assert (await refused(stub.get_hold(GetHoldRequest(order_id=ORDER)))).reason == "UNKNOWN_HOLD"


async def test_every_answer_names_the_version(stub: LoyaltyStub) -> None:
    call = stub.list_accounts(ListAccountsRequest())
    await call
    assert await served_by(call) == f"loyalty/{__version__}"


def test_every_domain_error_has_a_status() -> None:
    errors = {
        value
        for value in vars(domain).values()
        if inspect.isclass(value) and issubclass(value, domain.DomainError) and value is not domain.DomainError
    }
    assert errors == set(STATUSES)
    assert {reason for _, reason in STATUSES.values()} == set(ErrorReason) - {ErrorReason.UNSPECIFIED}
