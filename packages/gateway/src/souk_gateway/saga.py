"""Placing an order: reserve the goods, hold the points, record the order; or record that it was refused.

One id names all of it, so that a request which comes again, to any replica, takes the same steps again and gets the
same answer. The saga keeps no state and releases nothing: only the orders service decides, and what was held without
a decision expires by itself.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Protocol

import msgspec

from souk_contracts.loyalty.v1 import HoldRequest, HoldResponse
from souk_contracts.orders.v1 import (
    CreateRequest,
    CreateResponse,
    Order,
    OrderLine,
    Refusal,
    RefuseRequest,
    RefuseResponse,
)
from souk_contracts.reservations.v1 import Line, ReserveRequest, ReserveResponse
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderRequest

CALLER = "anonymous"
"""Whose idempotency keys they are. Clients do not authenticate, so all share one caller."""

# Fixed for ever: with another one, keys would name other orders.
_NAMESPACE = uuid.UUID("6f1c7a52-3d0e-5b86-9c41-2a7be0d5f318")
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""A UUID's seventeenth digit has two bits that say how to read it: RFC 9562, 4.1."""
_REFUSE_EXTRA_S = 1.0
_encode = msgspec.json.Encoder().encode


class ReservationsPort(Protocol):
    """Every call raises `Rejected` or `Unavailable`, and takes no longer than the exchange has left."""

    async def reserve(self, request: ReserveRequest, exchange: Exchange) -> ReserveResponse: ...


class LoyaltyPort(Protocol):
    """Every call raises `Rejected` or `Unavailable`, and takes no longer than the exchange has left."""

    def is_away(self, exchange: Exchange) -> bool:
        """Whether it is known, without asking, that a call would fail."""

    async def hold(self, request: HoldRequest, exchange: Exchange, *, share: float = 1.0) -> HoldResponse:
        """`share` is the part of the exchange's time that the call may take."""


class OrdersPort(Protocol):
    """Every call raises `Rejected` or `Unavailable`, and takes no longer than the exchange has left."""

    async def create(self, request: CreateRequest, exchange: Exchange) -> CreateResponse: ...

    async def refuse(self, request: RefuseRequest, exchange: Exchange) -> RefuseResponse: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about an order, made now or when its id was first seen."""

    outcome: Order | Refusal
    replayed: bool
    pause_ms: int | None = None
    """For how long orders wants no other order to be begun; None where it was not asked to take one."""


def order_id_of(caller: str, key: str | None) -> str:
    """The order that a caller's idempotency key names; a new one where there is no key."""
    if key is None:
        return str(uuid.uuid4())
    # With the length in front, no other caller and key read the same. It is `uuid.uuid5`, which takes thrice as long.
    name = f"{len(caller)}:{caller}{key}".encode()
    text = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:32]}"


def fingerprint_of(wanted: OrderRequest) -> bytes:
    """SHA-256 of the request's meaning: the order of its members and its white space do not matter.

    Every version must give the same fingerprint, since a retry may reach another version.
    """
    return hashlib.sha256(_encode(wanted)).digest()


class Saga:
    """Places orders. `loyalty_required`: whether orders wait for loyalty to come back, or go without a discount."""

    def __init__(
        self, reservations: ReservationsPort, loyalty: LoyaltyPort, orders: OrdersPort, *, loyalty_required: bool
    ) -> None:
        self._reservations = reservations
        self._loyalty = loyalty
        self._orders = orders
        self._loyalty_required = loyalty_required

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange) -> Decision:
        """Places an order, once for each key.

        Raises `Rejected` where the key is in flight (BUSY), was used for another request (KEY_REUSED), or the holds
        were about to end (HOLD_EXPIRING); `Unavailable` where the outcome is not known. With a key, the same request
        then joins what this one left behind; without one, orders is told that nothing will come of it.
        """
        order_id, fingerprint = order_id_of(CALLER, key), fingerprint_of(wanted)
        needs_loyalty = self._loyalty_required or wanted.redeem_points > 0
        loyalty_away = self._loyalty.is_away(exchange)
        if loyalty_away and needs_loyalty:
            raise Unavailable("loyalty does not answer, so no order was placed; try again in a moment")
        try:
            try:
                reserved = await self._reserve(order_id, wanted, exchange)
                held = None if loyalty_away else await self._hold(order_id, wanted, reserved, needs_loyalty, exchange)
            except Rejected as no:
                if no.is_passing:
                    raise
                refusal = Refusal(reason=no.reason, detail=no.detail, metadata=no.metadata)
                return await self._refuse(order_id, fingerprint, wanted, refusal, exchange)
            return await self._create(order_id, fingerprint, wanted, reserved, held, exchange)
        except (Rejected, Unavailable) as error:
            if key is not None:
                raise
            return await self._abandon(order_id, fingerprint, wanted, error, exchange)

    async def _reserve(self, order_id: str, wanted: OrderRequest, exchange: Exchange) -> ReserveResponse:
        lines = [Line(sku=line.sku, quantity=line.quantity) for line in wanted.lines]
        return await self._reservations.reserve(ReserveRequest(order_id=order_id, lines=lines), exchange)

    async def _hold(
        self, order_id: str, wanted: OrderRequest, reserved: ReserveResponse, needed: bool, exchange: Exchange
    ) -> HoldResponse | None:
        request = HoldRequest(
            order_id=order_id,
            customer_id=wanted.customer_id,
            subtotal=sum(line.unit_price * line.quantity for line in reserved.lines),
            redeem_points=wanted.redeem_points,
        )
        if needed:
            return await self._loyalty.hold(request, exchange)
        try:
            # Half of the time, so that there is some left to go on without it.
            return await self._loyalty.hold(request, exchange, share=0.5)
        except Unavailable:
            return None  # should it be held after all, orders has it released

    async def _create(
        self,
        order_id: str,
        fingerprint: bytes,
        wanted: OrderRequest,
        reserved: ReserveResponse,
        held: HoldResponse | None,
        exchange: Exchange,
    ) -> Decision:
        request = CreateRequest(
            order_id=order_id,
            fingerprint=fingerprint,
            customer_id=wanted.customer_id,
            currency=reserved.currency,
            lines=[
                OrderLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price)
                for line in reserved.lines
            ],
            without_loyalty=held is None,
            holds_expire_at_us=reserved.expires_at_us,
            note=wanted.note,
            brief=True,
        )
        if held is not None:
            request.discount_percent = held.discount_percent
            request.discount = held.discount
            request.points_redeemed = held.points_redeemed
            request.points_earned = held.points_earned
            request.holds_expire_at_us = min(reserved.expires_at_us, held.expires_at_us)
        answer = await self._orders.create(request, exchange)
        if answer.order is not None and not answer.replayed and not answer.order.customer_id:
            answer.order = _in_full(answer.order, request)
        return _decision(answer)

    async def _refuse(
        self, order_id: str, fingerprint: bytes, wanted: OrderRequest, refusal: Refusal, exchange: Exchange
    ) -> Decision:
        request = RefuseRequest(
            order_id=order_id, fingerprint=fingerprint, customer_id=wanted.customer_id, refusal=refusal
        )
        return _decision(await self._orders.refuse(request, exchange))

    async def _abandon(
        self,
        order_id: str,
        fingerprint: bytes,
        wanted: OrderRequest,
        error: Rejected | Unavailable,
        exchange: Exchange,
    ) -> Decision:
        """Ends an order that no retry can join, since it has no key, instead of letting its holds wait to expire."""
        exchange.extend_to(_REFUSE_EXTRA_S)
        refusal = Refusal(reason="UNAVAILABLE", detail="a service did not answer while the order was placed")
        try:
            decision = await self._refuse(order_id, fingerprint, wanted, refusal, exchange)
        except (Rejected, Unavailable):
            raise error from None  # it was the cause of this one, too
        if isinstance(decision.outcome, Refusal):
            raise error
        return decision  # Create had succeeded, only its answer was lost


def _in_full(order: Order, request: CreateRequest) -> Order:
    """The whole order: what a brief answer of orders leaves out is in the request."""
    subtotal = sum(line.unit_price * line.quantity for line in request.lines)
    return Order(
        id=order.id,
        status=order.status,
        customer_id=request.customer_id,
        currency=request.currency,
        lines=request.lines,
        subtotal=subtotal,
        discount_percent=request.discount_percent,
        discount=request.discount,
        points_redeemed=request.points_redeemed,
        points_earned=request.points_earned,
        total=subtotal - request.discount - request.points_redeemed,
        without_loyalty=request.without_loyalty,
        created_at_us=order.created_at_us,
        note=request.note,
    )


def _decision(answer: CreateResponse | RefuseResponse) -> Decision:
    outcome = answer.refusal if answer.order is None else answer.order
    if outcome is None:
        raise Unavailable("orders sent an answer that this gateway does not understand; try again in a moment")
    return Decision(outcome, answer.replayed, answer.pause_ms if isinstance(answer, CreateResponse) else None)
