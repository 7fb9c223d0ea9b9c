"""The service on the wire: messages to the domain and back, errors to statuses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from souk_contracts.errors import Refused, row_of
from souk_contracts.orders import v1 as wire
from souk_orders import domain
from souk_orders.book import Decided
from souk_orders.service import Orders, Wanted

DOMAIN = "orders.souk"

STATUSES: dict[type[domain.DomainError], tuple[grpc.StatusCode, wire.ErrorReason]] = {
    domain.InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, wire.ErrorReason.INVALID_ARGUMENT),
    domain.UnknownOrder: (grpc.StatusCode.NOT_FOUND, wire.ErrorReason.UNKNOWN_ORDER),
    domain.KeyReused: (grpc.StatusCode.ALREADY_EXISTS, wire.ErrorReason.KEY_REUSED),
    domain.HoldExpiring: (grpc.StatusCode.ABORTED, wire.ErrorReason.HOLD_EXPIRING),
    domain.WrongStatus: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.WRONG_STATUS),
    domain.StorageUnavailable: (grpc.StatusCode.UNAVAILABLE, wire.ErrorReason.STORAGE_UNAVAILABLE),
    domain.Damaged: (grpc.StatusCode.DATA_LOSS, wire.ErrorReason.RECORD_DAMAGED),
    # No UNAVAILABLE: somebody is there, so the gateway must not stop calling.
    domain.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, wire.ErrorReason.OVERLOADED),
}
"""What each domain error is on the wire."""


class OrdersServicer(wire.OrdersServicer):
    """Serves `souk.orders.v1.OrdersService`."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    async def create(self, request: wire.CreateRequest) -> wire.CreateResponse:
        with _refusals():
            decided = await self._orders.create(*_wanted(request))
        return _created(decided, request.brief, self._orders.admission.pause_ms())

    async def create_all(self, requests: Sequence[wire.CreateRequest]) -> Sequence[wire.CreateResponse | Refused]:
        with _refusals():
            outcomes = await self._orders.create_all([_wanted(request) for request in requests])
        pause_ms = self._orders.admission.pause_ms()
        return [
            _refused(outcome) if isinstance(outcome, domain.DomainError) else _created(outcome, request.brief, pause_ms)
            for outcome, request in zip(outcomes, requests, strict=True)
        ]

    async def refuse(self, request: wire.RefuseRequest) -> wire.RefuseResponse:
        given = request.refusal or wire.Refusal()
        refusal = domain.Refusal(given.reason, given.detail, given.metadata)
        with _refusals():
            decided = await self._orders.refuse(request.order_id, request.fingerprint, request.customer_id, refusal)
        order, stored = _outcome(decided.decision)
        return wire.RefuseResponse(order=order, refusal=stored, replayed=decided.replayed)

    async def get(self, request: wire.GetRequest) -> wire.GetResponse:
        with _refusals():
            order, history = await self._orders.order(request.order_id, request.wait_ms)
        return wire.GetResponse(order=_order(order), history=[_history_entry(entry) for entry in history])

    async def list(self, request: wire.ListRequest) -> wire.ListResponse:
        with _refusals():
            orders, next_page_token = await self._orders.orders(
                request.customer_id, _status(request.status), request.page_size, request.page_token
            )
        return wire.ListResponse(orders=[_order(order) for order in orders], next_page_token=next_page_token)

    async def cancel(self, request: wire.CancelRequest) -> wire.CancelResponse:
        with _refusals():
            return wire.CancelResponse(order=_order(await self._orders.cancel(request.order_id)))

    async def complete(self, request: wire.CompleteRequest) -> wire.CompleteResponse:
        with _refusals():
            return wire.CompleteResponse(order=_order(await self._orders.complete(request.order_id)))


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


def _wanted(request: wire.CreateRequest) -> Wanted:
    terms = domain.Terms(
        customer_id=request.customer_id,
        currency=request.currency,
        lines=tuple(domain.Line(line.sku, line.name, line.quantity, line.unit_price) for line in request.lines),
        discount_percent=request.discount_percent,
        discount=request.discount,
        points_redeemed=request.points_redeemed,
        points_earned=request.points_earned,
        without_loyalty=request.without_loyalty,
        note=request.note,
    )
    return request.order_id, request.fingerprint, terms, request.holds_expire_at_us


def _created(decided: Decided, brief: bool, pause_ms: int) -> wire.CreateResponse:
    decision = decided.decision
    if brief and not decided.replayed and isinstance(decision, domain.Order):
        status = wire.OrderStatus[decision.status.name]
        return wire.CreateResponse(
            order=wire.Order(id=decision.order_id, status=status, created_at_us=decision.created_at_us),
            pause_ms=pause_ms,
        )
    order, refusal = _outcome(decision)
    return wire.CreateResponse(order=order, refusal=refusal, replayed=decided.replayed, pause_ms=pause_ms)


def _status(status: wire.OrderStatus) -> domain.Status | None:
    if status is wire.OrderStatus.UNSPECIFIED:
        return None
    try:
        return domain.Status[status.name or ""]
    except KeyError:
        raise domain.InvalidArgument("status", f"{status.value} is not a status that this version knows") from None


def _outcome(decision: domain.Decision) -> tuple[wire.Order | None, wire.Refusal | None]:
    if isinstance(decision, domain.Order):
        return _order(decision), None
    refusal = decision.refusal
    return None, wire.Refusal(reason=refusal.reason, detail=refusal.detail, metadata=dict(refusal.metadata))


def _order(order: domain.Order) -> wire.Order:
    terms = order.terms
    return wire.Order(
        id=order.order_id,
        status=wire.OrderStatus[order.status.name],
        status_reason=order.status_reason,
        customer_id=terms.customer_id,
        currency=terms.currency,
        lines=[
            wire.OrderLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price)
            for line in terms.lines
        ],
        subtotal=terms.subtotal,
        discount_percent=terms.discount_percent,
        discount=terms.discount,
        points_redeemed=terms.points_redeemed,
        points_earned=terms.points_earned,
        total=terms.total,
        without_loyalty=terms.without_loyalty,
        created_at_us=order.created_at_us,
        note=terms.note,
    )


def _history_entry(entry: domain.HistoryEntry) -> wire.HistoryEntry:
    return wire.HistoryEntry(step=entry.step, at_us=entry.at_us, served_by=entry.served_by, detail=entry.detail)
