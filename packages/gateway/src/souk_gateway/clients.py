"""The clients of the services: the gateway's ports over the generated stubs.

Only this module turns gRPC errors into the gateway's own: `Rejected` for a refusal, `Unavailable` for everything else.
Each call takes at most the time that its exchange has left, and notes which version answered. A call that failed for a
passing cause is repeated if that is safe. See docs/adr/0005-retries-and-breakers.md.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from souk_contracts.carrier import closed, is_cancelled
from souk_contracts.channel import served_by
from souk_contracts.errors import refusal_of
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders import v1 as orders
from souk_contracts.reservations import v1 as reservations
from souk_gateway.backends import Backend, Backends, Stub
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import MAX_PIECES, MAX_POINTS
from souk_gateway.puts import Edit, put, too_old, unknown_outcome
from souk_gateway.retries import ATTEMPT_S

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")

_HEALTH_TIMEOUT_S = 1.0

# A no to the request itself. With any other status the call may have had an effect, or may have one next time.
_REJECTIONS = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)

# What may be otherwise in a moment.
_PASSING = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
# With any other status somebody is there.
_UNANSWERED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_FAIR_S = 0.25
"""A service that was given less time than this has not failed."""


class _Client(Generic[Stub]):
    def __init__(self, backends: Backends[Stub]) -> None:
        self._backends = backends

    async def _ask(
        self,
        method: Callable[..., grpc.aio.UnaryUnaryCall[Request, Response]],
        request: Request,
        exchange: Exchange,
        *,
        share: float = 1.0,
        attempt_s: float = ATTEMPT_S,
        repeatable: bool = True,
        again: Request | None = None,
    ) -> Response:
        """Asks, and asks again where that may help; all of it within `share` of the time that is left.

        `method` is the stub's; `repeatable` says that asking twice does no more than asking once. `again` is what to
        ask from the second time on, if that is something else.
        """
        left_s = exchange.remaining_s() * share
        ends_at_s = exchange.elapsed_s() + left_s
        backend = self._backends.of(exchange)
        backend.retries.called()
        attempts = 1
        while True:
            timeout_s = min(left_s, attempt_s) if repeatable else left_s
            try:
                return await self._attempt(backend, method, request, exchange, timeout_s)
            except grpc.aio.AioRpcError as error:
                left_s = ends_at_s - exchange.elapsed_s()
                passes = repeatable and error.code() in _PASSING
                pause_s = backend.retries.pause_s(attempts, left_s) if passes else None
                if pause_s is None:
                    raise _translated(backend.name, error) from error
                failed = backend if error.code() in _UNANSWERED else None
            request = again or request
            await asyncio.sleep(pause_s)
            left_s -= pause_s
            attempts += 1
            backend = self._backends.of(exchange, failed)

    async def is_away(self, exchange: Exchange) -> bool:
        """Whether it is known that a call for this request would fail.

        Where a breaker's pause has ended, one request finds out whether the service answers, by a question that has no
        effect; meanwhile it is away for all others.
        """
        if self._backends.is_away(exchange):
            return True
        backend = self._backends.of(exchange)
        if backend.breaker.is_closed() or await _answers(backend):
            return False
        return not self._backends.of(exchange, backend).is_ready()

    async def _attempt(
        self,
        backend: Backend[Stub],
        method: Callable[..., grpc.aio.UnaryUnaryCall[Request, Response]],
        request: Request,
        exchange: Exchange,
        timeout_s: float,
    ) -> Response:
        if not backend.breaker.allows():
            raise _away(backend.name, was_sent=False)
        call = None
        try:
            call = method(backend.stub, request, timeout_s=timeout_s)
            answer = await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in _UNANSWERED:
                backend.breaker.succeeded()
            elif timeout_s >= _FAIR_S:
                backend.breaker.failed(getattr(call, "batch", None))
            else:
                backend.breaker.gave_up()
            raise
        except BaseException as error:  # the request itself was cancelled, or cannot be written
            backend.breaker.gave_up()
            if isinstance(error, asyncio.CancelledError) and not is_cancelled():
                raise closed() from None
            raise
        else:
            backend.breaker.succeeded()
            return answer
        finally:
            if call is not None and call.done():
                exchange.note(await served_by(call))


class OrdersClient(_Client[orders.OrdersStub]):
    """Every call raises `Rejected` or `Unavailable`."""

    async def create(self, request: orders.CreateRequest, exchange: Exchange) -> orders.CreateResponse:
        return await self._ask(orders.OrdersStub.create, request, exchange)

    async def refuse(self, request: orders.RefuseRequest, exchange: Exchange) -> orders.RefuseResponse:
        return await self._ask(orders.OrdersStub.refuse, request, exchange)

    async def get(
        self, order_id: str, exchange: Exchange, *, wait_s: float = 0.0
    ) -> tuple[orders.Order, list[orders.HistoryEntry]]:
        """An order and its history; while it is ACCEPTED, the answer waits so long for it to be settled."""
        request = orders.GetRequest(order_id=order_id, wait_ms=int(wait_s * 1000))
        answer = await self._ask(orders.OrdersStub.get, request, exchange, attempt_s=wait_s + ATTEMPT_S)
        return _present(answer.order), answer.history

    async def list(self, request: orders.ListRequest, exchange: Exchange) -> orders.ListResponse:
        return await self._ask(orders.OrdersStub.list, request, exchange)

    async def cancel(self, order_id: str, exchange: Exchange) -> orders.Order:
        answer = await self._ask(orders.OrdersStub.cancel, orders.CancelRequest(order_id=order_id), exchange)
        return _present(answer.order)

    async def complete(self, order_id: str, exchange: Exchange) -> orders.Order:
        answer = await self._ask(orders.OrdersStub.complete, orders.CompleteRequest(order_id=order_id), exchange)
        return _present(answer.order)


class ReservationsClient(_Client[reservations.ReservationsStub]):
    """Every call raises `Rejected` or `Unavailable`."""

    async def reserve(self, request: reservations.ReserveRequest, exchange: Exchange) -> reservations.ReserveResponse:
        return await self._ask(reservations.ReservationsStub.reserve, request, exchange)

    async def check_not_confirmed(self, order_id: str, exchange: Exchange) -> None:
        """Raises `Rejected` as `reserve` does (SETTLED) where the order's reservation is CONFIRMED."""
        request = reservations.GetReservationRequest(order_id=order_id)
        try:
            found = _present(
                (await self._ask(reservations.ReservationsStub.get_reservation, request, exchange)).reservation
            )
        except Rejected:  # there is none
            return
        if found.state is reservations.ReservationState.CONFIRMED:
            raise Rejected(
                "SETTLED",
                f"the reservation of the order {order_id} is already CONFIRMED",
                {"state": "CONFIRMED"},
                category="FAILED_PRECONDITION",
            )

    async def list_items(
        self, request: reservations.ListItemsRequest, exchange: Exchange
    ) -> reservations.ListItemsResponse:
        return await self._ask(reservations.ReservationsStub.list_items, request, exchange)

    async def get_item(self, sku: str, exchange: Exchange) -> reservations.Item:
        request = reservations.GetItemRequest(sku=sku)
        return _present((await self._ask(reservations.ReservationsStub.get_item, request, exchange)).item)

    async def put_item(self, request: reservations.PutItemRequest, edit: Edit, exchange: Exchange) -> reservations.Item:
        """The edit says what happens to the pieces on hand, the request all the rest."""

        def edited(edit: Edit | None) -> reservations.PutItemRequest:
            if edit is None:
                return replace(request, on_hand=number)
            return replace(
                request,
                on_hand=-1,
                edit=reservations.ItemEdit(
                    on_hand=edit.number,
                    revisions=list(edit.revisions),
                    must_exist=edit.must_exist,
                    must_be_new=edit.must_be_new,
                    is_repeat=edit.is_repeat,
                ),
            )

        async def send(first: Edit | None, again: Edit | None) -> reservations.Item:
            method, repeatable = reservations.ReservationsStub.put_item, again is not None
            answer = await self._ask(method, edited(first), exchange, repeatable=repeatable, again=edited(again))
            return _present(answer.item)

        async def revision() -> str | None:
            try:
                return (await self.get_item(request.sku, exchange)).revision
            except Rejected as no:
                if no.reason != "UNKNOWN_SKU":
                    raise
                return None

        number = edit.number or 0
        return await put(edit, "on_hand", MAX_PIECES, revision, send)

    async def restock_item(
        self, sku: str, quantity: int, request_id: str | None, exchange: Exchange
    ) -> tuple[reservations.Item, bool]:
        """Adds pieces, once for each request id; the item then, and whether that is the answer to an earlier call."""
        method = reservations.ReservationsStub.restock_item
        if request_id is None:
            request = reservations.RestockItemRequest(sku=sku, quantity=quantity)
            try:
                return _present((await self._ask(method, request, exchange, repeatable=False)).item), False
            except Unavailable as failure:
                raise unknown_outcome(failure, "send it again with an Idempotency-Key") from failure
        once = reservations.RestockOnce(request_id=request_id, quantity=quantity)
        try:
            answer = await self._ask(method, reservations.RestockItemRequest(sku=sku, once=once), exchange)
        except Rejected as no:
            # No service refuses a quantity that REST allows but one that does not know `once`: it sees 0.
            if no.reason == "INVALID_ARGUMENT" and no.metadata.get("field") == "quantity":
                raise too_old("an Idempotency-Key with a restock", "send the request once, without a key") from no
            raise
        return _present(answer.item), answer.replayed


class LoyaltyClient(_Client[loyalty.LoyaltyStub]):
    """Every call raises `Rejected` or `Unavailable`."""

    async def hold(
        self, request: loyalty.HoldRequest, exchange: Exchange, *, share: float = 1.0
    ) -> loyalty.HoldResponse:
        """`share` is the part of the exchange's time that the call may take."""
        return await self._ask(loyalty.LoyaltyStub.hold, request, exchange, share=share)

    async def get_account(self, customer_id: str, exchange: Exchange) -> loyalty.Account:
        request = loyalty.GetAccountRequest(customer_id=customer_id)
        return _present((await self._ask(loyalty.LoyaltyStub.get_account, request, exchange)).account)

    async def put_account(self, request: loyalty.PutAccountRequest, edit: Edit, exchange: Exchange) -> loyalty.Account:
        """The edit says what happens to the points, the request all the rest."""

        def edited(edit: Edit | None) -> loyalty.PutAccountRequest:
            if edit is None:
                return replace(request, points=number)
            return replace(
                request,
                points=-1,
                edit=loyalty.AccountEdit(
                    points=edit.number,
                    revisions=list(edit.revisions),
                    must_exist=edit.must_exist,
                    must_be_new=edit.must_be_new,
                    is_repeat=edit.is_repeat,
                ),
            )

        async def send(first: Edit | None, again: Edit | None) -> loyalty.Account:
            method, repeatable = loyalty.LoyaltyStub.put_account, again is not None
            answer = await self._ask(method, edited(first), exchange, repeatable=repeatable, again=edited(again))
            return _present(answer.account)

        async def revision() -> str | None:
            try:
                return (await self.get_account(request.customer_id, exchange)).revision
            except Rejected as no:
                if no.reason != "UNKNOWN_CUSTOMER":
                    raise
                return None

        number = edit.number or 0
        return await put(edit, "points", MAX_POINTS, revision, send)

    async def list_accounts(
        self, request: loyalty.ListAccountsRequest, exchange: Exchange
    ) -> loyalty.ListAccountsResponse:
        return await self._ask(loyalty.LoyaltyStub.list_accounts, request, exchange)


async def _answers(backend: Backend[Stub]) -> bool:
    """Asks a service that was left alone for a while."""
    if not backend.breaker.allows():
        return False
    try:
        is_serving, _ = await health(backend.channel)
    except BaseException:  # the request was cancelled
        backend.breaker.gave_up()
        raise
    if is_serving:
        backend.breaker.succeeded()
    else:
        backend.breaker.failed()
    return is_serving


async def health(channel: grpc.aio.Channel) -> tuple[bool, str]:
    """Whether a service is SERVING, and who answered (`orders/1.0.0`; empty where nobody did), within 1 s."""
    call = health_pb2_grpc.HealthStub(channel).Check(HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
    try:
        answer = await call
    except grpc.aio.AioRpcError:
        return False, ""
    return answer.status == HealthCheckResponse.SERVING, await served_by(call)


def _translated(service: str, error: grpc.aio.AioRpcError) -> Rejected | Unavailable:
    code, refusal = error.code(), refusal_of(error)
    if refusal is not None and code in _REJECTIONS:
        return Rejected(refusal.reason, refusal.detail, refusal.metadata, category=code.name)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"{service} did not answer in time; try again in a moment")
    if refusal is not None:
        pause = refusal.metadata.get("pause_ms", "")
        pause_ms = int(pause) if pause.isascii() and pause.isdecimal() and len(pause) < 10 else 0
        about = refusal.metadata if code is grpc.StatusCode.DATA_LOSS else {}
        return Unavailable(refusal.detail, reason=refusal.reason, metadata=about, pause_ms=pause_ms)
    if code is not grpc.StatusCode.UNAVAILABLE:  # a defect, not an outage
        log.error("%s answered %s: %s", service, code.name, error.details())
    return _away(service)


def _away(service: str, *, was_sent: bool = True) -> Unavailable:
    return Unavailable(f"{service} does not answer; try again in a moment", was_sent=was_sent)


def _present(message: Response | None) -> Response:
    if message is None:
        raise Unavailable("a service sent an answer that this gateway does not understand; try again in a moment")
    return message
