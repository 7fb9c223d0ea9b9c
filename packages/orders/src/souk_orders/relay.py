"""Tells reservations and loyalty what became of an order, again and again until each has answered."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from souk_orders.book import Delivery, Kind, Message, Participant
from souk_orders.domain import Order, Refusal, StorageUnavailable
from souk_orders.service import Answered, Command, Lease, Outcome, PutOff

log = logging.getLogger(__name__)

_AT_ONCE = 256
"""Calls under way to one participant, so that one which hangs does not keep others from being sent."""

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 30.0

_RECORDING_S = 5.0
"""A lease outlives its call by this, for the answer to be recorded."""

_COMPLAINT_PERIOD_S = 10.0
_AFTER_ERROR_S = 1.0


class CallFailed(Exception):
    """A participant did not answer, or not as agreed; the text says how."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a participant said: its final no, or None for yes."""

    no: Refusal | None
    served_by: str
    """What it calls itself, such as `loyalty/1.0.0`; empty where it does not say."""


class ParticipantClient(Protocol):
    """Reservations or loyalty. Every method raises CallFailed, within the deadline that the client was made with."""

    async def confirm(self, order: Order) -> Reply:
        """Makes what the order says its own."""

    async def release(self, order_id: str) -> Reply:
        """Gives back whatever there is under this id, for ever; the reply is a yes."""


class Outbox(Protocol):
    """Where the messages are kept: the part of `service.Storage` that the relay needs."""

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Raises StorageUnavailable."""


class OutboxRelay:
    """Sends what is due. Any number of relays may work on one outbox, since each leases what it sends.

    `wake` asks for a look at the outbox at once; without that there is one every `period_s`. A lease lives longer
    than `timeout_s`, the deadline of the clients. `settled` is called with the id of each order that an answer has
    settled. `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        outbox: Outbox,
        clients: Mapping[Participant, ParticipantClient],
        *,
        period_s: float,
        timeout_s: float,
        settled: Callable[[str], None] = lambda _: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._clients = clients
        self._period_s = period_s
        self._lease_us = int((timeout_s + _RECORDING_S) * 1_000_000)
        self._settled = settled
        self._jitter = jitter
        self._news = asyncio.Event()
        self._stopping = False
        self._free = dict.fromkeys(clients, _AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()
        self._complaints = {participant: _Complaints(participant) for participant in clients}

    def wake(self) -> None:
        """Says that there is something new to send."""
        self._news.set()

    def lease_us(self) -> int:
        """For how long to lease what is new for this relay to `deliver`; 0 where it has enough to do.

        That saves finding it in the outbox, where it is all the same, for whoever comes when the lease has run out.
        """
        return self._lease_us if not self._stopping and all(free > 0 for free in self._free.values()) else 0

    def deliver(self, leased: Sequence[Delivery]) -> None:
        """Sends what was leased for this relay."""
        self._start(leased)

    async def run_once(self) -> int:
        """Sends what is due and waits for the answers; gives how many messages it sent. Raises StorageUnavailable."""
        tasks = await self._start_due()
        await asyncio.gather(*tasks)
        return len(tasks)

    async def run(self) -> None:
        """Sends until `stop` is called, and waits for the answers. What hangs does not hold up what falls due later."""
        while not self._stopping:
            self._news.clear()
            try:
                await self._start_due()
            except Exception as error:  # noqa: BLE001 (without a relay no order would ever be confirmed)
                _log_storage("read the outbox", error)
                await asyncio.sleep(min(self._period_s, _AFTER_ERROR_S))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._news.wait()
        await asyncio.gather(*self._sending)

    def stop(self) -> None:
        """Lets `run` return. What was sent and not recorded would have to wait for its lease to run out."""
        self._stopping = True
        self.wake()

    async def _start_due(self) -> list[asyncio.Task[None]]:
        # Fewer than none are free where calls that ran at the same time leased more.
        leases = [Lease(to, free, self._lease_us) for to, free in self._free.items() if free > 0]
        if not leases:
            return []
        tasks = []
        for outcome in await self._outbox.execute(leases):
            assert isinstance(outcome, tuple)
            tasks += self._start(outcome)
        return tasks

    def _start(self, leased: Sequence[Delivery]) -> list[asyncio.Task[None]]:
        tasks = []
        for delivery in leased:
            self._free[delivery.message.participant] -= 1
            task = asyncio.create_task(self._deliver(delivery))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            tasks.append(task)
        return tasks

    async def _deliver(self, delivery: Delivery) -> None:
        message = delivery.message
        try:
            await self._record(message, await self._send(delivery))
        except Exception as error:  # noqa: BLE001 (the lease runs out, and the message is sent again)
            _log_storage("record an answer", error)
        finally:
            self._free[message.participant] += 1
            if self._free[message.participant] == 1:
                self.wake()

    async def _send(self, delivery: Delivery) -> Answered | PutOff:
        message, decision = delivery.message, delivery.decision
        client = self._clients[message.participant]
        try:
            if message.kind is Kind.RELEASE:
                reply = await client.release(message.order_id)
            else:
                assert isinstance(decision, Order)
                reply = await client.confirm(decision)
            return Answered(message, reply.no, reply.served_by)
        except Exception as error:  # noqa: BLE001 (whatever it is, this message must not stop the others)
            self._complaints[message.participant].add(message, error)
            return PutOff(message, _text(error), int(self._delay_s(message.attempts) * 1_000_000))

    async def _record(self, message: Message, answer: Answered | PutOff) -> None:
        # Alone, not with the answers to other messages: the writer puts what is waiting into one transaction anyway.
        (settled,) = await self._outbox.execute([answer])
        if not isinstance(settled, Order):
            return
        self._settled(message.order_id)
        if isinstance(answer, Answered) and answer.no is not None:
            log.info("order %s is cancelled: %s says no, %s", message.order_id, message.participant, answer.no.detail)
            self.wake()

    def _delay_s(self, attempts: int) -> float:
        longest = min(_FIRST_DELAY_S * 2.0 ** min(attempts, 32), _LONGEST_DELAY_S)
        return longest * (1 + self._jitter()) / 2


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
            "%d calls to %s failed; the last: %s of order %s, attempt %d: %s",
            self._count,
            self._participant,
            message.kind,
            message.order_id,
            message.attempts + 1,
            _text(error),
            exc_info=None if isinstance(error, CallFailed) else error,
        )
        self._count = 0
        self._quiet_until_s = now_s + _COMPLAINT_PERIOD_S


def _log_storage(what: str, error: Exception) -> None:
    unexpected = None if isinstance(error, StorageUnavailable) else error
    log.warning("cannot %s: %s", what, error, exc_info=unexpected)


def _text(error: Exception) -> str:
    text = str(error) if isinstance(error, CallFailed) else f"{type(error).__name__}: {error}"
    return text.replace("\0", " ")[:500]
