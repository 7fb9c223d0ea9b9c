"""In-memory services behind real gRPC servers, and a real gateway in front of them.

They keep the contracts as far as a gateway can tell, and no further: nothing expires, and orders are confirmed when a
test says so. With `is_1_0` they ignore what version 1.0 did not know, with `is_1_1` what 1.1 did not.

`python packages/gateway/tests/gateway_services.py 8080` serves them for trying things out by hand.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from grpc import StatusCode

from souk_contracts.errors import Refused
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders import v1 as orders
from souk_contracts.reservations import v1 as reservations
from souk_contracts.server import GrpcServer, ServerSettings, Servicer, termination
from souk_gateway.app import listen, serve
from souk_gateway.settings import Settings
from souk_gateway.targets import SERVICES, Target

FAR_AWAY_US = 4_102_444_800_000_000
NEW_YEAR_US = 1_767_225_600_000_006


class Faults:
    """What a test wants of a service.

    `fail` makes a call fail, `fail_first` only as often as there are failures in it; `gates` let it wait until the
    test opens them.
    """

    def __init__(self) -> None:
        self.fail: dict[str, Exception] = {}
        self.fail_first: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.called = asyncio.Event()

    async def meet(self, call: str) -> None:
        self.calls.append(call)
        self.called.set()
        if call in self.gates:
            await self.gates[call].wait()
        if self.fail_first.get(call):
            raise self.fail_first[call].pop()
        if call in self.fail:
            raise self.fail[call]


class Orders(orders.OrdersServicer):
    def __init__(self) -> None:
        self.faults = Faults()
        self.decided: dict[str, tuple[bytes, orders.Order | orders.Refusal]] = {}
        self.confirm_at_once = False
        self.is_1_0 = False
        self.pause_ms = 0
        self.settled = asyncio.Event()
        self.histories: dict[str, list[orders.HistoryEntry]] = {}

    def order(self, order_id: str) -> orders.Order:
        _, outcome = self.decided.get(order_id, (b"", None))
        if not isinstance(outcome, orders.Order):
            raise Refused(StatusCode.NOT_FOUND, "orders.souk", "UNKNOWN_ORDER", f"there is no order {order_id}")
        return outcome

    def _decide(
        self, order_id: str, fingerprint: bytes, outcome: orders.Order | orders.Refusal
    ) -> tuple[dict[str, Any], bool]:
        replayed = order_id in self.decided
        known, decision = self.decided.setdefault(order_id, (fingerprint, outcome))
        if known != fingerprint:
            raise Refused(StatusCode.ALREADY_EXISTS, "orders.souk", "KEY_REUSED", "the key belongs to another request")
        return {"order" if isinstance(decision, orders.Order) else "refusal": decision}, replayed

    async def create(self, request: orders.CreateRequest) -> orders.CreateResponse:
        await self.faults.meet("create")
        if request.order_id not in self.decided and not request.holds_expire_at_us:
            raise Refused(StatusCode.ABORTED, "orders.souk", "HOLD_EXPIRING", "the holds have ended")
        subtotal = sum(line.unit_price * line.quantity for line in request.lines)
        order = orders.Order(
            id=request.order_id,
            status=orders.OrderStatus.CONFIRMED if self.confirm_at_once else orders.OrderStatus.ACCEPTED,
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
            created_at_us=NEW_YEAR_US,
            note="" if self.is_1_0 else request.note,
        )
        decision, replayed = self._decide(request.order_id, request.fingerprint, order)
        return orders.CreateResponse(**decision, replayed=replayed, pause_ms=self.pause_ms)

    async def refuse(self, request: orders.RefuseRequest) -> orders.RefuseResponse:
        await self.faults.meet("refuse")
        assert request.refusal is not None
        decision, replayed = self._decide(request.order_id, request.fingerprint, request.refusal)
        return orders.RefuseResponse(**decision, replayed=replayed)

    async def get(self, request: orders.GetRequest) -> orders.GetResponse:
        await self.faults.meet("get")
        order = self.order(request.order_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(request.wait_ms / 1000):
                while request.wait_ms and order.status is orders.OrderStatus.ACCEPTED:
                    await self.settled.wait()
                    self.settled.clear()
        return orders.GetResponse(order=order, history=self.histories.get(order.id, []))

    def settle(self, order_id: str, status: orders.OrderStatus) -> None:
        """Wakes the call that waits for it."""
        self.order(order_id).status = status
        self.settled.set()

    async def list(self, request: orders.ListRequest) -> orders.ListResponse:
        await self.faults.meet("list")
        found = [
            outcome
            for _, outcome in self.decided.values()
            if isinstance(outcome, orders.Order)
            and request.customer_id in ("", outcome.customer_id)
            and request.status in (orders.OrderStatus.UNSPECIFIED, outcome.status)
        ]
        page, token = page_of(found, request.page_size, request.page_token, "orders.souk")
        return orders.ListResponse(orders=page, next_page_token=token)

    async def cancel(self, request: orders.CancelRequest) -> orders.CancelResponse:
        await self.faults.meet("cancel")
        order = self.order(request.order_id)
        self._allow(order, orders.OrderStatus.ACCEPTED, orders.OrderStatus.CONFIRMED, orders.OrderStatus.CANCELLED)
        order.status, order.status_reason = orders.OrderStatus.CANCELLED, "CUSTOMER"
        return orders.CancelResponse(order=order)

    async def complete(self, request: orders.CompleteRequest) -> orders.CompleteResponse:
        await self.faults.meet("complete")
        order = self.order(request.order_id)
        self._allow(order, orders.OrderStatus.CONFIRMED, orders.OrderStatus.COMPLETED)
        order.status = orders.OrderStatus.COMPLETED
        return orders.CompleteResponse(order=order)

    def _allow(self, order: orders.Order, *statuses: orders.OrderStatus) -> None:
        if order.status not in statuses:
            status = str(order.status.name)
            detail = f"the order is {status}"
            raise Refused(StatusCode.FAILED_PRECONDITION, "orders.souk", "WRONG_STATUS", detail, {"status": status})


class Reservations(reservations.ReservationsServicer):
    def __init__(self) -> None:
        self.faults = Faults()
        self.items = {
            sku: reservations.Item(sku=sku, name=name, unit_price=price, currency="EUR", on_hand=1000, available=1000)
            for sku, name, price in (("tea", "Green tea", 450), ("demo", "Demo item", 100))
        }
        self.held: set[str] = set()
        self.is_1_0 = self.is_1_1 = False
        self.after_put: Callable[[reservations.Item], Exception | None] = lambda _: None
        """What becomes of the answer to a put that was carried out, and of the item."""
        self.after_restock: Callable[[reservations.Item], Exception | None] = lambda _: None
        self.restocks: dict[str, tuple[str, int, reservations.Item | Refused]] = {}

    def item(self, sku: str) -> reservations.Item:
        if sku not in self.items:
            detail = f"there is no item {sku}"
            raise Refused(StatusCode.NOT_FOUND, "reservations.souk", "UNKNOWN_SKU", detail, {"sku": sku})
        return self.items[sku]

    async def reserve(self, request: reservations.ReserveRequest) -> reservations.ReserveResponse:
        await self.faults.meet("reserve")
        items = [self.item(line.sku) for line in request.lines]
        if request.order_id not in self.held:
            for item, line in zip(items, request.lines, strict=True):
                if item.available < line.quantity:
                    raise Refused(
                        StatusCode.FAILED_PRECONDITION,
                        "reservations.souk",
                        "OUT_OF_STOCK",
                        f"only {item.available} of {item.sku} are available, {line.quantity} were ordered",
                        {"sku": item.sku, "requested": str(line.quantity), "available": str(item.available)},
                    )
            for item, line in zip(items, request.lines, strict=True):
                item.held += line.quantity
                item.available -= line.quantity
            self.held.add(request.order_id)
        lines = [
            reservations.QuotedLine(sku=item.sku, name=item.name, quantity=line.quantity, unit_price=item.unit_price)
            for item, line in zip(items, request.lines, strict=True)
        ]
        return reservations.ReserveResponse(lines=lines, currency="EUR", expires_at_us=FAR_AWAY_US)

    async def list_items(self, request: reservations.ListItemsRequest) -> reservations.ListItemsResponse:
        await self.faults.meet("list_items")
        items = sorted(self.items.values(), key=lambda item: item.sku)
        page, token = page_of(items, request.page_size, request.page_token, "reservations.souk")
        return reservations.ListItemsResponse(items=page, next_page_token=token)

    async def get_item(self, request: reservations.GetItemRequest) -> reservations.GetItemResponse:
        await self.faults.meet("get_item")
        return reservations.GetItemResponse(item=self._shown(self.item(request.sku)))

    def _shown(self, item: reservations.Item) -> reservations.Item:
        edited = f"{item.name}{item.unit_price}{item.description}".encode().hex()[-40:]
        return replace(item, revision="" if self.is_1_0 or self.is_1_1 else f"{edited}-{item.on_hand}")

    async def put_item(self, request: reservations.PutItemRequest) -> reservations.PutItemResponse:
        await self.faults.meet("put_item")
        there = self.items.get(request.sku)
        old = there or reservations.Item(sku=request.sku, currency="EUR")
        edit = None if self.is_1_0 or self.is_1_1 else request.edit
        on_hand = request.on_hand
        if edit is not None:
            on_hand = old.on_hand if edit.on_hand is None else edit.on_hand
        wanted = replace(
            old,
            name=request.name,
            unit_price=request.unit_price,
            on_hand=on_hand,
            available=on_hand - old.held,
            description=old.description if request.description is None or self.is_1_0 else request.description,
        )
        if edit is not None and not (edit.is_repeat and wanted == there):
            own, seen = self._shown(old).revision, edit.revisions
            if edit.on_hand is None:
                own, seen = own.partition("-")[0], [each.partition("-")[0] for each in seen]
            is_other = bool(seen) and own not in seen
            if (edit.must_be_new or is_other) if there else (edit.must_exist or seen):
                raise precondition_failed("reservations.souk")
        if on_hand < 0:
            detail = f"on_hand must be from 0 to 1000000000, but is {on_hand}"
            raise Refused(
                StatusCode.INVALID_ARGUMENT, "reservations.souk", "INVALID_ARGUMENT", detail, {"field": "on_hand"}
            )
        if on_hand < old.held:
            raise Refused(
                StatusCode.FAILED_PRECONDITION,
                "reservations.souk",
                "ON_HAND_BELOW_HELD",
                f"{old.held} of {old.sku} are held for orders",
                {"sku": old.sku, "held": str(old.held)},
            )
        self.items[request.sku] = wanted
        if failure := self.after_put(wanted):
            raise failure
        return reservations.PutItemResponse(item=self._shown(wanted))

    async def restock_item(self, request: reservations.RestockItemRequest) -> reservations.RestockItemResponse:
        await self.faults.meet("restock_item")
        once, quantity = None if self.is_1_0 or self.is_1_1 else request.once, request.quantity
        if once is not None:
            quantity = once.quantity
            known = self.restocks.get(once.request_id)
            if known is not None and known[:2] != (request.sku, quantity):
                raise Refused(StatusCode.ALREADY_EXISTS, "reservations.souk", "KEY_REUSED", "of another restock")
            if known is not None and isinstance(known[2], Refused):
                raise Refused(known[2].code, known[2].domain, known[2].reason, known[2].detail, {"replayed": "true"})
            if known is not None and isinstance(known[2], reservations.Item):
                return reservations.RestockItemResponse(item=known[2], replayed=True)
        if not quantity:
            detail = "quantity must be from 1 to 1000000000, but is 0"
            raise Refused(
                StatusCode.INVALID_ARGUMENT, "reservations.souk", "INVALID_ARGUMENT", detail, {"field": "quantity"}
            )
        answer: reservations.Item | Refused
        try:
            item = self.item(request.sku)
            item.on_hand += quantity
            item.available += quantity
            answer = replace(item)
        except Refused as refused:
            answer = refused
        if once is not None:
            self.restocks[once.request_id] = (request.sku, quantity, answer)
        if isinstance(answer, Refused):
            raise answer
        if failure := self.after_restock(answer):
            raise failure
        return reservations.RestockItemResponse(item=answer)


class Loyalty(loyalty.LoyaltyServicer):
    PERCENT: ClassVar = {loyalty.Tier.STANDARD: 0, loyalty.Tier.SILVER: 5, loyalty.Tier.GOLD: 10}

    def __init__(self) -> None:
        self.faults = Faults()
        self.accounts = {
            "c-1": loyalty.Account(
                customer_id="c-1", name="Ada", tier=loyalty.Tier.GOLD, discount_percent=10, points=500
            ),
            "guest": loyalty.Account(customer_id="guest", name="Guest", tier=loyalty.Tier.STANDARD),
        }
        self.is_1_0 = self.is_1_1 = False

    def account(self, customer_id: str) -> loyalty.Account:
        if customer_id not in self.accounts:
            detail = f"there is no customer {customer_id}"
            metadata = {"customer_id": customer_id}
            raise Refused(StatusCode.NOT_FOUND, "loyalty.souk", "UNKNOWN_CUSTOMER", detail, metadata)
        return self.accounts[customer_id]

    async def hold(self, request: loyalty.HoldRequest) -> loyalty.HoldResponse:
        await self.faults.meet("hold")
        account = self.account(request.customer_id)
        if request.redeem_points > account.points:
            raise Refused(
                StatusCode.FAILED_PRECONDITION, "loyalty.souk", "INSUFFICIENT_POINTS", "there are fewer points"
            )
        discount = request.subtotal * account.discount_percent // 100
        payable = request.subtotal - discount
        if request.redeem_points > payable:
            raise Refused(
                StatusCode.FAILED_PRECONDITION,
                "loyalty.souk",
                "REDEEM_EXCEEDS_TOTAL",
                f"only {payable} are to be paid",
                {"requested": str(request.redeem_points), "payable": str(payable)},
            )
        return loyalty.HoldResponse(
            discount_percent=account.discount_percent,
            discount=discount,
            points_redeemed=request.redeem_points,
            points_earned=(payable - request.redeem_points) // 100,
            expires_at_us=FAR_AWAY_US,
        )

    async def get_account(self, request: loyalty.GetAccountRequest) -> loyalty.GetAccountResponse:
        await self.faults.meet("get_account")
        return loyalty.GetAccountResponse(account=self._shown(self.account(request.customer_id)))

    def _shown(self, account: loyalty.Account) -> loyalty.Account:
        edited = f"{account.name}{account.tier}{account.tier_expires_at_us}".encode().hex()[-40:]
        return replace(account, revision="" if self.is_1_0 or self.is_1_1 else f"{edited}-{account.points}")

    async def put_account(self, request: loyalty.PutAccountRequest) -> loyalty.PutAccountResponse:
        await self.faults.meet("put_account")
        there = self.accounts.get(request.customer_id)
        old = there or loyalty.Account()
        expires_at_us = None if self.is_1_0 else request.tier_expires_at_us
        edit = None if self.is_1_0 or self.is_1_1 else request.edit
        points = request.points
        if edit is not None:
            points = old.points if edit.points is None else edit.points
            if edit.must_be_new and there:
                raise precondition_failed("loyalty.souk")
        if points < 0 and points != old.points:
            detail = f"points must be from 0 to 1000000000000, but is {points}"
            raise Refused(StatusCode.INVALID_ARGUMENT, "loyalty.souk", "INVALID_ARGUMENT", detail, {"field": "points"})
        account = self.accounts[request.customer_id] = loyalty.Account(
            customer_id=request.customer_id,
            name=request.name,
            tier=request.tier,
            discount_percent=self.PERCENT[request.tier],
            points=points,
            tier_expires_at_us=old.tier_expires_at_us if expires_at_us is None else expires_at_us,
        )
        return loyalty.PutAccountResponse(account=account)

    async def list_accounts(self, request: loyalty.ListAccountsRequest) -> loyalty.ListAccountsResponse:
        await self.faults.meet("list_accounts")
        accounts = sorted(self.accounts.values(), key=lambda account: account.customer_id)
        page, token = page_of(accounts, request.page_size, request.page_token, "loyalty.souk")
        return loyalty.ListAccountsResponse(accounts=page, next_page_token=token)


def precondition_failed(domain: str) -> Refused:
    return Refused(StatusCode.FAILED_PRECONDITION, domain, "PRECONDITION_FAILED", "it is not as it must be")


def page_of(rows: list[Any], size: int, token: str, domain: str) -> tuple[list[Any], str]:
    """Tokens are offsets, as `after-20`."""
    prefix, _, offset = token.rpartition("-")
    if token and (prefix != "after" or not (offset.isascii() and offset.isdecimal())):
        detail = "page_token: no call gave it; leave it out for the first page"
        raise Refused(StatusCode.INVALID_ARGUMENT, domain, "INVALID_ARGUMENT", detail, {"field": "page_token"})
    start = int(offset or 0)
    end = start + (size or 50)
    return rows[start:end], f"after-{end}" if end < len(rows) else ""


@dataclass
class Shop:
    """The three services, each on a port of its own."""

    orders: Orders = field(default_factory=Orders)
    reservations: Reservations = field(default_factory=Reservations)
    loyalty: Loyalty = field(default_factory=Loyalty)
    servers: dict[str, GrpcServer] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    async def open(self, name: str, servicer: Servicer) -> None:
        """Serves it, on the port that it had before where there was one."""
        # By number: of a name with two addresses gRPC takes what is free, and another server may have the other.
        settings = ServerSettings(
            service=name, version="1.2.3", address=f"127.0.0.1:{self.ports.get(name, 0)}", drain_s=0.1
        )
        server = self.servers[name] = GrpcServer(settings, [servicer], _always)
        self.ports[name] = await server.start()

    async def close(self, name: str) -> None:
        await self.servers.pop(name).drain()


async def _always() -> bool:
    return True


@asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    opened = Shop()
    try:
        for name in ("orders", "reservations", "loyalty"):
            await opened.open(name, getattr(opened, name))
        yield opened
    finally:
        for name in list(opened.servers):
            await opened.close(name)


@asynccontextmanager
async def gateway(opened: Shop, **settings: Any) -> AsyncIterator[str]:
    """A gateway in front of the shop; its address as a URL."""
    targets = {name: (Target(f"127.0.0.1:{opened.ports[name]}"),) for name in SERVICES}
    configured = Settings(**{"port": 0, "targets": targets, **settings})
    listener = listen(configured)
    port = listener.getsockname()[1]
    shutdown = asyncio.Event()
    serving = asyncio.create_task(serve(configured, listener, shutdown.wait))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        shutdown.set()
        await serving


async def main(port: int) -> None:
    async with shop() as opened, gateway(opened, port=port) as url:
        print(url)
        await termination().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
