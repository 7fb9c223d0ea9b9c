"""The one thread that writes: whatever is waiting becomes one transaction with one commit.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .database import Conflict, Database, Locked
from .domain import Overloaded, StorageUnavailable
from .heartbeat import Heartbeat
from .jobs import Answer, Job, Part, Parts, halves
from .statements import Session

Command = TypeVar("Command")
Outcome = TypeVar("Outcome")

log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Gives the time in microseconds since the Unix epoch."""

_MAX_JOBS = 256
"""That are put into one transaction, so that the first of a long queue need not wait for the last."""

_TRIES = 10
"""Of a transaction that meets with Conflict. Each time another process has made headway, so it seldom takes two."""

_RETRY_S = 0.1
"""Between two tries of what was set aside. Each waits for a locked row, and all others wait with it: so not often."""
_PATIENCE_S = 0.4
"""For how long a command is tried whose rows stay locked. The answers of its batch wait for it."""
_LOCK_WAITS = 8
"""After so many waits for locks in one go, whatever else meets one is set aside without a closer look."""


def system_clock() -> int:
    """The time in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Writer(Generic[Command, Outcome]):
    """Carries out commands in the order they come, durably, each transaction with one `now`.

    `carry_out(session, commands, now_us)` gives an outcome for each command. If it raises, nothing of that
    transaction stays; jobs that shared it are then tried one by one, so that one cannot spoil the others. A Conflict
    with another process is tried again, all of it, so `carry_out` may come to other outcomes. Where the database
    itself failed, all fail with StorageUnavailable: a commit may have come through unheard.

    A transaction that meets a row which another process keeps locked is carried out again in a session that passes
    over such rows. `carry_out` gives Overloaded for the commands that need one. These are set aside and tried again,
    and the others go on without them.
    """

    def __init__(
        self,
        database: Database,
        carry_out: Callable[[Session, Sequence[Command], int], Sequence[Outcome]],
        clock: Clock,
    ) -> None:
        self._database = database
        self._carry_out = carry_out
        self._clock = clock
        self._heartbeat = Heartbeat()
        self._turn: list[Job[Command, Outcome]] = []
        """What has come in this turn of the event loop: a batch of calls becomes one transaction."""
        self._waiting: queue.SimpleQueue[tuple[float, list[Job[Command, Outcome]]] | None] = queue.SimpleQueue()
        """And since when, in monotonic time."""
        self._since_s: float | None = None
        self._aside: list[Job[Command, Outcome]] = []
        self._retry_at = 0.0
        self._lock_waits = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Gives the outcomes once they are durable. No commands: something is written that shows whether writes work.

        Raises StorageUnavailable, and whatever `carry_out` raises for these commands alone.
        """
        return await self.begin(commands)

    def begin(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Outcome]]:
        """Hands commands over, as `execute` does, and gives what will have the outcomes, or what `execute` raises.

        They are carried out even if nobody waits for that any more. Raises StorageUnavailable once it is closed.
        """
        if self._closed:
            raise StorageUnavailable
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[Outcome]] = loop.create_future()
        if not self._turn:
            loop.call_soon(self._hand_over)
        self._turn.append(Job(commands, loop, answer))
        return answer

    async def can_write(self) -> bool:
        """Whether writes work: the last one did, a moment ago, or else a heartbeat does."""
        if self._heartbeat.is_fresh():
            return True
        try:
            await self.execute([])
        except StorageUnavailable:
            return False
        return self._heartbeat.is_well()

    def lag_s(self) -> float:
        """For how long the first that is not carried out yet has waited. What comes now will wait about as long."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def close(self) -> None:
        """Carries out what is waiting, and ends the thread."""
        self._closed = True
        self._hand_over()
        self._waiting.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        jobs, self._turn = self._turn, []
        if jobs:
            self._waiting.put((time.monotonic(), jobs))

    def _run(self) -> None:
        while (jobs := self._next()) is not None:
            self._lock_waits = 0
            if jobs:
                self._commit(jobs, passes=bool(self._aside))
                self._since_s = None
            if self._aside and time.monotonic() >= self._retry_at:
                self._try_aside()
        while self._aside:
            time.sleep(max(0.0, self._retry_at - time.monotonic()))
            self._try_aside()

    def _next(self) -> list[Job[Command, Outcome]] | None:
        """What has come; nothing, where it is time to try what was set aside; None at the end."""
        try:
            first = self._waiting.get(timeout=_RETRY_S if self._aside else None)
        except queue.Empty:
            return []
        if first is None:
            return None
        self._since_s, jobs = first
        while len(jobs) < _MAX_JOBS and not self._waiting.empty():
            following = self._waiting.get()
            if following is None:
                self._waiting.put(None)
                break
            jobs += following[1]
        return jobs

    def _try_aside(self) -> None:
        jobs, self._aside = self._aside, []
        self._commit(jobs)  # it waits its turn: who only looks whether a row is free may never find a busy one so

    def _commit(self, jobs: Sequence[Job[Command, Outcome]], tries: int = _TRIES, *, passes: bool = False) -> None:
        try:
            results = self._transaction(jobs, passes=passes)
        except Exception as error:  # noqa: BLE001 (it belongs to whoever asked, in another thread)
            self._recover(jobs, error, tries, passes=passes)
            return
        if passes:
            done = [each for each in zip(jobs, results, strict=True) if not self._set_aside(*each)]
            jobs, results = [job for job, _ in done], [result for _, result in done]
        if jobs:  # all come from the service's one loop: wake it once
            _call_soon(jobs[0].loop, _answer, [job.answer for job in jobs], results)

    def _transaction(self, jobs: Sequence[Job[Command, Outcome]], *, passes: bool) -> Sequence[Sequence[Outcome]]:
        """The outcomes of each job. Raises whatever it fails with."""
        with self._database.write(passes=passes) as session:
            commands = [command for job in jobs for command in job.commands]
            now_us = self._clock()
            outcomes = iter(self._carry_out(session, commands, now_us))
            results = [[next(outcomes) for _ in job.commands] for job in jobs]
            changes = session.has_changed
            if not changes and not all(job.commands for job in jobs):
                self._heartbeat.beat(session, now_us)
        if changes:
            self._heartbeat.wrote()
        elif session.has_changed:
            self._heartbeat.was_beaten()
        return results

    def _recover(self, jobs: Sequence[Job[Command, Outcome]], error: Exception, tries: int, *, passes: bool) -> None:
        """Goes on where a transaction failed."""
        if isinstance(error, Locked):
            self._meet_lock(jobs, passes=passes)
            return
        if isinstance(error, Conflict) and tries > 1:
            self._commit(jobs, tries - 1, passes=passes)
            return
        if isinstance(error, StorageUnavailable):
            self._heartbeat.failed()
            if isinstance(error, Conflict):
                log.warning("a transaction was given up after %d tries: %s", _TRIES, error.__cause__)
        for job in jobs:
            if len(jobs) == 1 or isinstance(error, StorageUnavailable):
                _call_soon(job.loop, _fail, job.answer, error)
            else:
                self._commit([job], passes=passes)

    def _meet_lock(self, jobs: Sequence[Job[Command, Outcome]], *, passes: bool) -> None:
        """Goes on where a transaction could not lock what it needs."""
        self._lock_waits += 1
        if not passes:
            self._commit(jobs, passes=True)
            return
        # A lock that cannot be passed over: of a key that another process is about to insert, or of a whole table.
        if len(jobs) == 1:
            jobs = halves(jobs[0])
        if len(jobs) > 1 and self._lock_waits < _LOCK_WAITS:
            half = len(jobs) // 2
            self._commit(jobs[:half], passes=True)
            self._commit(jobs[half:], passes=True)
            return
        for job in jobs:
            outcomes: Sequence[Any] = [Overloaded()] * len(job.commands)
            if not self._set_aside(job, outcomes):
                _call_soon(job.loop, _answer, [job.answer], [outcomes])

    def _set_aside(self, job: Job[Command, Outcome], outcomes: Sequence[Outcome]) -> bool:
        """Keeps the commands whose rows are locked for another try; gives whether the job waits for one."""
        places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Overloaded)]
        now_s = time.monotonic()
        give_up_at = job.give_up_at or now_s + _PATIENCE_S
        if not places or now_s >= give_up_at:
            return False
        if not self._aside:
            self._retry_at = now_s + _RETRY_S
        answer = Part(Parts(job.answer, outcomes, len(places)), places)
        self._aside.append(Job([job.commands[place] for place in places], job.loop, answer, give_up_at))
        return True


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:  # the loop has ended, and with it whoever asked
        return


def _answer(answers: Sequence[Answer[Outcome]], results: Sequence[Sequence[Outcome]]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if not answer.done():  # its caller may have given up
            answer.set_result(result)


def _fail(answer: Answer[Outcome], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
