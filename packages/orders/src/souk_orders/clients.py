"""The participants over gRPC: the port `relay.ParticipantClient` on the generated stubs."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

from typing import Any, TypeVar

import grpc

from souk_contracts.batching import BatchingChannel
from souk_contracts.channel import served_by
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.reservations import v1 as reservations
from souk_orders.domain import Order, Refusal
from souk_orders.relay import CallFailed, Reply

Response = TypeVar("Response")

_BATCHED = ("Confirm", "Release")
_APART_S = 0.05
"""Nobody waits for a confirmation as for an answer: while orders keep coming, twenty batches a second are enough."""


class ReservationsClient:
    """Confirms and releases the goods of an order."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = reservations.ReservationsStub(
            BatchingChannel(channel, _BATCHED, apart_s=_APART_S), timeout_s=timeout_s
        )

    async def confirm(self, order: Order) -> Reply:
        """See the port."""
        lines = [reservations.Line(sku=line.sku, quantity=line.quantity) for line in order.terms.lines]
        request = reservations.ConfirmRequest(order_id=order.order_id, lines=lines)
        answer, peer = await _answer(self._stub.confirm(request))
        return Reply(None if answer.confirmed else _no(answer.reason, answer.detail), peer)

    async def release(self, order_id: str) -> Reply:
        """See the port."""
        _, peer = await _answer(self._stub.release(reservations.ReleaseRequest(order_id=order_id)))
        return Reply(None, peer)


class LoyaltyClient:
    """Confirms and releases the points of an order."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = loyalty.LoyaltyStub(BatchingChannel(channel, _BATCHED, apart_s=_APART_S), timeout_s=timeout_s)

    async def confirm(self, order: Order) -> Reply:
        """See the port."""
        request = loyalty.ConfirmRequest(
            order_id=order.order_id,
            customer_id=order.terms.customer_id,
            points_redeemed=order.terms.points_redeemed,
            points_earned=order.terms.points_earned,
        )
        answer, peer = await _answer(self._stub.confirm(request))
        return Reply(None if answer.confirmed else _no(answer.reason, answer.detail), peer)

    async def release(self, order_id: str) -> Reply:
        """See the port."""
        _, peer = await _answer(self._stub.release(loyalty.ReleaseRequest(order_id=order_id)))
        return Reply(None, peer)


async def _answer(call: grpc.aio.UnaryUnaryCall[Any, Response]) -> tuple[Response, str]:
    """The answer, and who gave it."""
    try:
        return await call, await served_by(call)
    except grpc.aio.AioRpcError as error:
        raise CallFailed(f"{error.code().name}: {error.details()}") from error


def _no(reason: reservations.ErrorReason | loyalty.ErrorReason, detail: str) -> Refusal:
    # A reason of a newer version has a number only.
    return Refusal(reason.name or f"REASON_{reason.value}", detail.replace("\0", " ")[:500], {})
