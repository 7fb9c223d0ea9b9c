"""The services as this gateway sees them: the ports over the generated stubs.

Here, and only here, gRPC errors become the gateway's own: `Rejected` for a refusal, `Unavailable` for everything
else. Each call takes at most what its exchange has left, and notes who answered; one that failed for a cause that may
pass is repeated where that is safe. See docs/adr/0005-retries-and-breakers.md.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import logging
from collections.abc import Callable
from typing import ClassVar, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from souk_contracts.channel import served_by
from souk_contracts.errors import refusal_of
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders import v1 as orders
from souk_contracts.reservations import v1 as reservations
from souk_gateway.breakers import Breaker
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.retries import ATTEMPT_S, Retries

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


class _Client:
    """A service, with the breaker and the budget for retries that are this process's for it."""

    service: ClassVar[str]

    def __init__(
        self, channel: grpc.aio.Channel, breaker: Breaker | None = None, retries: Retries | None = None
    ) -> None:
        self._channel = channel
        self._breaker = breaker or Breaker(self.service)
        self._retries = retries or Retries()

    async def _ask(
        self,
        method: Callable[..., grpc.aio.UnaryUnaryCall[Request, Response]],
        request: Request,
        exchange: Exchange,
        *,
        share: float = 1.0,
        attempt_s: float = ATTEMPT_S,
        repeatable: bool = True,
    ) -> Response:
        """Asks, and asks again where that may help; all of it within `share` of the time that is left.

        `repeatable` says that asking twice does no more than asking once.
        """
        left_s = exchange.remaining_s() * share
        ends_at_s = exchange.elapsed_s() + left_s
        self._retries.called()
        attempts = 1
        while True:
            try:
                return await self._attempt(method, request, exchange, min(left_s, attempt_s) if repeatable else left_s)
            except grpc.aio.AioRpcError as error:
                left_s = ends_at_s - exchange.elapsed_s()
                passes = repeatable and error.code() in _PASSING
                pause_s = self._retries.pause_s(attempts, left_s) if passes else None
                if pause_s is None:
                    raise _translated(self.service, error) from error
            await asyncio.sleep(pause_s)
            left_s -= pause_s
            attempts += 1

    async def _attempt(
        self,
        method: Callable[..., grpc.aio.UnaryUnaryCall[Request, Response]],
        request: Request,
        exchange: Exchange,
        timeout_s: float,
    ) -> Response:
        if not self._breaker.allows():
            raise _away(self.service)
        call = method(request, timeout_s=timeout_s)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in _UNANSWERED:
                self._breaker.succeeded()
            elif timeout_s >= _FAIR_S:
                self._breaker.failed()
            else:
                self._breaker.gave_up()
            raise
        except BaseException:  # the request itself was cancelled
            self._breaker.gave_up()
            raise
        else:
            self._breaker.succeeded()
            return answer
        finally:
            if call.done():
                exchange.note(await served_by(call))


class OrdersClient(_Client):
    """Every call raises `Rejected` or `Unavailable`."""

    service = "orders"

    def __init__(
        self, channel: grpc.aio.Channel, breaker: Breaker | None = None, retries: Retries | None = None
    ) -> None:
        super().__init__(channel, breaker, retries)
        self._stub = orders.OrdersStub(channel)

    async def create(self, request: orders.CreateRequest, exchange: Exchange) -> orders.CreateResponse:
        return await self._ask(self._stub.create, request, exchange)

    async def refuse(self, request: orders.RefuseRequest, exchange: Exchange) -> orders.RefuseResponse:
        return await self._ask(self._stub.refuse, request, exchange)

    async def get(
        self, order_id: str, exchange: Exchange, *, wait_s: float = 0.0
    ) -> tuple[orders.Order, list[orders.HistoryEntry]]:
        """An order and its history; while it is ACCEPTED, the answer waits so long for it to be settled."""
        request = orders.GetRequest(order_id=order_id, wait_ms=int(wait_s * 1000))
        answer = await self._ask(self._stub.get, request, exchange, attempt_s=wait_s + ATTEMPT_S)
        return _present(answer.order), answer.history

    async def list(self, request: orders.ListRequest, exchange: Exchange) -> orders.ListResponse:
        return await self._ask(self._stub.list, request, exchange)

    async def cancel(self, order_id: str, exchange: Exchange) -> orders.Order:
        answer = await self._ask(self._stub.cancel, orders.CancelRequest(order_id=order_id), exchange)
        return _present(answer.order)

    async def complete(self, order_id: str, exchange: Exchange) -> orders.Order:
        answer = await self._ask(self._stub.complete, orders.CompleteRequest(order_id=order_id), exchange)
        return _present(answer.order)


class ReservationsClient(_Client):
    """Every call raises `Rejected` or `Unavailable`."""

    service = "reservations"

    def __init__(
        self, channel: grpc.aio.Channel, breaker: Breaker | None = None, retries: Retries | None = None
    ) -> None:
        super().__init__(channel, breaker, retries)
        self._stub = reservations.ReservationsStub(channel)

    async def reserve(self, request: reservations.ReserveRequest, exchange: Exchange) -> reservations.ReserveResponse:
        return await self._ask(self._stub.reserve, request, exchange)

    async def list_items(
        self, request: reservations.ListItemsRequest, exchange: Exchange
    ) -> reservations.ListItemsResponse:
        return await self._ask(self._stub.list_items, request, exchange)

    async def get_item(self, sku: str, exchange: Exchange) -> reservations.Item:
        request = reservations.GetItemRequest(sku=sku)
        return _present((await self._ask(self._stub.get_item, request, exchange)).item)

    async def put_item(self, request: reservations.PutItemRequest, exchange: Exchange) -> reservations.Item:
        return _present((await self._ask(self._stub.put_item, request, exchange)).item)

    async def restock_item(self, request: reservations.RestockItemRequest, exchange: Exchange) -> reservations.Item:
        return _present((await self._ask(self._stub.restock_item, request, exchange, repeatable=False)).item)


class LoyaltyClient(_Client):
    """Every call raises `Rejected` or `Unavailable`."""

    service = "loyalty"

    def __init__(
        self, channel: grpc.aio.Channel, breaker: Breaker | None = None, retries: Retries | None = None
    ) -> None:
        super().__init__(channel, breaker, retries)
        self._stub = loyalty.LoyaltyStub(channel)

    def is_away(self) -> bool:
        """Whether every connection to it has failed, the service says that it is not serving, or it is left alone."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE or self._breaker.is_open()

    async def hold(
        self, request: loyalty.HoldRequest, exchange: Exchange, *, share: float = 1.0
    ) -> loyalty.HoldResponse:
        """`share` is the part of the exchange's time that the call may take."""
        return await self._ask(self._stub.hold, request, exchange, share=share)

    async def get_account(self, customer_id: str, exchange: Exchange) -> loyalty.Account:
        request = loyalty.GetAccountRequest(customer_id=customer_id)
        return _present((await self._ask(self._stub.get_account, request, exchange)).account)

    async def put_account(self, request: loyalty.PutAccountRequest, exchange: Exchange) -> loyalty.Account:
        return _present((await self._ask(self._stub.put_account, request, exchange)).account)

    async def list_accounts(
        self, request: loyalty.ListAccountsRequest, exchange: Exchange
    ) -> loyalty.ListAccountsResponse:
        return await self._ask(self._stub.list_accounts, request, exchange)


class HealthClient:
    """Asks a service how it is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def check(self) -> tuple[bool, str]:
        """Whether the service is SERVING, and who answered (`orders/1.0.0`; empty where nobody did), within 1 s."""
        call = self._stub.Check(HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
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
        return Unavailable(refusal.detail, reason=refusal.reason)
    if code is not grpc.StatusCode.UNAVAILABLE:  # somebody's mistake, not bad luck
        log.error("%s answered %s: %s", service, code.name, error.details())
    return _away(service)


def _away(service: str) -> Unavailable:
    return Unavailable(f"{service} does not answer; try again in a moment")


def _present(message: Response | None) -> Response:
    if message is None:
        raise Unavailable("a service gave an answer that this gateway does not know")
    return message
