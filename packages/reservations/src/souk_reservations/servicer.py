"""The service on the wire: messages to the domain and back, errors to statuses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from souk_contracts.errors import Refused, row_of
from souk_contracts.reservations import v1 as wire
from souk_reservations import domain
from souk_reservations.revisions import ANY, Condition
from souk_reservations.service import Reservations

DOMAIN = "reservations.souk"

STATUSES: dict[type[domain.DomainError], tuple[grpc.StatusCode, wire.ErrorReason]] = {
    domain.InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, wire.ErrorReason.INVALID_ARGUMENT),
    domain.UnknownSku: (grpc.StatusCode.NOT_FOUND, wire.ErrorReason.UNKNOWN_SKU),
    domain.OutOfStock: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.OUT_OF_STOCK),
    domain.HeldByOthers: (grpc.StatusCode.ABORTED, wire.ErrorReason.HELD_BY_OTHERS),
    domain.Busy: (grpc.StatusCode.ABORTED, wire.ErrorReason.BUSY),
    domain.Settled: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.SETTLED),
    domain.OnHandAboveLimit: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.ON_HAND_ABOVE_LIMIT),
    domain.OnHandBelowHeld: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.ON_HAND_BELOW_HELD),
    domain.OnHandAboveLimit: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.ON_HAND_ABOVE_LIMIT),
    domain.LimitExceeded: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.LIMIT_EXCEEDED),
    domain.KeyReused: (grpc.StatusCode.ALREADY_EXISTS, wire.ErrorReason.KEY_REUSED),
    domain.PreconditionFailed: (grpc.StatusCode.FAILED_PRECONDITION, wire.ErrorReason.PRECONDITION_FAILED),
    domain.UnknownReservation: (grpc.StatusCode.NOT_FOUND, wire.ErrorReason.UNKNOWN_RESERVATION),
    domain.StorageUnavailable: (grpc.StatusCode.UNAVAILABLE, wire.ErrorReason.STORAGE_UNAVAILABLE),
    domain.Damaged: (grpc.StatusCode.DATA_LOSS, wire.ErrorReason.RECORD_DAMAGED),
    # No UNAVAILABLE: somebody is there, so the gateway must not stop calling.
    domain.Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, wire.ErrorReason.OVERLOADED),
}
"""What each domain error is on the wire."""


class ReservationsServicer(wire.ReservationsServicer):
    """Serves `souk.reservations.v1.ReservationsService`."""

    def __init__(self, reservations: Reservations, currency: str) -> None:
        self._reservations = reservations
        self._currency = currency

    async def reserve(self, request: wire.ReserveRequest) -> wire.ReserveResponse:
        with _refusals():
            return self._reserved(request, await self._reservations.reserve(request.order_id, _lines(request.lines)))

    async def reserve_all(self, requests: Sequence[wire.ReserveRequest]) -> Sequence[wire.ReserveResponse | Refused]:
        with _refusals():
            outcomes = await self._reservations.reserve_all([(each.order_id, _lines(each.lines)) for each in requests])
        return [
            _refused(outcome) if isinstance(outcome, domain.DomainError) else self._reserved(request, outcome)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def confirm(self, request: wire.ConfirmRequest) -> wire.ConfirmResponse:
        with _refusals():
            return _confirmed(await self._reservations.confirm(request.order_id, _lines(request.lines)))

    async def confirm_all(self, requests: Sequence[wire.ConfirmRequest]) -> Sequence[wire.ConfirmResponse | Refused]:
        with _refusals():
            outcomes = await self._reservations.confirm_all([(each.order_id, _lines(each.lines)) for each in requests])
        return [
            _refused(outcome) if isinstance(outcome, domain.NO_ANSWER) else _confirmed(outcome) for outcome in outcomes
        ]

    async def release(self, request: wire.ReleaseRequest) -> wire.ReleaseResponse:
        with _refusals():
            await self._reservations.release(request.order_id)
        return wire.ReleaseResponse()

    async def forget(self, request: wire.ForgetRequest) -> wire.ForgetResponse:
        with _refusals():
            return wire.ForgetResponse(kept_order_ids=list(await self._reservations.forget(request.order_ids)))

    async def get_reservation(self, request: wire.GetReservationRequest) -> wire.GetReservationResponse:
        with _refusals():
            found = await self._reservations.reservation(request.order_id)
        return wire.GetReservationResponse(
            reservation=wire.Reservation(
                order_id=found.order_id,
                state=wire.ReservationState[found.state.name],
                lines=[wire.Line(sku=line.sku, quantity=line.quantity) for line in found.lines],
                expires_at_us=found.expires_at_us,
            )
        )

    async def list_items(self, request: wire.ListItemsRequest) -> wire.ListItemsResponse:
        with _refusals():
            items, next_page_token = await self._reservations.items(request.page_size, request.page_token)
        return wire.ListItemsResponse(items=[self._item(item) for item in items], next_page_token=next_page_token)

    async def get_item(self, request: wire.GetItemRequest) -> wire.GetItemResponse:
        with _refusals():
            return wire.GetItemResponse(item=self._item(await self._reservations.item(request.sku)))

    async def put_item(self, request: wire.PutItemRequest) -> wire.PutItemResponse:
        with _refusals():
            item = await self._reservations.put_item(request.sku, request.name, request.unit_price, *_edited(request))
        return wire.PutItemResponse(item=self._item(item))

    async def restock_item(self, request: wire.RestockItemRequest) -> wire.RestockItemResponse:
        with _refusals():
            if (once := request.once) is None:
                item = await self._reservations.restock_item(request.sku, request.quantity)
                return wire.RestockItemResponse(item=self._item(item))
            if request.quantity:
                raise domain.InvalidArgument("quantity", f"must be 0 where there is a once, but is {request.quantity}")
            restock, replayed = await self._reservations.restock_once(once.request_id, request.sku, once.quantity)
        if isinstance(restock.answer, domain.Item):
            return wire.RestockItemResponse(item=self._item(restock.answer), replayed=replayed)
        refused = _refused(restock.answer)
        if replayed:
            refused.metadata["replayed"] = "true"
        raise refused

    def _reserved(self, request: wire.ReserveRequest, reservation: domain.Reservation) -> wire.ReserveResponse:
        quotes = {quote.sku: quote for quote in reservation.quote}
        return wire.ReserveResponse(
            lines=[_quoted_line(quotes[line.sku]) for line in request.lines],
            currency=self._currency,
            expires_at_us=reservation.expires_at_us,
        )

    def _item(self, item: domain.Item) -> wire.Item:
        return wire.Item(
            sku=item.sku,
            name=item.name,
            unit_price=item.unit_price,
            currency=self._currency,
            on_hand=item.on_hand,
            held=item.held,
            available=item.available,
            sold=item.sold,
            description=item.description,
            revision=item.revision,
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


def _edited(request: wire.PutItemRequest) -> tuple[int | None, str | None, Condition]:
    """The pieces on hand, the description, and what must be so."""
    edit = request.edit
    if edit is None:
        return request.on_hand, request.description, ANY
    if request.on_hand != -1:
        raise domain.InvalidArgument("on_hand", f"must be -1 where there is an edit, but is {request.on_hand}")
    condition = Condition(tuple(edit.revisions), edit.must_exist, edit.must_be_new, edit.is_repeat)
    return edit.on_hand, request.description, condition


def _lines(lines: Sequence[wire.Line]) -> list[domain.Line]:
    return [domain.Line(line.sku, line.quantity) for line in lines]


def _quoted_line(line: domain.QuotedLine) -> wire.QuotedLine:
    return wire.QuotedLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price)
