"""Sends orders' decisions to reservations and loyalty, and repeats each message until it is answered."""

from __future__ import annotations  # classes name those that follow them

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from souk_orders.book import LONGEST_DELAY_US, Delivery, Kind, Message, Participant
from souk_orders.domain import Order, StorageUnavailable
from souk_orders.routes import CallFailed, ParticipantClient, Reply, Route, text_of
from souk_orders.service import Answered, Command, Lease, Outcome, PutOff
from souk_orders.settings import RECORDING_S
from souk_orders.writer import Clock, system_clock

log = logging.getLogger(__name__)

_AT_ONCE = 256
"""Messages under way to a participant, in any number of lists: one that hangs does not keep others from being sent."""
_APART_S = 0.05
"""Nobody waits for a confirmation as for an answer: while orders keep coming, twenty lists a second are enough."""
_FULL = 192
"""Messages, of both participants, that leave sooner: longer lists keep others waiting."""
_TOGETHER_S = 0.1
"""For how long an answer waits for the other participant's, to be recorded in one transaction with it."""

_FIRST_DELAY_S = 0.1

_AFTER_ERROR_S = 1.0


class Outbox(Protocol):
    """Where the messages are kept: the part of `service.Storage` that the relay needs."""

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Raises StorageUnavailable."""


class OutboxRelay:
    """Sends what is due. Any number of relays may work on one outbox, since each leases what it sends.

    What is leased travels in a list for each participant. They leave together, 50 ms after those before them or as
    soon as they are long; a lone message leaves at once. `wake` asks for a look at the outbox at once; without that
    there is one every `period_s`. A lease lives longer than `timeout_s`, the deadline of the clients. `settled` is
    called with the id of each order that an answer has settled. `jitter` gives numbers from 0 to 1, `clock` the time
    that the messages' own times are of.
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
        clock: Clock = system_clock,
    ) -> None:
        self._outbox = outbox
        self._routes = {participant: Route(participant, client, _AT_ONCE) for participant, client in clients.items()}
        self._waiting: list[Delivery] = []
        """For the next lists."""
        self._is_full = asyncio.Event()
        self._leave_at_s = 0.0
        self._period_s = period_s
        self._lease_us = int((timeout_s + RECORDING_S) * 1_000_000)
        self._settled = settled
        self._jitter = jitter
        self._clock = clock
        self._news = asyncio.Event()
        self._stopping = False
        self._sending: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Says that there is something new to send."""
        self._news.set()

    def lease_us(self) -> int:
        """For how long to lease what is new for this relay to `deliver`; 0 where it has enough to do.

        That saves finding it in the outbox, where it is all the same, for whoever comes when the lease has run out.
        """
        if not self._stopping and all(route.free > 0 for route in self._routes.values()):
            return self._lease_us
        for route in self._routes.values():
            if route.left_since_us is None:
                route.left_since_us = self._clock()
        return 0

    def lag_us(self, ttl_us: int) -> int:
        """For how long the oldest Confirm has waited that protects a hold which is alive, and lives for `ttl_us`.

        Only of a participant that answers: otherwise there is nothing to wait for. Nor does a message count whose call
        failed, since it waits for its own reasons.
        """
        now_us = self._clock()
        waiting = (since_us for route in self._routes.values() if route.answers for since_us in route.waiting())
        return max((now_us - since_us for since_us in waiting if now_us - since_us < ttl_us), default=0)

    def deliver(self, leased: Sequence[Delivery]) -> None:
        """Sends what was leased for this relay."""
        for message, _ in leased:
            route = self._routes[message.participant]
            route.free -= 1
            if message.kind is Kind.CONFIRM and not message.attempts:
                route.under_way[message.order_id] = message.created_at_us
        if leased and not self._waiting:
            task = asyncio.create_task(self._send())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        self._waiting += leased
        if len(self._waiting) >= _FULL:
            self._is_full.set()

    async def run_once(self) -> int:
        """Sends what is due, and waits until nothing is under way; gives how many messages were due.

        Raises StorageUnavailable.
        """
        count = await self._deliver_due()
        await asyncio.gather(*self._sending)
        return count

    async def run(self) -> None:
        """Sends until `stop` is called, and waits for the answers. What hangs does not hold up what falls due later."""
        while not self._stopping:
            self._news.clear()
            try:
                await self._deliver_due()
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

    async def _deliver_due(self) -> int:
        # Fewer than none are free where calls that ran at the same time leased more.
        leases = [Lease(to, route.free, self._lease_us) for to, route in self._routes.items() if route.free > 0]
        for lease in leases:
            self._routes[lease.participant].left_since_us = None
        count = 0
        for lease, outcome in zip(leases, await self._outbox.execute(leases) if leases else (), strict=True):
            assert isinstance(outcome, list)
            if len(outcome) == lease.limit:  # what is left, if anything, came later than the last
                self._routes[lease.participant].left_since_us = outcome[-1].message.due_at_us
            self.deliver(outcome)
            count += len(outcome)
        return count

    async def _send(self) -> None:
        """Sends what is waiting as soon as it may leave, and records what becomes of it."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._leave_at_s):
                await self._is_full.wait()
        self._is_full.clear()
        self._leave_at_s = loop.time() + _APART_S
        lists: dict[tuple[Participant, Kind], list[Delivery]] = defaultdict(list)
        for delivery in self._waiting:
            lists[delivery.message.participant, delivery.message.kind].append(delivery)
        self._waiting = []
        calls = [asyncio.create_task(self._call(to, each)) for (to, _), each in lists.items()]
        back, late = await asyncio.wait(calls, timeout=_TOGETHER_S)
        await self._take([answer for call in back for answer in call.result()])
        for call in asyncio.as_completed(late):
            await self._take(await call)

    async def _call(self, to: Participant, deliveries: Sequence[Delivery]) -> Sequence[Answered | PutOff]:
        """Sends messages of one kind to a participant."""
        route = self._routes[to]
        answers = await self._answers(route.client, deliveries)
        route.answers = any(isinstance(answer, Reply) for answer in answers)
        return [self._outcome(route, each.message, answer) for each, answer in zip(deliveries, answers, strict=True)]

    async def _take(self, answers: Sequence[Answered | PutOff]) -> None:
        """Records answers, and lets others take their places."""
        try:
            await self._record(answers)
        except Exception as error:  # noqa: BLE001 (the leases run out, and the messages are sent again)
            _log_storage("take what was answered", error)
        finally:
            was_full = any(route.free <= 0 for route in self._routes.values())
            for answer in answers:
                route = self._routes[answer.message.participant]
                route.free += 1
                route.under_way.pop(answer.message.order_id, None)
            if was_full:
                self.wake()

    async def _answers(self, client: ParticipantClient, deliveries: Sequence[Delivery]) -> Sequence[Reply | Exception]:
        try:
            return await _asked(client, deliveries)
        except Exception as error:  # noqa: BLE001 (whatever it is, it may come from one of them and must not stop the others)
            if len(deliveries) == 1:
                return [error]
            alone = await asyncio.gather(*(self._answers(client, [each]) for each in deliveries))
            return [answer for (answer,) in alone]

    def _outcome(self, route: Route, message: Message, answer: Reply | Exception) -> Answered | PutOff:
        if isinstance(answer, Reply):
            return Answered(message, answer.no, answer.served_by)
        route.complaints.add(message, answer)
        return PutOff(message, text_of(answer), int(self._delay_s(message.attempts) * 1_000_000))

    async def _record(self, answers: Sequence[Answered | PutOff]) -> None:
        try:
            outcomes = await self._outbox.execute(answers)
        except Exception as error:  # noqa: BLE001 (whatever it is, it may come from one of them and must not spoil the others)
            if len(answers) == 1 or isinstance(error, StorageUnavailable):
                _log_storage("record an answer", error)
            else:
                await asyncio.gather(*(self._record([each]) for each in answers))
            return
        for answer, outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, Order):
                self._tell(answer)

    def _tell(self, answer: Answered | PutOff) -> None:
        """Tells those whom it concerns that an answer has settled an order."""
        message = answer.message
        self._settled(message.order_id)
        if isinstance(answer, Answered) and answer.no is not None:
            log.info("order %s is cancelled: %s refused, %s", message.order_id, message.participant, answer.no.detail)
            self.wake()

    def _delay_s(self, attempts: int) -> float:
        longest = min(_FIRST_DELAY_S * 2.0 ** min(attempts, 32), LONGEST_DELAY_US / 1_000_000)
        return longest * (1 + self._jitter()) / 2


async def _asked(client: ParticipantClient, deliveries: Sequence[Delivery]) -> Sequence[Reply | CallFailed]:
    if deliveries[0].message.kind is Kind.RELEASE:
        answers = await client.release([each.message.order_id for each in deliveries])
    else:
        answers = await client.confirm([_order(each) for each in deliveries])
    if len(answers) != len(deliveries):
        raise CallFailed(f"{len(answers)} answers to {len(deliveries)} messages")
    return answers


def _order(delivery: Delivery) -> Order:
    assert isinstance(delivery.decision, Order)  # nobody confirms what was refused
    return delivery.decision


def _log_storage(what: str, error: Exception) -> None:
    unexpected = None if isinstance(error, StorageUnavailable) else error
    log.warning("cannot %s: %s", what, error, exc_info=unexpected)
