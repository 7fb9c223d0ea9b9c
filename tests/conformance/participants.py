"""Reservations and loyalty behind one face, so that what both must do is written once.

Both keep something in accounts: pieces of an item, points of a customer. An order holds some of it, then takes it or
lets it go. Nothing but the generated stubs is used.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import uuid4

import grpc
import pytest

from souk_contracts.errors import Refused, refusal_of
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.reservations import v1 as reservations


class State(StrEnum):
    """Where an order is with a participant. Without a row it is nowhere."""

    NONE = "NONE"
    HELD = "HELD"
    EXPIRED = "EXPIRED"
    CONFIRMED = "CONFIRMED"
    CLOSED = "CLOSED"


@dataclass(frozen=True)
class Balance:
    """What there is in an account, and how much of that is spoken for."""

    there: int
    held: int


@dataclass(frozen=True)
class Quote:
    """What a hold promises, and until when."""

    content: object
    expires_at_us: int


class Participant(Protocol):
    """One that holds something for orders."""

    domain: str
    insufficient: str
    """The reason when more is asked for than is free."""
    unknown_account: str
    unknown_hold: str
    below_held: str
    account_field: str
    """What refusals call the account."""

    async def account(self, amount: int) -> str:
        """A new account with so much in it; gives its id."""

    async def put(self, account: str, amount: int) -> None:
        """Sets what is in an account."""

    async def balance(self, account: str) -> Balance:
        """Checks, too, that nothing was made or lost, as far as the contract lets one see it."""

    async def hold(self, order_id: str, account: str, amount: int) -> Quote:
        """Reserve or Hold."""

    async def confirm(self, order_id: str, account: str, amount: int) -> str:
        """ "" for yes, or the reason of the no."""

    async def release(self, order_id: str) -> None: ...

    async def forget(self, *order_ids: str) -> set[str]:
        """The ids of those that stay."""

    async def state(self, order_id: str) -> State: ...

    async def held_for(self, order_id: str) -> tuple[str, int]:
        """The account and the amount that the row of an order names."""


async def refusal(call: Awaitable[object]) -> Refused:
    """The refusal that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    found = refusal_of(caught.value)
    assert found is not None, f"a failure without an ErrorInfo: {caught.value.code().name} {caught.value.details()}"
    assert found.detail == caught.value.details()
    return found


class Reservations:
    """Pieces of items."""

    domain = "reservations.souk"
    insufficient = "OUT_OF_STOCK"
    unknown_account = "UNKNOWN_SKU"
    unknown_hold = "UNKNOWN_RESERVATION"
    below_held = "ON_HAND_BELOW_HELD"
    account_field = "sku"

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = reservations.ReservationsStub(channel)
        self._put_in: dict[str, int] = {}

    async def account(self, amount: int) -> str:
        sku = f"item-{uuid4().hex[:12]}"
        await self.put(sku, amount)
        return sku

    async def put(self, account: str, amount: int) -> None:
        request = reservations.PutItemRequest(sku=account, name="Tea", unit_price=450, on_hand=amount)
        item = (await self.stub.put_item(request)).item
        assert item is not None
        self._put_in[account] = item.on_hand + item.sold

    async def balance(self, account: str) -> Balance:
        item = (await self.stub.get_item(reservations.GetItemRequest(sku=account))).item
        assert item is not None
        assert item.available == item.on_hand - item.held
        assert 0 <= item.held <= item.on_hand
        assert item.on_hand + item.sold == self._put_in[account], "pieces were made or lost"
        return Balance(item.on_hand, item.held)

    async def hold(self, order_id: str, account: str, amount: int) -> Quote:
        lines = [reservations.Line(sku=account, quantity=amount)]
        answer = await self.stub.reserve(reservations.ReserveRequest(order_id=order_id, lines=lines))
        quoted = [(line.sku, line.name, line.quantity, line.unit_price) for line in answer.lines]
        assert [(sku, quantity) for sku, _, quantity, _ in quoted] == [(account, amount)]
        return Quote((answer.currency, quoted), answer.expires_at_us)

    async def confirm(self, order_id: str, account: str, amount: int) -> str:
        lines = [reservations.Line(sku=account, quantity=amount)]
        answer = await self.stub.confirm(reservations.ConfirmRequest(order_id=order_id, lines=lines))
        return _reason(answer)

    async def release(self, order_id: str) -> None:
        await self.stub.release(reservations.ReleaseRequest(order_id=order_id))

    async def forget(self, *order_ids: str) -> set[str]:
        answer = await self.stub.forget(reservations.ForgetRequest(order_ids=list(order_ids)))
        return set(answer.kept_order_ids)

    async def row(self, order_id: str) -> reservations.Reservation:
        row = (await self.stub.get_reservation(reservations.GetReservationRequest(order_id=order_id))).reservation
        assert row is not None
        assert row.order_id == order_id
        return row

    async def state(self, order_id: str) -> State:
        return await _state(self.row(order_id), self.unknown_hold)

    async def held_for(self, order_id: str) -> tuple[str, int]:
        (line,) = (await self.row(order_id)).lines
        return line.sku, line.quantity


class Loyalty:
    """Points of customers."""

    domain = "loyalty.souk"
    insufficient = "INSUFFICIENT_POINTS"
    unknown_account = "UNKNOWN_CUSTOMER"
    unknown_hold = "UNKNOWN_HOLD"
    below_held = "POINTS_BELOW_HELD"
    account_field = "customer_id"

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = loyalty.LoyaltyStub(channel)

    async def account(self, amount: int) -> str:
        customer_id = f"customer-{uuid4().hex[:12]}"
        await self.put(customer_id, amount)
        return customer_id

    async def put(self, account: str, amount: int) -> None:
        await self.put_account(account, loyalty.Tier.STANDARD, amount)

    async def put_account(self, customer_id: str, tier: loyalty.Tier, points: int) -> None:
        await self.stub.put_account(
            loyalty.PutAccountRequest(customer_id=customer_id, name="Amina", tier=tier, points=points)
        )

    async def balance(self, account: str) -> Balance:
        found = (await self.stub.get_account(loyalty.GetAccountRequest(customer_id=account))).account
        assert found is not None
        assert found.points_held >= 0
        return Balance(found.points, found.points_held)

    async def quote(self, order_id: str, customer_id: str, subtotal: int, redeem: int) -> loyalty.HoldResponse:
        return await self.stub.hold(
            loyalty.HoldRequest(order_id=order_id, customer_id=customer_id, subtotal=subtotal, redeem_points=redeem)
        )

    async def hold(self, order_id: str, account: str, amount: int) -> Quote:
        answer = await self.quote(order_id, account, 10_000, amount)
        assert answer.points_redeemed == amount
        content = (answer.discount_percent, answer.discount, answer.points_redeemed, answer.points_earned)
        return Quote(content, answer.expires_at_us)

    async def confirm(self, order_id: str, account: str, amount: int, earned: int = 0) -> str:
        answer = await self.stub.confirm(
            loyalty.ConfirmRequest(order_id=order_id, customer_id=account, points_redeemed=amount, points_earned=earned)
        )
        return _reason(answer)

    async def release(self, order_id: str) -> None:
        await self.stub.release(loyalty.ReleaseRequest(order_id=order_id))

    async def forget(self, *order_ids: str) -> set[str]:
        answer = await self.stub.forget(loyalty.ForgetRequest(order_ids=list(order_ids)))
        return set(answer.kept_order_ids)

    async def row(self, order_id: str) -> loyalty.Hold:
        row = (await self.stub.get_hold(loyalty.GetHoldRequest(order_id=order_id))).hold
        assert row is not None
        assert row.order_id == order_id
        return row

    async def state(self, order_id: str) -> State:
        return await _state(self.row(order_id), self.unknown_hold)

    async def held_for(self, order_id: str) -> tuple[str, int]:
        row = await self.row(order_id)
        return row.customer_id, row.points_redeemed


def _reason(answer: reservations.ConfirmResponse | loyalty.ConfirmResponse) -> str:
    if answer.confirmed:
        return ""
    assert answer.detail, "a no says why, for people, too"
    assert answer.reason.name is not None
    assert answer.reason.value != 0, "a no names its reason"
    return answer.reason.name


async def _state(row: Awaitable[reservations.Reservation | loyalty.Hold], unknown: str) -> State:
    try:
        found = await row
    except grpc.aio.AioRpcError as error:
        refused = refusal_of(error)
        assert refused is not None
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, unknown)
        return State.NONE
    assert found.state.name is not None
    return State(found.state.name)
