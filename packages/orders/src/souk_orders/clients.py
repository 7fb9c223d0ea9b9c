"""The participants over gRPC: the port `routes.ParticipantClient` on the generated stubs."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

from collections.abc import Sequence

import grpc

from souk_contracts.carrier import Answer
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.reservations import v1 as reservations
from souk_orders.domain import Order, Refusal
from souk_orders.routes import CallFailed, Reply

_Said = reservations.ConfirmResponse | reservations.ReleaseResponse | loyalty.ConfirmResponse | loyalty.ReleaseResponse


class ReservationsClient:
    """Confirms and releases the goods of an order."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = reservations.ReservationsStub(channel, timeout_s=timeout_s)

    async def confirm(self, orders: Sequence[Order]) -> Sequence[Reply | CallFailed]:
        """See the port."""
        return [_reply(answer) for answer in await self._stub.confirm_all([_goods(order) for order in orders])]

    async def release(self, order_ids: Sequence[str]) -> Sequence[Reply | CallFailed]:
        """See the port."""
        requests = [reservations.ReleaseRequest(order_id=order_id) for order_id in order_ids]
        return [_reply(answer) for answer in await self._stub.release_all(requests)]


class LoyaltyClient:
    """Confirms and releases the points of an order."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = loyalty.LoyaltyStub(channel, timeout_s=timeout_s)

    async def confirm(self, orders: Sequence[Order]) -> Sequence[Reply | CallFailed]:
        """See the port."""
        return [_reply(answer) for answer in await self._stub.confirm_all([_points(order) for order in orders])]

    async def release(self, order_ids: Sequence[str]) -> Sequence[Reply | CallFailed]:
        """See the port."""
        requests = [loyalty.ReleaseRequest(order_id=order_id) for order_id in order_ids]
        return [_reply(answer) for answer in await self._stub.release_all(requests)]


def _goods(order: Order) -> reservations.ConfirmRequest:
    lines = [reservations.Line(sku=line.sku, quantity=line.quantity) for line in order.terms.lines]
    return reservations.ConfirmRequest(order_id=order.order_id, lines=lines)


def _points(order: Order) -> loyalty.ConfirmRequest:
    return loyalty.ConfirmRequest(
        order_id=order.order_id,
        customer_id=order.terms.customer_id,
        points_redeemed=order.terms.points_redeemed,
        points_earned=order.terms.points_earned,
    )


def _reply(answer: Answer[_Said]) -> Reply | CallFailed:
    said, served_by = answer
    match said:
        case grpc.aio.AioRpcError():
            return CallFailed(f"{said.code().name}: {said.details()}")
        case Exception():
            return CallFailed(f"{type(said).__name__}: {said}")
        case reservations.ConfirmResponse(confirmed=False) | loyalty.ConfirmResponse(confirmed=False):
            return Reply(_no(said.reason, said.detail), served_by)
    return Reply(None, served_by)


def _no(reason: reservations.ErrorReason | loyalty.ErrorReason, detail: str) -> Refusal:
    # A reason of a newer version has a number only.
    return Refusal(reason.name or f"REASON_{reason.value}", detail.replace("\0", " ")[:500], {})
