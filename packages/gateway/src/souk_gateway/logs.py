"""Logging for people: a line for each request, and lines with a level for everything else."""

import asyncio
import logging
from contextlib import nullcontext

_TIME = "%Y-%m-%d %H:%M:%S"
_GATHERING_S = 0.05


def configure(level: str) -> None:
    """Writes to standard error, from `level` on: debug, info, warning or error."""
    # No format below asks for these, and to find them out takes longer than the rest of a line:
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001 (as documented)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    everything = logging.StreamHandler()
    everything.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", _TIME))
    logging.basicConfig(level=level.upper(), handlers=[everything])
    access = logging.getLogger("souk_gateway.access")
    access.addHandler(Gathering())
    access.propagate = False
    # It tells what the gateway's own lines tell.
    logging.getLogger("hypercorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))


class Gathering(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Collects the lines of 50 ms and writes them together, since writing each line alone costs too much time.

    If the process is killed, the lines of the last 50 ms are lost. It needs a running event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line until it is written."""
        try:
            second = int(record.created)
            if second != self._second:
                self._second, self._time = second, logging.Formatter(datefmt=_TIME).formatTime(record, _TIME)
            if not self._lines:
                asyncio.get_running_loop().call_later(_GATHERING_S, self.flush)
            self._lines.append(f"{self._time} {record.getMessage()}{self.terminator}")
        except Exception:  # noqa: BLE001 (a request must not fail because of its line)
            self.handleError(record)

    def flush(self) -> None:
        """Writes what there is. Called at the end of the process, too."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
        super().flush()
