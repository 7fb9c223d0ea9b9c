"""The messages by which the saga asks orders for a decision, and the whole of an order whose answer was brief."""

from souk_contracts.loyalty.v1 import HoldResponse
from souk_contracts.orders.v1 import CreateRequest, Order, OrderLine, Refusal, RefuseRequest
from souk_contracts.reservations.v1 import ReserveResponse
from souk_gateway.errors import Rejected
from souk_gateway.models import OrderRequest

_NO_CURRENCY = "XXX"
"""ISO 4217's code for none."""


def create(
    order_id: str, fingerprint: bytes, wanted: OrderRequest, reserved: ReserveResponse, held: HoldResponse | None
) -> CreateRequest:
    """Asks to record an order on the terms that were quoted; `held` is None for one without loyalty."""
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
    return request


def look_up(order_id: str, fingerprint: bytes, wanted: OrderRequest) -> CreateRequest:
    """Asks what was decided, and decides nothing: a Create whose holds have ended.

    Every version of orders answers it with the decision that it has, and with HOLD_EXPIRING if it has none.
    """
    return CreateRequest(
        order_id=order_id,
        fingerprint=fingerprint,
        customer_id=wanted.customer_id,
        currency=_NO_CURRENCY,
        lines=[OrderLine(sku=line.sku, name=line.sku, quantity=line.quantity) for line in wanted.lines],
        without_loyalty=True,
        holds_expire_at_us=0,
    )


def refuse(order_id: str, fingerprint: bytes, wanted: OrderRequest, no: Rejected) -> RefuseRequest:
    """Asks to record that an order was refused, and why."""
    refusal = Refusal(reason=no.reason, detail=no.detail, metadata=no.metadata)
    return RefuseRequest(order_id=order_id, fingerprint=fingerprint, customer_id=wanted.customer_id, refusal=refusal)


def in_full(order: Order, request: CreateRequest) -> Order:
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
