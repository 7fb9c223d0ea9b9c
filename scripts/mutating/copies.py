"""A copy of the tree in which one mutant after another is tested, while the tree itself stays as it is."""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

_LEFT_OUT = (
    ".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "data", "dist", "node_modules"
)  # fmt: skip
_PATIENCE_S = 5.0
"""For how long what a run has left behind may take to end, before it is killed."""


_UNUSED = ("-p", "no:xdist", "-p", "no:schemathesis", "-p", "no:anyio")
"""Plugins that these tests do without. Loading them takes longer than many a test."""
_DURATION = re.compile(r"^([0-9.]+)s (?:setup|call|teardown) ", re.MULTILINE)
"""As pytest prints it, with --durations."""


class NotThisCopy(Exception):
    """Python would import a module from another place than the copy."""


@dataclass(frozen=True)
class Run:
    """What a run of tests came to."""

    verdict: str
    """passed, failed or timeout."""
    seconds: float
    output: str

    @property
    def longest_s(self) -> float:
        """What the longest step of a test took; 0 where that is too short to be said."""
        return max(map(float, _DURATION.findall(self.output)), default=0.0)


@dataclass(frozen=True)
class Limits:
    """How long all tests may take, and each step of one."""

    total_s: float
    test_s: float


class Copy:
    """A copy of the tree at `root`, in a numbered folder below `parent`."""

    def __init__(self, root: Path, parent: str, number: int) -> None:
        self._folder = Path(parent).resolve() / str(number)
        self._folder.mkdir()
        self._tree = self._folder / "tree"
        self._temporary = self._folder / "tmp"
        shutil.copytree(root, self._tree, ignore=_ignored, symlinks=True)
        for each in (self._folder.parent, self._folder):
            each.chmod(0o711)  # where tests run as root, their PostgreSQL does not, and has to reach its data
        sources = [self._tree / "contracts/src", *sorted(self._tree.glob("packages/*/src"))]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, sources)),  # comes before what the environment has installed
            "PYTHONDONTWRITEBYTECODE": "1",  # a mutant's would be taken for that of the next one
            "TMPDIR": str(self._temporary),
        }

    async def check(self, paths: Sequence[str]) -> None:
        """That Python imports these modules from the copy. Raises NotThisCopy."""
        names = [path.rpartition("src/")[2].removesuffix(".py").replace("/", ".") for path in paths]
        code = "import importlib.util as u, sys; print(*(u.find_spec(n).origin for n in sys.argv[1:]), sep='\\n')"
        run = await self._run([sys.executable, "-c", code, *names], 60)
        if run.verdict != "passed":
            raise NotThisCopy(f"a copy of the tree cannot be imported from:\n{run.output}")
        for path, origin in zip(paths, run.output.splitlines(), strict=True):
            if Path(origin) != self._tree / path:
                raise NotThisCopy(f"{path} would be imported from {origin}")

    async def test(self, tests: Sequence[str], limits: Limits) -> Run:
        """Runs tests, to the first that fails."""
        options = ("-x", "-q", "-p", "no:cacheprovider", *_UNUSED, "--tb=line", "--durations=1")
        timeout = ("-o", f"timeout={limits.test_s:.0f}")
        run = await self._run([sys.executable, "-m", "pytest", *options, *timeout, *tests], limits.total_s)
        return replace(run, verdict="timeout") if "from pytest-timeout" in run.output else run

    async def test_changed(self, path: str, source: bytes, tests: Sequence[str], limits: Limits) -> Run:
        """Runs tests with another source in place of a module's."""
        module = self._tree / path
        original = await asyncio.to_thread(module.read_bytes)
        times = module.stat()
        module.write_bytes(source)
        try:
            return await self.test(tests, limits)
        finally:
            module.write_bytes(original)
            os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))

    async def _run(self, command: Sequence[str], timeout_s: float) -> Run:
        self._temporary.mkdir()
        self._temporary.chmod(0o711)
        began = time.monotonic()
        # Into a file: a pipe would be open for as long as anything that a test has started.
        with (self._folder / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._tree,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            code = await asyncio.wait_for(process.wait(), timeout_s)
            verdict = "failed" if code else "passed"
        except TimeoutError:
            verdict = "timeout"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._end_rest()
            await process.wait()
            shutil.rmtree(self._temporary, ignore_errors=True)
            shutil.rmtree(self._tree / ".hypothesis", ignore_errors=True)
        return Run(verdict, time.monotonic() - began, (self._folder / "output").read_text(errors="replace"))

    def _end_rest(self) -> None:
        """Ends what works in this folder in a session of its own, such as a PostgreSQL that a test has started."""
        ends_at = time.monotonic() + _PATIENCE_S
        number = signal.SIGINT
        while left := self._at_work():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            if time.monotonic() > ends_at:
                number = signal.SIGKILL
            time.sleep(0.1)

    def _at_work(self) -> list[int]:
        """The processes whose working folder is in this one; none where the system does not tell."""
        found = []
        for place in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if place.readlink().is_relative_to(self._folder):
                    found.append(int(place.parent.name))
        return found


def _ignored(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT or (Path(folder) / name / "pyvenv.cfg").exists()}
