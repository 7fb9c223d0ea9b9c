"""Which decision stands for an id, and what must be told to whom because of it. Standard library only.

There is one decision for an order id, made once: an order, or a refusal. Every call stands here, and nowhere else:

    call       no row              ACCEPTED           CONFIRMED          COMPLETED          CANCELLED
    create     ACCEPTED            as it stands       as it stands       as it stands       as it stands
               + Confirm to both
    refuse     refused             as it stands       as it stands       as it stands       as it stands
               + Release to both
    cancel     UnknownOrder        CANCELLED          CANCELLED          WrongStatus        unchanged
                                   + Release to both  + Release to both
    complete   UnknownOrder        WrongStatus        COMPLETED          unchanged          WrongStatus
    last yes   -                   CONFIRMED          -                  -                  -
    a no       -                   as cancel          -                  -                  -

An order without loyalty sends it a Release in place of the Confirm, and needs the yes of reservations only. A refused
id gives its refusal to create and refuse, and is unknown to all others. A replay with another fingerprint is KeyReused.
Long after nobody must be told of it any more `prune` may delete a refused id or a CANCELLED order: no row, again.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from souk_orders import SERVICE, __version__
from souk_orders.domain import (
    CANCELLED_BY_CUSTOMER,
    Decision,
    HistoryEntry,
    HoldExpiring,
    KeyReused,
    Order,
    Refusal,
    RefusedOrder,
    Status,
    Terms,
    UnknownOrder,
)

LONGEST_DELAY_US = 30_000_000
"""For which a message is put off."""

CLOCKS_APART_US = 10_000_000
"""By which the clocks of two processes may differ, and a clock step back, unnoticed."""

_SELF = f"{SERVICE}/{__version__}"


class Participant(StrEnum):
    """Who takes part in an order."""

    RESERVATIONS = "RESERVATIONS"
    LOYALTY = "LOYALTY"


class Kind(StrEnum):
    """What a participant is told."""

    CONFIRM = "CONFIRM"
    RELEASE = "RELEASE"


class Message(NamedTuple):
    """What a participant must still be told; gone once it has answered. One at most for an order and a participant.

    It is due at `due_at_us`, and until `leased_until_us` someone is sending it.
    """

    order_id: str
    participant: Participant
    kind: Kind
    created_at_us: int
    due_at_us: int
    leased_until_us: int = 0
    attempts: int = 0
    last_error: str = ""


class Delivery(NamedTuple):
    """A leased message, and the decision that it is about."""

    message: Message
    decision: Decision


class Decided(NamedTuple):
    """A decision as it stands; `replayed` where it had been made before, `leased` what whoever asked is to deliver."""

    decision: Decision
    replayed: bool
    leased: tuple[Delivery, ...] = ()


class OrderBook:
    """The decisions and messages that a transaction is about, and what may be done to them.

    It holds every decision that the calls name, and every message of it; what is not there does not exist. A call
    that raises has changed nothing. `steps` holds those that were taken here, by the orders' ids.
    """

    def __init__(
        self,
        decisions: Mapping[str, Decision],
        outbox: Iterable[Message],
        now_us: int,
        others: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self.decisions = dict(decisions)
        self.outbox = {(message.order_id, message.participant): message for message in outbox}
        self.others = dict(others)
        """What is pending, by order and participant, for participants that only a newer version knows."""
        self.steps: dict[str, list[HistoryEntry]] = {}
        self._now_us = now_us

    def create(
        self, order_id: str, fingerprint: bytes, terms: Terms, accept_until_us: int, lease_us: int = 0
    ) -> Decided:
        """Takes an order, or gives what was decided before. What is new to tell is leased for `lease_us`, if not 0.

        Raises KeyReused, HoldExpiring.
        """
        if (before := self._decided_before(order_id, fingerprint)) is not None:
            return before
        if self._now_us > accept_until_us:
            raise HoldExpiring(order_id)
        order = Order(order_id, fingerprint, terms, Status.ACCEPTED, "", self._now_us)
        self._settle(order)
        goods = self._tell(order_id, Participant.RESERVATIONS, Kind.CONFIRM, lease_us)
        to_loyalty = Kind.RELEASE if terms.without_loyalty else Kind.CONFIRM
        points = self._tell(order_id, Participant.LOYALTY, to_loyalty, lease_us)
        return Decided(
            order, replayed=False, leased=(Delivery(goods, order), Delivery(points, order)) if lease_us else ()
        )

    def refuse(
        self, order_id: str, fingerprint: bytes, customer_id: str, refusal: Refusal, lease_us: int = 0
    ) -> Decided:
        """Refuses an order, or gives what was decided before; leases as `create` does. Raises KeyReused."""
        if (before := self._decided_before(order_id, fingerprint)) is not None:
            return before
        refused = RefusedOrder(order_id, fingerprint, customer_id, refusal, self._now_us)
        self.decisions[order_id] = refused
        messages = self._release(order_id, lease_us)
        leased = tuple(Delivery(message, refused) for message in messages) if lease_us else ()
        return Decided(refused, replayed=False, leased=leased)

    def cancel(self, order_id: str) -> Order:
        """Cancels an order that is not completed. Raises UnknownOrder, WrongStatus."""
        return self._cancel(self._order(order_id), CANCELLED_BY_CUSTOMER)

    def complete(self, order_id: str) -> Order:
        """Completes a confirmed order. Raises UnknownOrder, WrongStatus."""
        return self._settle(self._order(order_id).completed())

    def lease(self, participant: Participant, limit: int, lease_us: int) -> list[Delivery]:
        """Hands out messages that are due and that nobody is sending, those first that have waited longest."""
        now_us = self._now_us
        due = [
            message
            for message in self.outbox.values()
            if message.participant is participant and self._is_due(message, lease_us)
        ]
        due.sort(key=lambda message: message.due_at_us)
        leased = [message._replace(leased_until_us=now_us + lease_us) for message in due[:limit]]
        self.outbox.update({(message.order_id, message.participant): message for message in leased})
        return [Delivery(message, self.decisions[message.order_id]) for message in leased]

    def answered(self, message: Message, no: Refusal | None, served_by: str = "") -> Order | None:
        """Takes a participant's answer, None for yes; gives the order where that has settled it.

        The answer counts only while that very message is pending, and to a Confirm only while the order is ACCEPTED.
        `served_by` is what the participant calls itself, such as `loyalty/1.0.0`; empty where it did not say.
        """
        key = (message.order_id, message.participant)
        pending = self.outbox.get(key)
        if pending is None or pending.kind is not message.kind:
            return None
        participant, served_by = message.participant, served_by or message.participant.lower()
        if pending.kind is Kind.RELEASE:
            del self.outbox[key]
            if isinstance(self.decisions[message.order_id], Order):
                self._note(message.order_id, f"{participant}_RELEASED", served_by)
            return None
        order = self._order(message.order_id)
        if order.status is not Status.ACCEPTED:
            return None
        if no is not None:
            self._note(order.order_id, f"{participant}_DECLINED", served_by, f"{no.reason}: {no.detail}")
            return self._cancel(order, no.reason)
        del self.outbox[key]
        self._note(order.order_id, f"{participant}_CONFIRMED", served_by)
        others = (self.outbox.get((order.order_id, participant)) for participant in Participant)
        if any(other is not None and other.kind is Kind.CONFIRM for other in others):
            return None
        if Kind.CONFIRM in self.others.get(order.order_id, {}).values():
            return None  # a newer process settles it, once all have said yes
        return self._settle(order.confirmed())

    def put_off(self, message: Message, error: str, delay_us: int) -> None:
        """Gives a message back whose call failed, to be sent again after `delay_us`; by whoever holds its lease."""
        key = (message.order_id, message.participant)
        pending = self.outbox.get(key)
        if pending is None or pending.kind is not message.kind or pending.leased_until_us != message.leased_until_us:
            return
        self.outbox[key] = pending._replace(
            due_at_us=self._now_us + delay_us,
            leased_until_us=0,
            attempts=pending.attempts + 1,
            last_error=error,
        )

    def _decided_before(self, order_id: str, fingerprint: bytes) -> Decided | None:
        decision = self.decisions.get(order_id)
        if decision is None:
            return None
        if decision.fingerprint != fingerprint:
            raise KeyReused(order_id)
        return Decided(decision, replayed=True)

    def _order(self, order_id: str) -> Order:
        decision = self.decisions.get(order_id)
        if not isinstance(decision, Order):
            raise UnknownOrder(order_id)
        return decision

    def _cancel(self, order: Order, reason: str) -> Order:
        cancelled = order.cancelled(reason)
        if cancelled is not order:
            self._release(order.order_id)
        return self._settle(cancelled)

    def _settle(self, order: Order) -> Order:
        if order is not self.decisions.get(order.order_id):
            self.decisions[order.order_id] = order
            self._note(order.order_id, order.status.value, _SELF, order.status_reason)
        return order

    def _note(self, order_id: str, step: str, served_by: str, detail: str = "") -> None:
        self.steps.setdefault(order_id, []).append(HistoryEntry(step, self._now_us, served_by, detail))

    def _release(self, order_id: str, lease_us: int = 0) -> list[Message]:
        if order_id in self.others:
            self.others[order_id] = dict.fromkeys(self.others[order_id], Kind.RELEASE.value)
        return [self._tell(order_id, participant, Kind.RELEASE, lease_us) for participant in Participant]

    def _is_due(self, message: Message, lease_us: int) -> bool:
        """Whether to send it now. A time that is further away than it can have been set to is from another clock."""
        now_us = self._now_us
        waits = now_us < message.due_at_us <= now_us + LONGEST_DELAY_US + CLOCKS_APART_US
        leased = now_us < message.leased_until_us <= now_us + lease_us + CLOCKS_APART_US
        return not waits and not leased

    def _tell(self, order_id: str, participant: Participant, kind: Kind, lease_us: int) -> Message:
        now_us = self._now_us
        message = Message(order_id, participant, kind, now_us, now_us, now_us + lease_us if lease_us else 0)
        self.outbox[order_id, participant] = message  # in place of what is pending for the same participant
        return message
