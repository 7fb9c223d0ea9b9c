"""A copy of the tree in which one mutant after another is tested, while the tree itself stays as it is."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT = (
    ".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "data", "dist", "node_modules"
)  # fmt: skip
_PATIENCE_S = 5.0
"""For how long what a run has left behind may take to end, before it is killed."""
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2
"""What pytest exits with. A module that cannot be imported makes it 2, or 4 where that is in a conftest.py."""


class NotThisCopy(Exception):
    """Python would import a module from another place than the copy."""


@dataclass(frozen=True)
class Run:
    """What a run of tests came to."""

    verdict: str
    """passed, failed or timeout."""
    seconds: float
    output: str


class Copy:
    """A copy of the tree at `root`, in a folder of its own, which nobody else uses."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder
        self._tree = folder / "tree"
        self._temporary = folder / "tmp"
        shutil.copytree(root, self._tree, ignore=_ignored, symlinks=True)
        folder.chmod(0o711)  # a PostgreSQL that a test starts for root has to reach its data
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
        for path, origin in zip(paths, run.output.splitlines() or [run.verdict], strict=False):
            if not os.path.samefile(origin, self._tree / path):
                raise NotThisCopy(f"{path} would be imported from {origin}")

    async def test(self, tests: Sequence[str], timeout_s: float) -> Run:
        """Runs tests, to the first that fails."""
        options = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line")
        return await self._run([sys.executable, "-m", "pytest", *options, *tests], timeout_s)

    async def test_changed(self, path: str, source: bytes, tests: Sequence[str], timeout_s: float) -> Run:
        """Runs tests with another source in place of a module's."""
        module = self._tree / path
        original, times = module.read_bytes(), module.stat()
        module.write_bytes(source)
        try:
            return await self.test(tests, timeout_s)
        finally:
            module.write_bytes(original)
            os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))

    async def _run(self, command: Sequence[str], timeout_s: float) -> Run:
        self._temporary.mkdir()
        self._temporary.chmod(0o711)
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._tree,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
            verdict = "passed" if process.returncode == _PASSED else "failed"
        except TimeoutError:
            output, verdict = b"", "timeout"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._end_rest()
            shutil.rmtree(self._temporary, ignore_errors=True)
            shutil.rmtree(self._tree / ".hypothesis", ignore_errors=True)
        return Run(verdict, time.monotonic() - began, output.decode(errors="replace"))

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
    return {
        name for name in names if name in _LEFT_OUT or (Path(folder) / name / "pyvenv.cfg").exists()
    }
