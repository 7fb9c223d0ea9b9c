"""A sample of mutants, and what becomes of each."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from mutating import results
from mutating.copies import Copy, Limits, Run
from mutating.modules import Module
from mutating.mutants import Mutant, mutants
from mutating.results import Result
from mutating.sample import sample

_UNMUTATED = Limits(total_s=900.0, test_s=600.0)
_SLACK_S = 20.0
_TIMES = 3
"""Tests may take so many times as long with a mutant as without it, and the slack."""

Work = TypeVar("Work")


class DoNotPass(Exception):
    """Without a mutant; the text is what they printed."""


@dataclass
class Trial:
    """A sample, and what became of it so far."""

    root: Path
    modules: Mapping[str, Module]
    seed: int
    say: Callable[[str], None]
    keep: Callable[[Result], None]
    known: Mapping[str, Result] = field(default_factory=dict)
    """Results of an earlier run, by the mutant's id."""
    found: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sources = {name: (self.root / each.path).read_bytes() for name, each in self.modules.items()}
        self._unmutated: dict[str, Run] = {}

    async def run(self, count: int, workers: int) -> None:
        """Tries the mutants of the sample that have no result yet. Raises DoNotPass, NotThisCopy."""
        names = {each.path: name for name, each in self.modules.items()}
        every = {name: mutants(each.path, self._sources[name]) for name, each in self.modules.items()}
        picked = [(names[each.path], each) for each in sample(every, count, self.seed)]
        ids = {each: results.identify(each, self._sources[name]) for name, each in picked}
        self.found += [self.known[ids[each]] for _, each in picked if ids[each] in self.known]
        to_try = [(name, each, ids[each]) for name, each in picked if ids[each] not in self.known]
        self.say(f"{len(picked)} of {sum(map(len, every.values()))} mutants, {len(to_try)} of them to be tried")
        if not to_try:
            return
        with TemporaryDirectory(prefix="souk-mutants-") as folder:
            copies = [Copy(self.root, folder, number) for number in range(min(workers, len(to_try)))]
            for copy in copies:
                await copy.check([each.path for each in self.modules.values()])
            tests = sorted({test for name, _, _ in to_try for test in self.modules[name].tests})
            await _share(copies, tests, self._measure)
            await _share(copies, to_try, self._try)

    async def _measure(self, copy: Copy, test: str) -> None:
        run = await copy.test([test], _UNMUTATED)
        if run.verdict != "passed":
            raise DoNotPass(f"{test} does not pass without a mutant ({run.verdict}):\n{run.output}")
        self._unmutated[test] = run
        self.say(f"without a mutant: {test} {run.seconds:.1f} s")

    def _limits(self, tests: Sequence[str]) -> Limits:
        runs = [self._unmutated[test] for test in tests]
        seconds, longest_s = sum(run.seconds for run in runs), max(run.longest_s for run in runs)
        return Limits(_TIMES * seconds + _SLACK_S, _TIMES * longest_s + _SLACK_S)

    async def _try(self, copy: Copy, work: tuple[str, Mutant, str]) -> None:
        name, mutant, identity = work
        source = self._sources[name]
        tests = self.modules[name].tests
        run = await copy.test_changed(mutant.path, mutant.apply(source), tests, self._limits(tests))
        verdict = {"passed": "survived", "failed": "killed"}.get(run.verdict, run.verdict)
        result = Result(
            self.seed, identity, name, mutant.path, mutant.line, mutant.old, mutant.new, verdict,
            round(run.seconds, 1), results.diff(mutant, source),
        )  # fmt: skip
        self.found.append(result)
        self.keep(result)
        self.say(results.as_line(result))


async def _share(copies: Sequence[Copy], work: Iterable[Work], do: Callable[[Copy, Work], Awaitable[None]]) -> None:
    """Each copy takes what is next whenever it has nothing to do. Raises what the first raises, and ends the others."""
    rest = iter(work)

    async def take(copy: Copy) -> None:
        for each in rest:
            await do(copy, each)

    tasks = [asyncio.create_task(take(copy)) for copy in copies]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
