"""The service on the wire: messages to the domain and back, errors to statuses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from souk_contracts.errors import Refused, row_of
from souk_contracts.loyalty import v1 as wire
from souk_loyalty import domain, rules
from souk_loyalty.revisions import ANY, Condition
from souk_loyalty.service import Loyalty
from souk_loyalty.writer import Clock, system_clock

DOMAIN = "loyalty.souk"

STATUSES: dict[type[domain.DomainError], tuple[grpc.StatusCode, wire.ErrorReason]] = {
    domain.InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, wire.ErrorReason.INVALID_ARGUMENT),
    domain.UnknownCustomer: (grpc.StatusCode.NOT_FOUND, wire.ErrorReason.UNKNOWN_CUSTOMER),
    domain.InsufficientPoints: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.INSUFFICIENT_POINTS),
    domain.RedeemExceedsTotal: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.REDEEM_EXCEEDS_TOTAL),
    domain.HeldByOthers: (grpc.StatusCode.ABORTED, wire.ErrorReason.HELD_BY_OTHERS),
    domain.Busy: (grpc.StatusCode.ABORTED, wire.ErrorReason.BUSY),
    domain.Settled: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.SETTLED),
    domain.PointsBelowHeld: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.POINTS_BELOW_HELD),
    domain.LimitExceeded: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.LIMIT_EXCEEDED),
    domain.PreconditionFailed: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.PRECONDITION_FAILED),
    domain.UnknownHold: (grpc.StatusCode.NOT_FOUND, wire.ErrorReason.UNKNOWN_HOLD),
    domain.StorageUnavailable: (grpc.StatusCode.UNAVAILABLE, wire.ErrorReason.STORAGE_UNAVAILABLE),
    domain.Damaged: (grpc.StatusCode.DATA_LOSS, wire.ErrorReason.RECORD_DAMAGED),
    # No UNAVAILABLE: somebody is there, so the gateway must not stop calling.
    domain.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, wire.ErrorReason.OVERLOADED),
}
"""What each domain error is on the wire."""


class LoyaltyServicer(wire.LoyaltyServicer):
    """Serves `souk.loyalty.v1.LoyaltyService`."""

    def __init__(self, loyalty: Loyalty, clock: Clock = system_clock) -> None:
        self._loyalty = loyalty
        self._clock = clock

    async def hold(self, request: wire.HoldRequest) -> wire.HoldResponse:
        with _refusals():
            return _held(await self._loyalty.place_hold(*_wanted(request)))

    async def hold_all(self, requests: Sequence[wire.HoldRequest]) -> Sequence[wire.HoldResponse | Refused]:
        with _refusals():
            outcomes = await self._loyalty.place_all([_wanted(request) for request in requests])
        return [
            _refused(outcome) if isinstance(outcome, domain.DomainError) else _held(outcome) for outcome in outcomes
        ]

    async def confirm(self, request: wire.ConfirmRequest) -> wire.ConfirmResponse:
        with _refusals():
            return _confirmed(await self._loyalty.confirm(*_sold(request)))

    async def confirm_all(self, requests: Sequence[wire.ConfirmRequest]) -> Sequence[wire.ConfirmResponse | Refused]:
        with _refusals():
            outcomes = await self._loyalty.confirm_all([_sold(request) for request in requests])
        return [
            _refused(outcome) if isinstance(outcome, domain.NO_ANSWER) else _confirmed(outcome) for outcome in outcomes
        ]

    async def release(self, request: wire.ReleaseRequest) -> wire.ReleaseResponse:
        with _refusals():
            await self._loyalty.release(request.order_id)
        return wire.ReleaseResponse()

    async def forget(self, request: wire.ForgetRequest) -> wire.ForgetResponse:
        with _refusals():
            return wire.ForgetResponse(kept_order_ids=list(await self._loyalty.forget(request.order_ids)))

    async def get_hold(self, request: wire.GetHoldRequest) -> wire.GetHoldResponse:
        with _refusals():
            found = await self._loyalty.hold(request.order_id)
        return wire.GetHoldResponse(
            hold=wire.Hold(
                order_id=found.order_id,
                state=wire.HoldState[found.state.name],
                customer_id=found.customer_id,
                points_redeemed=found.points_redeemed,
                points_earned=found.points_earned,
                expires_at_us=found.expires_at_us,
            )
        )

    async def get_account(self, request: wire.GetAccountRequest) -> wire.GetAccountResponse:
        with _refusals():
            return wire.GetAccountResponse(account=self._account(await self._loyalty.account(request.customer_id)))

    async def put_account(self, request: wire.PutAccountRequest) -> wire.PutAccountResponse:
        with _refusals():
            account = await self._loyalty.put_account(
                request.customer_id, request.name, _tier(request.tier), *_edited(request)
            )
        return wire.PutAccountResponse(account=self._account(account))

    async def list_accounts(self, request: wire.ListAccountsRequest) -> wire.ListAccountsResponse:
        with _refusals():
            accounts, next_page_token = await self._loyalty.accounts(request.page_size, request.page_token)
        return wire.ListAccountsResponse(
            accounts=[self._account(account) for account in accounts], next_page_token=next_page_token
        )

    def _account(self, account: domain.Account) -> wire.Account:
        return wire.Account(
            customer_id=account.customer_id,
            name=account.name,
            tier=wire.Tier[account.tier.name],
            discount_percent=rules.discount_percent(account.tier_at(self._clock())),
            points=account.points,
            points_held=account.points_held,
            tier_expires_at_us=account.tier_expires_at_us,
            revision=account.revision,
        )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except domain.DomainError as error:
        raise _refused(error) from error


def _refused(error: domain.DomainError) -> Refused:
    code, reason = row_of(STATUSES, error)
    assert reason.name is not None  # only values that the contract does not name have none
    return Refused(code, DOMAIN, reason.name, str(error), error.metadata)


def _confirmed(no: domain.DomainError | None) -> wire.ConfirmResponse:
    if no is None:
        return wire.ConfirmResponse(confirmed=True)
    return wire.ConfirmResponse(reason=row_of(STATUSES, no)[1], detail=str(no))


def _wanted(request: wire.HoldRequest) -> tuple[str, str, int, int]:
    return request.order_id, request.customer_id, request.subtotal, request.redeem_points


def _sold(request: wire.ConfirmRequest) -> tuple[str, str, int, int]:
    return request.order_id, request.customer_id, request.points_redeemed, request.points_earned


def _held(hold: domain.Hold) -> wire.HoldResponse:
    return wire.HoldResponse(
        discount_percent=hold.discount_percent,
        discount=hold.discount,
        points_redeemed=hold.points_redeemed,
        points_earned=hold.points_earned,
        expires_at_us=hold.expires_at_us,
    )


def _edited(request: wire.PutAccountRequest) -> tuple[int | None, int | None, Condition]:
    """The points, the end of the tier, and what must be so."""
    edit = request.edit
    if edit is None:
        return request.points, request.tier_expires_at_us, ANY
    if request.points != -1:
        raise domain.InvalidArgument("points", f"must be -1 where there is an edit, but is {request.points}")
    condition = Condition(tuple(edit.revisions), edit.must_exist, edit.must_be_new, edit.is_repeat)
    return edit.points, request.tier_expires_at_us, condition


def _tier(tier: wire.Tier) -> rules.Tier:
    for known in rules.Tier:
        if tier == wire.Tier[known.name]:
            return known
    raise domain.InvalidArgument("tier", f"must be one of {', '.join(rules.Tier)}")
