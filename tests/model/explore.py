"""Exploring a world: every state, nearest first; or long walks by chance through a world that is too big for that."""

import random
import time
from dataclasses import dataclass, field

from tests.model.invariants import broken_at_rest, broken_now
from tests.model.rules import Rules
from tests.model.state import State, initial
from tests.model.steps import steps

_MOST_KNOWN = 1_000_000
"""States at rest that are remembered."""


@dataclass(frozen=True)
class Found:
    """What was found. `wrong` is empty if nothing was; `trace` then leads nowhere."""

    wrong: str
    states: int
    complete: bool
    """Whether these are all states of the world."""
    trace: list[str] = field(default_factory=list)
    """The steps from the beginning to what is wrong."""


def every_state(rules: Rules, limit: int) -> Found:
    """Looks at every state, or the first `limit`, with the trace to what is wrong."""
    known: dict[State, str] = {}
    start = initial(rules)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    frontier = [start]
    while frontier and len(came_from) <= limit:
        following = []
        for state in frontier:
            for label, after in steps(rules, state):
                if after in came_from:
                    continue
                came_from[after] = (state, label)
                if wrong := broken_now(rules, after) or broken_at_rest(rules, after, known):
                    return Found(wrong, len(came_from), complete=False, trace=_trace(came_from, after))
                following.append(after)
            if len(came_from) > limit:
                break
        frontier = following
    return Found("", len(came_from), complete=not frontier)


def every_state_by_hash(rules: Rules, limit: int) -> Found:
    """As `every_state`, remembering only hashes: for millions of states. There is no trace."""
    known: dict[State, str] = {}
    frontier = [initial(rules)]
    seen = {hash(frontier[0])}
    while frontier and len(seen) <= limit:
        following = []
        for state in frontier:
            for label, after in steps(rules, state):
                if (number := hash(after)) in seen:
                    continue
                seen.add(number)
                if wrong := broken_now(rules, after) or broken_at_rest(rules, after, known):
                    return Found(wrong, len(seen), complete=False, trace=[label])
                following.append(after)
            if len(seen) > limit:
                break
        frontier = following
        if len(known) > _MOST_KNOWN:
            known.clear()
    return Found("", len(seen), complete=not frontier)


def walks(rules: Rules, seed: int, *, seconds: float = 1e9, count: int = 10**9, length: int = 200) -> Found:
    """Walks by chance, until the time or the number of walks is over. The same seed takes the same walks."""
    chance = random.Random(seed)
    known: dict[State, str] = {}
    ends_at, looked_at = time.monotonic() + seconds, 0
    for _ in range(count):
        state, trace = initial(rules), []
        for _ in range(length):
            possible = sorted(steps(rules, state), key=lambda step: step[0])
            # Deaths cost nothing and end a request early, so they would end most walks early, too.
            alive = [step for step in possible if not step[0].endswith("dies")]
            if not possible:
                break
            label, state = chance.choice(alive if alive and chance.random() < 0.97 else possible)
            trace.append(label)
            looked_at += 1
            if wrong := broken_now(rules, state) or broken_at_rest(rules, state, known):
                return Found(wrong, looked_at, complete=False, trace=trace)
            if time.monotonic() > ends_at:
                return Found("", looked_at, complete=False)
        if len(known) > _MOST_KNOWN:
            known.clear()
    return Found("", looked_at, complete=False)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    trace = []
    while (before := came_from[state]) is not None:
        state, label = before
        trace.append(label)
    return trace[::-1]
