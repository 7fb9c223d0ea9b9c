"""The ways to the participants: what they say, and how much of what is sent to each is under way."""

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from souk_orders.book import Message, Participant
from souk_orders.domain import Order, Refusal

log = logging.getLogger(__name__)

_COMPLAINT_PERIOD_S = 10.0


class CallFailed(Exception):
    """A participant did not answer, or answered something that it should not; the text says what."""


class Reply(NamedTuple):
    """What a participant said: its final no, or None for yes."""

    no: Refusal | None
    served_by: str
    """What it calls itself, such as `loyalty/1.0.0`; empty where it does not say."""


class ParticipantClient(Protocol):
    """Reservations or loyalty. Each call of a list has an answer of its own, in the order of the list.

    It comes within the deadline that the client was made with; CallFailed where the participant gave none.
    """

    async def confirm(self, orders: Sequence[Order]) -> Sequence[Reply | CallFailed]:
        """Makes what each order says its own."""

    async def release(self, order_ids: Sequence[str]) -> Sequence[Reply | CallFailed]:
        """Gives back whatever there is under these ids, for ever; every reply is a yes."""


class Route:
    """What goes to one participant: `free` says how many more messages may."""

    def __init__(self, participant: Participant, client: ParticipantClient, at_once: int) -> None:
        self.client = client
        self.free = at_once
        self.answers = True
        """Whether the participant answered the last time."""
        self.under_way: dict[str, int] = {}
        """The orders whose first Confirm is under way, and when they were made (µs)."""
        self.left_since_us: int | None = None
        """Since when there may be messages in the outbox that no relay has leased."""
        self.complaints = _Complaints(participant)

    def waiting(self) -> Sequence[int]:
        """Since when its Confirms have waited."""
        return [*self.under_way.values(), *([] if self.left_since_us is None else [self.left_since_us])]


class _Complaints:
    """Logs failed calls to a participant once in a while, since an outage fails very many."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._count = 0
        self._quiet_until_s = 0.0

    def add(self, message: Message, error: Exception) -> None:
        self._count += 1
        now_s = asyncio.get_running_loop().time()
        if now_s < self._quiet_until_s:
            return
        log.warning(
            "%d calls to %s failed; the last one was %s of order %s, attempt %d: %s",
            self._count,
            self._participant,
            message.kind,
            message.order_id,
            message.attempts + 1,
            text_of(error),
            exc_info=None if isinstance(error, CallFailed) else error,
        )
        self._count = 0
        self._quiet_until_s = now_s + _COMPLAINT_PERIOD_S


def text_of(error: Exception) -> str:
    text = str(error) if isinstance(error, CallFailed) else f"{type(error).__name__}: {error}"
    return text.replace("\0", " ")[:500]
