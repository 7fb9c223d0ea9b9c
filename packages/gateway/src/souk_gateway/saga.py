"""Placing an order: reserve the goods, hold the points, record the order; or record that it was refused.

One id names all of it, so that a request which comes again, to any replica, takes the same steps again and gets the
same answer. The saga keeps no state and releases nothing: only the orders service decides, and what was held without
a decision expires by itself.
"""

import asyncio
import hashlib
import logging
import uuid
from dataclasses import dataclass
from typing import Protocol

import msgspec

from souk_contracts.loyalty.v1 import Account, HoldRequest, HoldResponse
from souk_contracts.orders.v1 import CreateRequest, CreateResponse, Order, Refusal, RefuseRequest, RefuseResponse
from souk_contracts.reservations.v1 import Line, ReserveRequest, ReserveResponse
from souk_gateway import messages
from souk_gateway.customers import Customers
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderRequest

log = logging.getLogger(__name__)

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

    async def check_not_confirmed(self, order_id: str, exchange: Exchange) -> None:
        """Raises `Rejected` as `reserve` does (SETTLED) where the order's reservation is CONFIRMED."""


class LoyaltyPort(Protocol):
    """Every call raises `Rejected` or `Unavailable`, and takes no longer than the exchange has left."""

    async def is_away(self, exchange: Exchange) -> bool:
        """Whether it is known that a call would fail. It seldom waits: see `OrdersPort`."""

    async def get_account(self, customer_id: str, exchange: Exchange) -> Account: ...

    async def hold(self, request: HoldRequest, exchange: Exchange, *, share: float = 1.0) -> HoldResponse:
        """`share` is the part of the exchange's time that the call may take."""


class OrdersPort(Protocol):
    """Every call raises `Rejected` or `Unavailable`, and takes no longer than the exchange has left."""

    async def is_away(self, exchange: Exchange) -> bool:
        """Whether it is known that a call would fail. It waits only where one request must find that out for all."""

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


def fingerprint_of(wanted: OrderRequest, besides: str = "") -> bytes:
    """SHA-256 of the request's meaning: the order of its members and its white space do not matter.

    `besides` is what it says besides the order.

    Every version must give the same fingerprint, since a retry may reach another version.
    """
    return hashlib.sha256(_encode(wanted) + besides.encode()).digest()


class Saga:
    """Places orders. `loyalty_required`: whether orders wait for loyalty to come back, or go without a discount."""

    def __init__(
        self, reservations: ReservationsPort, loyalty: LoyaltyPort, orders: OrdersPort, *, loyalty_required: bool
    ) -> None:
        self._reservations = reservations
        self._loyalty = loyalty
        self._orders = orders
        self._loyalty_required = loyalty_required
        self._customers = Customers(loyalty)
        self._abandoning: set[asyncio.Task[Decision]] = set()
        """For requests that were cut off."""

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange, besides: str = "") -> Decision:
        """Places an order, once for each key. `besides` is what the request says besides the order.

        Raises `Rejected` where the key is in flight (BUSY), was used for another request (KEY_REUSED), where other
        orders hold what is wanted (HELD_BY_OTHERS), or the holds were about to end (HOLD_EXPIRING); `Unavailable` where
        the outcome is not known, or orders has lost the order (ORDER_LOST). With a key, the same request then joins
        what this one left behind; without one, orders is told that nothing will come of it.
        """
        order_id, fingerprint = order_id_of(CALLER, key), fingerprint_of(wanted, besides)
        needs_loyalty = self._loyalty_required or wanted.redeem_points > 0
        # Before goods are held, which nobody could then use or release.
        loyalty_away = await self._look_who_is_away(needs_loyalty, exchange)
        try:
            try:
                if not loyalty_away:
                    await self._check_first(order_id, wanted, needs_loyalty, exchange)
                reserved = await self._reserve(order_id, wanted, exchange)
                held = None if loyalty_away else await self._hold(order_id, wanted, reserved, needs_loyalty, exchange)
            except Rejected as no:
                if no.is_passing:
                    raise
                if no.is_evidence:
                    return await self._look_up(order_id, fingerprint, wanted, no, exchange)
                return await self._refuse(order_id, fingerprint, wanted, no, exchange)
            return await self._create(order_id, fingerprint, wanted, reserved, held, exchange)
        except (Rejected, Unavailable) as error:
            if key is not None:
                raise
            return await self._abandon(order_id, fingerprint, wanted, error, exchange)
        except asyncio.CancelledError:  # the client has gone
            if key is None:
                cut = Unavailable("the request was cut off")
                task = asyncio.create_task(self._abandon(order_id, fingerprint, wanted, cut, exchange))
                self._abandoning.add(task)
                task.add_done_callback(self._abandoned)
            raise

    async def _look_who_is_away(self, needs_loyalty: bool, exchange: Exchange) -> bool:
        """Whether loyalty is away. Raises `Unavailable` if a service that is needed is."""
        if await self._orders.is_away(exchange):
            raise Unavailable("orders does not answer, so no order was placed; try again in a moment")
        loyalty_away = await self._loyalty.is_away(exchange)
        if loyalty_away and needs_loyalty:
            raise Unavailable("loyalty does not answer, so no order was placed; try again in a moment")
        return loyalty_away

    def _abandoned(self, task: asyncio.Task[Decision]) -> None:
        self._abandoning.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            log.error("an order that was cut off could not be ended", exc_info=error)

    async def _check_first(self, order_id: str, wanted: OrderRequest, needed: bool, exchange: Exchange) -> None:
        """Raises `Rejected` for an order that loyalty would refuse after its goods were held."""
        try:
            await self._customers.check(wanted, exchange, needed=needed)
        except Rejected:
            # The goods may have been sold for this very order, and then that counts, whatever loyalty says today.
            await self._reservations.check_not_confirmed(order_id, exchange)
            raise

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
        try:
            # Half of the time, so that there is some left to go on without it.
            held = await self._loyalty.hold(request, exchange, share=1.0 if needed else 0.5)
        except Unavailable:
            if needed:
                raise
            return None  # should it be held after all, orders has it released
        except Rejected as no:
            if not no.is_passing and not no.is_evidence:
                self._customers.refused()
            raise
        self._customers.exists(wanted.customer_id)
        return held

    async def _create(
        self,
        order_id: str,
        fingerprint: bytes,
        wanted: OrderRequest,
        reserved: ReserveResponse,
        held: HoldResponse | None,
        exchange: Exchange,
    ) -> Decision:
        request = messages.create(order_id, fingerprint, wanted, reserved, held)
        answer = await self._orders.create(request, exchange)
        if answer.order is not None and not answer.replayed and not answer.order.customer_id:
            answer.order = messages.in_full(answer.order, request)
        return _decision(answer)

    async def _refuse(
        self, order_id: str, fingerprint: bytes, wanted: OrderRequest, no: Rejected, exchange: Exchange
    ) -> Decision:
        request = messages.refuse(order_id, fingerprint, wanted, no)
        return _decision(await self._orders.refuse(request, exchange))

    async def _look_up(
        self, order_id: str, fingerprint: bytes, wanted: OrderRequest, evidence: Rejected, exchange: Exchange
    ) -> Decision:
        """The decision about an order that a participant has CONFIRMED. Raises `Unavailable` if orders has lost it.

        A Refuse would be recorded where orders has lost it, and undo the sale.
        """
        request = messages.look_up(order_id, fingerprint, wanted)
        try:
            return _decision(await self._orders.create(request, exchange))
        except Rejected as no:
            if no.reason != "HOLD_EXPIRING":
                raise
        log.error("orders has lost the order %s, which was confirmed: %s", order_id, evidence.detail)
        raise Unavailable(
            f"the order {order_id} was confirmed, but the database of orders has lost it; nothing was changed, and the "
            "order must be restored by whoever runs this shop",
            reason="ORDER_LOST",
        )

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
        no = Rejected("UNAVAILABLE", "a service did not answer while the order was placed")
        try:
            decision = await self._refuse(order_id, fingerprint, wanted, no, exchange)
        except (Rejected, Unavailable):
            raise error from None  # it was the cause of this one, too
        if isinstance(decision.outcome, Refusal):
            raise error
        return decision  # Create had succeeded, only its answer was lost


def _decision(answer: CreateResponse | RefuseResponse) -> Decision:
    outcome = answer.refusal if answer.order is None else answer.order
    if outcome is None:
        raise Unavailable("orders sent an answer that this gateway does not understand; try again in a moment")
    return Decision(outcome, answer.replayed, answer.pause_ms if isinstance(answer, CreateResponse) else None)
