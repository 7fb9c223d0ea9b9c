"""The one thread that writes: whatever is waiting becomes one transaction with one commit.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from .database import Conflict, Database
from .domain import StorageUnavailable
from .heartbeat import Heartbeat
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


def system_clock() -> int:
    """The time in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class _Job(NamedTuple, Generic[Command, Outcome]):
    commands: Sequence[Command]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Sequence[Outcome]]


class Writer(Generic[Command, Outcome]):
    """Carries out commands in the order they come, durably, each transaction with one `now`.

    `carry_out(session, commands, now_us)` gives an outcome for each command. If it raises, nothing of that
    transaction stays; jobs that shared it are then tried one by one, so that one cannot spoil the others. A Conflict
    with another process is tried again, all of it, so `carry_out` may come to other outcomes. Where the database
    itself failed, all fail with StorageUnavailable: a commit may have come through unheard.
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
        self._turn: list[_Job[Command, Outcome]] = []
        """What has come in this turn of the event loop: a batch of calls becomes one transaction."""
        self._waiting: queue.SimpleQueue[list[_Job[Command, Outcome]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Gives the outcomes once they are durable. No commands: something is written that shows whether writes work.

        Raises StorageUnavailable, and whatever `carry_out` raises for these commands alone.
        """
        if self._closed:
            raise StorageUnavailable
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[Outcome]] = loop.create_future()
        if not self._turn:
            loop.call_soon(self._hand_over)
        self._turn.append(_Job(commands, loop, answer))
        return await answer

    async def can_write(self) -> bool:
        """Whether writes work: the last one did, a moment ago, or else a heartbeat does."""
        if self._heartbeat.is_fresh():
            return True
        try:
            await self.execute([])
        except StorageUnavailable:
            return False
        return self._heartbeat.is_well()

    def close(self) -> None:
        """Carries out what is waiting, and ends the thread."""
        self._closed = True
        self._hand_over()
        self._waiting.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        jobs, self._turn = self._turn, []
        if jobs:
            self._waiting.put(jobs)

    def _run(self) -> None:
        while (jobs := self._waiting.get()) is not None:
            while len(jobs) < _MAX_JOBS and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)
                    break
                jobs += following
            self._commit(jobs)

    def _commit(self, jobs: Sequence[_Job[Command, Outcome]], tries: int = _TRIES) -> None:
        try:
            with self._database.write() as session:
                commands = [command for job in jobs for command in job.commands]
                now_us = self._clock()
                outcomes = iter(self._carry_out(session, commands, now_us))
                results = [[next(outcomes) for _ in job.commands] for job in jobs]
                changes = session.has_changed
                if not changes and not all(job.commands for job in jobs):
                    self._heartbeat.beat(session, now_us)
        except Exception as error:  # noqa: BLE001 (it belongs to whoever asked, in another thread)
            if isinstance(error, Conflict) and tries > 1:
                self._commit(jobs, tries - 1)
                return
            if isinstance(error, StorageUnavailable):
                self._heartbeat.failed()
                if isinstance(error, Conflict):
                    log.warning("a transaction was given up after %d tries: %s", _TRIES, error.__cause__)
            for job in jobs:
                if len(jobs) == 1 or isinstance(error, StorageUnavailable):
                    _call_soon(job.loop, _fail, job.answer, error)
                else:
                    self._commit([job])
            return
        if changes:
            self._heartbeat.wrote()
        elif session.has_changed:
            self._heartbeat.was_beaten()
        # All jobs come from the service's one loop: wake it once.
        answers = [job.answer for job in jobs]
        _call_soon(jobs[0].loop, _answer, answers, results)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:  # the loop has ended, and with it whoever asked
        return


def _answer(answers: Sequence[asyncio.Future[Sequence[Outcome]]], results: Sequence[Sequence[Outcome]]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if not answer.done():  # its caller may have given up
            answer.set_result(result)


def _fail(answer: asyncio.Future[Sequence[Outcome]], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
