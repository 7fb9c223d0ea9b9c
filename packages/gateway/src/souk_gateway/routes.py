"""The REST resources: they turn requests into calls, and answers into JSON."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from souk_contracts.loyalty.v1 import ListAccountsRequest, PutAccountRequest
from souk_contracts.orders.v1 import ListRequest, Order, OrderStatus, Refusal
from souk_contracts.reservations.v1 import ListItemsRequest, PutItemRequest
from souk_gateway import reading
from souk_gateway.admission import Placing
from souk_gateway.backends import Backends
from souk_gateway.bodies import body
from souk_gateway.clients import LoyaltyClient, OrdersClient, ReservationsClient
from souk_gateway.errors import Rejected, Unavailable, invalid, quoted
from souk_gateway.exchange import Exchange
from souk_gateway.headers import MAX_WAIT_S, idempotency_key, preferred_versions, preferred_wait_s
from souk_gateway.models import (
    KNOWN_ID,
    KNOWN_ID_WANTED,
    NAME,
    NAME_WANTED,
    STATUSES,
    TIERS,
    CustomerPage,
    CustomerRequest,
    ItemPage,
    ItemRequest,
    OrderLineRequest,
    OrderPage,
    OrderRequest,
    RestockRequest,
    customer_answer,
    item_answer,
    order_answer,
    order_with_history,
)
from souk_gateway.problems import kind_of, problem
from souk_gateway.puts import edit_of, entity_tag
from souk_gateway.saga import CALLER, order_id_of

Handler = Callable[[Request], Awaitable[Response]]

_encode = msgspec.json.Encoder().encode
_order_decoder = msgspec.json.Decoder(OrderRequest)
_item_decoder = msgspec.json.Decoder(ItemRequest)
_restock_decoder = msgspec.json.Decoder(RestockRequest)
_customer_decoder = msgspec.json.Decoder(CustomerRequest)

_DEMO_ORDER = OrderRequest(customer_id="guest", lines=(OrderLineRequest(sku="demo", quantity=1),))
_REPLAYED = {"Idempotency-Replayed": "true"}
_WAIT_EXTRA_S = 1.0
"""For the answer to a call that waits."""


def exchange_of(request: Request) -> Exchange:
    """The exchange that the access log's middleware opened for this request."""
    exchange: Exchange = request.scope["souk.exchange"]
    return exchange


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers, "application/json")


def route(path: str, *, before: Callable[[Request], None] | None = None, **handlers: Handler) -> Route:
    """One route for all methods of a path, so that a 405 names every one of them in Allow.

    `before` looks at each request first, and may raise `Rejected`.
    """
    methods = {method.upper(): handler for method, handler in handlers.items()}
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]

    return Route(path, _Endpoint(methods, before), methods=list(methods))


class _Endpoint:
    """An ASGI application, since Starlette would wrap a function in a second layer that catches exceptions."""

    def __init__(self, methods: Mapping[str, Handler], before: Callable[[Request], None] | None) -> None:
        self._methods = methods
        self._before = before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if self._before is not None:
            self._before(request)
        answer = await self._methods[request.method](request)
        await answer(scope, receive, send)


class Resources:
    """Orders, items and customers, and the prototype's request."""

    def __init__(
        self,
        placing: Placing,
        orders: OrdersClient,
        reservations: ReservationsClient,
        loyalty: LoyaltyClient,
        services: Mapping[str, Backends[Any]],
    ) -> None:
        self._placing = placing
        self._orders = orders
        self._reservations = reservations
        self._loyalty = loyalty
        self._services = services

    def routes(self) -> list[Route]:
        return [
            route("/v1/orders", before=self._pin, post=self.place_order, get=self.list_orders),
            route("/v1/orders/{id}", before=self._pin, get=self.get_order),
            route("/v1/orders/{id}/cancel", before=self._pin, post=self.cancel_order),
            route("/v1/orders/{id}/complete", before=self._pin, post=self.complete_order),
            route("/v1/items", before=self._pin, get=self.list_items),
            route("/v1/items/{sku}", before=self._pin, get=self.get_item, put=self.put_item),
            route("/v1/items/{sku}/restock", before=self._pin, post=self.restock_item),
            route("/v1/customers", before=self._pin, get=self.list_customers),
            route("/v1/customers/{id}", before=self._pin, get=self.get_customer, put=self.put_customer),
            route("/order", before=self._pin, post=self.place_demo_order),
        ]

    def _pin(self, request: Request) -> None:
        """Notes which versions the request asks for."""
        wanted = preferred_versions(request)
        for service, version in wanted.items():
            if service not in self._services:
                detail = f"there is no service {quoted(service)}; the services are {', '.join(self._services)}"
            elif version not in (there_are := self._services[service].versions()):
                advice = f"ask for {' or '.join(there_are)}" if there_are else "its only target cannot be chosen"
                detail = f"version {quoted(version)} of {service} does not run here; {advice}"
            else:
                continue
            metadata = {"service": service[:80], "version": version[:80]}
            raise Rejected("UNKNOWN_VERSION", f"Souk-Prefer: {detail}", metadata)
        exchange_of(request).pins = wanted

    async def place_order(self, request: Request) -> Response:
        self._placing.check()  # first: what is refused must cost little
        key, wait_s = idempotency_key(request), preferred_wait_s(request)
        wanted = body(request, _order_decoder)
        exchange = exchange_of(request)
        decision = await self._placing.place(wanted, key, exchange)
        outcome = decision.outcome
        if isinstance(outcome, Refusal):
            kind = kind_of(outcome.reason)
            answer = problem(kind, outcome.detail, instance=reading.path_of(request.scope), metadata=outcome.metadata)
            exchange.about = kind.type
        else:
            order = outcome if wait_s is None else await self._settled(outcome, wait_s, exchange)
            headers = {"Location": f"/v1/orders/{outcome.id}"}
            if wait_s is not None and order is not None:
                headers["Preference-Applied"] = f"wait={wait_s}"
            answer = json_answer(order_answer(outcome if order is None else order), 201, headers)
            exchange.about = outcome.id
        if decision.replayed and key is not None:
            answer.headers["Idempotency-Replayed"] = "true"
        return answer

    async def _settled(self, order: Order, wait_s: float, exchange: Exchange) -> Order | None:
        """The order once it is settled, or as it stands `wait_s` after the request came; None where nobody can tell.

        The client has asked for it, so it may take longer than the deadline.
        """
        left_s = min(wait_s - exchange.elapsed_s(), MAX_WAIT_S)
        if order.status is not OrderStatus.ACCEPTED or left_s <= 0:
            return order
        exchange.extend_to(left_s + _WAIT_EXTRA_S)
        try:
            settled, _ = await self._orders.get(order.id, exchange, wait_s=left_s)
        except (Rejected, Unavailable):
            return None  # it was placed, and that is the answer
        return settled

    async def list_orders(self, request: Request) -> Response:
        parameters = reading.query(request, "customer_id", "status", "page_size", "page_token")
        size, token = reading.page(parameters)
        wanted = ListRequest(
            customer_id=reading.matching(parameters, "customer_id", KNOWN_ID, KNOWN_ID_WANTED),
            status=reading.one_of(parameters, "status", STATUSES, OrderStatus.UNSPECIFIED),
            page_size=size,
            page_token=token,
        )
        page = await self._orders.list(wanted, exchange_of(request))
        return json_answer(OrderPage([order_answer(order) for order in page.orders], page.next_page_token or None))

    async def get_order(self, request: Request) -> Response:
        order, history = await self._orders.get(reading.order_id(request), exchange_of(request))
        return json_answer(order_with_history(order, history))

    async def cancel_order(self, request: Request) -> Response:
        return _order(await self._orders.cancel(reading.order_id(request), exchange_of(request)))

    async def complete_order(self, request: Request) -> Response:
        return _order(await self._orders.complete(reading.order_id(request), exchange_of(request)))

    async def list_items(self, request: Request) -> Response:
        size, token = reading.page(reading.query(request, "page_size", "page_token"))
        page = await self._reservations.list_items(
            ListItemsRequest(page_size=size, page_token=token), exchange_of(request)
        )
        return json_answer(ItemPage([item_answer(item) for item in page.items], page.next_page_token or None))

    async def get_item(self, request: Request) -> Response:
        sku = reading.identifier(request, "sku")
        item = await self._reservations.get_item(sku, exchange_of(request))
        return json_answer(item_answer(item), headers=entity_tag(item.revision))

    async def put_item(self, request: Request) -> Response:
        sku = reading.identifier(request, "sku")
        wanted = body(request, _item_decoder)
        item = await self._reservations.put_item(
            PutItemRequest(
                sku=sku,
                name=wanted.name,
                unit_price=wanted.unit_price,
                description=None if wanted.description is UNSET else wanted.description,
            ),
            edit_of(request, None if wanted.on_hand is UNSET else wanted.on_hand),
            exchange_of(request),
        )
        return json_answer(item_answer(item))

    async def restock_item(self, request: Request) -> Response:
        sku, key = reading.identifier(request, "sku"), idempotency_key(request)
        wanted = body(request, _restock_decoder)
        # Reservations keeps it: no order has it, whatever the key.
        request_id = None if key is None else order_id_of(CALLER, key)
        item, replayed = await self._reservations.restock_item(sku, wanted.quantity, request_id, exchange_of(request))
        return json_answer(item_answer(item), headers=_REPLAYED if replayed else None)

    async def list_customers(self, request: Request) -> Response:
        size, token = reading.page(reading.query(request, "page_size", "page_token"))
        page = await self._loyalty.list_accounts(
            ListAccountsRequest(page_size=size, page_token=token), exchange_of(request)
        )
        customers = [customer_answer(account) for account in page.accounts]
        return json_answer(CustomerPage(customers, page.next_page_token or None))

    async def get_customer(self, request: Request) -> Response:
        customer_id = reading.identifier(request, "id")
        account = await self._loyalty.get_account(customer_id, exchange_of(request))
        return json_answer(customer_answer(account), headers=entity_tag(account.revision))

    async def put_customer(self, request: Request) -> Response:
        customer_id = reading.identifier(request, "id")
        wanted = body(request, _customer_decoder)
        account = await self._loyalty.put_account(
            PutAccountRequest(
                customer_id=customer_id,
                name=wanted.name,
                tier=TIERS[wanted.tier],
                tier_expires_at_us=wanted.tier_expires_at_us,
            ),
            edit_of(request, None if wanted.points is UNSET else wanted.points),
            exchange_of(request),
        )
        return json_answer(customer_answer(account))

    async def place_demo_order(self, request: Request) -> Response:
        """The prototype's request, for its clients: the name was never kept."""
        parameters = reading.query(request, "name", "completed")
        if not reading.matching(parameters, "name", NAME, NAME_WANTED):
            raise invalid("name", "the query parameter is missing; add ?name=… to the path")
        completed = reading.one_of(parameters, "completed", {"true": True, "false": False}, otherwise=False)
        exchange, key = exchange_of(request), idempotency_key(request)
        besides = f"/order?completed={completed}&name={parameters['name']}"
        decision = await self._placing.place(_DEMO_ORDER, key, exchange, besides)
        outcome, is_replay = decision.outcome, decision.replayed and key is not None
        if isinstance(outcome, Refusal):
            metadata = {**outcome.metadata, **({"replayed": "true"} if is_replay else {})}
            raise Rejected(outcome.reason, outcome.detail, metadata, category="FAILED_PRECONDITION")
        exchange.about = outcome.id
        if completed:
            await self._complete_once_confirmed(outcome, exchange)
        return json_answer(
            {"notificationType": "ORDER_NOTIFICATION_TYPE_ENUM_OK", "order": {"uuid": outcome.id}},
            headers=_REPLAYED if is_replay else None,
        )

    async def _complete_once_confirmed(self, order: Order, exchange: Exchange) -> None:
        """Completes the order if it is confirmed in time. Otherwise it stays as it is: it was placed all the same."""
        settled = await self._settled(order, exchange.elapsed_s() + exchange.remaining_s(), exchange)
        if settled is not None and settled.status is OrderStatus.CONFIRMED:
            with suppress(Rejected, Unavailable):
                await self._orders.complete(order.id, exchange)


def _order(order: Order) -> Response:
    return json_answer(order_answer(order))
