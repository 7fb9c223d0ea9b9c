"""What the service does for others, and what it needs for that.

A use case checks what it is given and hands commands to the storage, which carries out all that are waiting in one
transaction: so commands go in lists, and each has an outcome of its own.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from souk_orders import limits
from souk_orders.admission import Admission
from souk_orders.book import Decided, Delivery, Message, Participant
from souk_orders.domain import DomainError, HistoryEntry, Order, Refusal, Status, Terms
from souk_orders.lobby import Lobby


class Create(NamedTuple):
    """Outcome: Decided, or KeyReused, HoldExpiring (for a new order after `accept_until_us`).

    With a `lease_us`, what participants must be told is leased for so long to whoever asked.
    """

    order_id: str
    fingerprint: bytes
    terms: Terms
    accept_until_us: int
    lease_us: int = 0


class Refuse(NamedTuple):
    """Outcome: Decided, or KeyReused. It leases as Create does."""

    order_id: str
    fingerprint: bytes
    customer_id: str
    refusal: Refusal
    lease_us: int = 0


class Cancel(NamedTuple):
    """Outcome: the Order, or UnknownOrder, WrongStatus."""

    order_id: str


class Complete(NamedTuple):
    """Outcome: the Order, or UnknownOrder, WrongStatus."""

    order_id: str


class Lease(NamedTuple):
    """Hands out messages that are due, for `lease_us`. Outcome: the Deliveries, those first that waited longest."""

    participant: Participant
    limit: int
    lease_us: int


class Answered(NamedTuple):
    """What a participant said to a message, None for yes. Outcome: the Order where that settled it, or None."""

    message: Message
    no: Refusal | None
    served_by: str = ""
    """Who said it, such as `loyalty/1.0.0`."""


class PutOff(NamedTuple):
    """Gives a message back whose call failed. Outcome: None."""

    message: Message
    error: str
    delay_us: int


Command = Create | Refuse | Cancel | Complete | Lease | Answered | PutOff
Outcome = Decided | Order | list[Delivery] | DomainError | None


Wanted = tuple[str, bytes, Terms, int]
"""Of an order: its id, the request's fingerprint, its terms, and when its holds end (µs since the Unix epoch)."""


class Storage(Protocol):
    """Where orders and messages are kept. Every method raises StorageUnavailable when it cannot be reached."""

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Carries out all commands, in order, durably; a refused one is an outcome and does not stop the others."""

    def begin(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Outcome]]:
        """The same, also if nobody waits for it any more; gives what will have the outcomes, or StorageUnavailable."""

    def lag_s(self) -> float:
        """For how long the first command that is not carried out yet has waited, in seconds."""

    async def order(self, order_id: str) -> Order:
        """Raises UnknownOrder."""

    async def order_with_history(self, order_id: str) -> tuple[Order, Sequence[HistoryEntry]]:
        """The order and its steps, the oldest first, as they stood at one moment. Raises UnknownOrder."""

    async def orders(
        self, customer_id: str, status: Status | None, after: limits.Position, limit: int
    ) -> Sequence[Order]:
        """Orders that come after a position, the newest first; of all customers for ""."""


class Relay(Protocol):
    """Who tells the participants what was decided."""

    def lease_us(self) -> int:
        """For how long to lease what it may be given to deliver; 0 where it has enough to do."""

    def deliver(self, leased: Sequence[Delivery]) -> None:
        """Takes over what was leased for it."""

    def wake(self) -> None:
        """Says that there is something new in the outbox, which nobody has leased."""

    def lag_us(self, ttl_us: int) -> int:
        """For how long the oldest Confirm has waited that can be delivered, and whose hold lives for `ttl_us`."""


class Orders:
    """The use cases. All raise InvalidArgument for what is out of its range, and StorageUnavailable.

    `relay` gets what is new to tell the participants; `lobby` is where calls wait for an order to be settled.
    """

    def __init__(
        self, storage: Storage, relay: Relay, lobby: Lobby, *, hold_margin_s: float, hold_ttl_s: float
    ) -> None:
        self._storage = storage
        self._relay = relay
        self._lobby = lobby
        self.admission = Admission(storage.lag_s, relay.lag_us, hold_ttl_s=hold_ttl_s)
        self._margin_us = int(hold_margin_s * 1_000_000)

    async def create(self, order_id: str, fingerprint: bytes, terms: Terms, holds_expire_at_us: int) -> Decided:
        """Takes the order, or gives what was decided before. Raises KeyReused, HoldExpiring, Overloaded."""
        (outcome,) = await self.create_all([(order_id, fingerprint, terms, holds_expire_at_us)])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def create_all(self, wanted: Sequence[Wanted]) -> Sequence[Decided | DomainError]:
        """Takes several orders at once. What `create` would raise for one is its outcome, InvalidArgument too.

        Raises Overloaded, before any of them is looked at.
        """
        self.admission.check()
        commands = [self._create(*each) for each in wanted]
        made = [command for command in commands if not isinstance(command, DomainError)]
        outcomes = iter(await self._decide(made) if made else ())
        return [command if isinstance(command, DomainError) else _decided(next(outcomes)) for command in commands]

    async def refuse(self, order_id: str, fingerprint: bytes, customer_id: str, refusal: Refusal) -> Decided:
        """Records the refusal, or gives what was decided before. Raises KeyReused."""
        command = Refuse(
            limits.order_id(order_id),
            limits.fingerprint(fingerprint),
            limits.customer_id(customer_id),
            limits.refusal(refusal),
            self._relay.lease_us(),
        )
        (outcome,) = await self._decide([command])
        if isinstance(outcome, DomainError):
            raise outcome
        assert isinstance(outcome, Decided)
        return outcome

    async def cancel(self, order_id: str) -> Order:
        """Raises UnknownOrder, WrongStatus."""
        (order,) = await self._decide([Cancel(limits.order_id(order_id))])
        if isinstance(order, DomainError):
            raise order
        assert isinstance(order, Order)
        return order

    async def complete(self, order_id: str) -> Order:
        """Raises UnknownOrder, WrongStatus."""
        order = await self._execute(Complete(limits.order_id(order_id)))
        assert isinstance(order, Order)
        return order

    async def order(self, order_id: str, wait_ms: int) -> tuple[Order, Sequence[HistoryEntry]]:
        """The order and its history; while it is ACCEPTED, waits up to `wait_ms` for more. Raises UnknownOrder."""
        limits.order_id(order_id)
        if limits.wait_ms(wait_ms):

            async def is_settled() -> bool:
                return (await self._storage.order(order_id)).status is not Status.ACCEPTED

            await self._lobby.wait(order_id, is_settled, wait_ms / 1000)
        return await self._storage.order_with_history(order_id)

    async def orders(
        self, customer_id: str, status: Status | None, page_size: int, page_token: str
    ) -> tuple[Sequence[Order], str]:
        """A page, the newest first, and the token of the next one; empty on the last. "" is for all customers."""
        if customer_id:
            limits.customer_id(customer_id)
        size = limits.page_size(page_size)
        after = limits.position(page_token, customer_id, status)
        orders = await self._storage.orders(customer_id, status, after, size + 1)
        page = orders[: limits.fitting(orders[:size])]
        if len(page) == len(orders):
            return page, ""
        return page, limits.page_token(page[-1], orders[len(page)], customer_id, status)

    def _create(self, order_id: str, fingerprint: bytes, terms: Terms, holds_expire_at_us: int) -> Create | DomainError:
        try:
            return Create(
                limits.order_id(order_id),
                limits.fingerprint(fingerprint),
                limits.terms(terms),
                holds_expire_at_us - self._margin_us,
                self._relay.lease_us(),
            )
        except DomainError as error:
            return error

    async def _decide(self, commands: Sequence[Create | Refuse | Cancel]) -> Sequence[Outcome]:
        """Has decisions made, and the participants told of them, even if the caller is cancelled meanwhile."""
        outcomes = self._storage.begin(commands)
        outcomes.add_done_callback(self._tell)
        return await asyncio.shield(outcomes)

    def _tell(self, done: asyncio.Future[Sequence[Outcome]]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        decided = [outcome for outcome in done.result() if isinstance(outcome, Decided)]
        self._relay.deliver([delivery for each in decided for delivery in each.leased])
        cancelled = [outcome for outcome in done.result() if isinstance(outcome, Order)]
        for order in cancelled:
            self._lobby.call(order.order_id)
        if cancelled or any(not each.replayed and not each.leased for each in decided):
            self._relay.wake()

    async def _execute(self, command: Command) -> Outcome:
        (outcome,) = await self._storage.execute([command])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome


def _decided(outcome: Outcome) -> Decided | DomainError:
    assert isinstance(outcome, Decided | DomainError)
    return outcome
