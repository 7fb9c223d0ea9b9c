"""What the writer carries out, and how its answer comes together.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

Command = TypeVar("Command")
Outcome = TypeVar("Outcome")


class Parts(Generic[Outcome]):
    """The answer to a job whose commands are carried out in several transactions. `missing` outcomes are to come."""

    def __init__(self, answer: "Answer[Outcome]", outcomes: Sequence[Outcome | None], missing: int) -> None:
        self.answer = answer
        self.outcomes: list[Any] = list(outcomes)
        self.missing = missing


class Part(Generic[Outcome]):
    """Takes the outcomes of the commands at these places. Used on the event loop only, as the future behind it."""

    def __init__(self, parts: Parts[Outcome], places: Sequence[int]) -> None:
        self._parts = parts
        self._places = places

    def done(self) -> bool:
        return self._parts.answer.done()

    def set_result(self, outcomes: Sequence[Outcome]) -> None:
        parts = self._parts
        for place, outcome in zip(self._places, outcomes, strict=True):
            parts.outcomes[place] = outcome
        parts.missing -= len(outcomes)
        if not parts.missing:
            parts.answer.set_result(parts.outcomes)

    def set_exception(self, error: Exception) -> None:
        self._parts.answer.set_exception(error)


Answer = asyncio.Future[Sequence[Outcome]] | Part[Outcome]


class Job(NamedTuple, Generic[Command, Outcome]):
    """Commands that somebody has asked for together."""

    commands: Sequence[Command]
    loop: asyncio.AbstractEventLoop
    answer: Answer[Outcome]
    give_up_at: float = 0.0
    """When its commands are no longer set aside, in monotonic time; 0 for one that was not yet."""


def halves(job: Job[Command, Outcome]) -> Sequence[Job[Command, Outcome]]:
    """The job as two; as it is, where it has one command."""
    count = len(job.commands)
    if count < 2:
        return [job]
    parts: Parts[Outcome] = Parts(job.answer, [None] * count, count)
    halves = range(count // 2), range(count // 2, count)
    return [
        Job([job.commands[place] for place in places], job.loop, Part(parts, places), job.give_up_at)
        for places in halves
    ]
