"""Logging for people: a line for each request, and lines with a level for everything else.

A line is one line, whatever a client sent: what cannot be printed is escaped, and further lines, which only the
gateway's own failures have, are indented, so that none looks like an entry of its own.
"""

import asyncio
import logging
import time
from contextlib import nullcontext
from typing import Any

_TIME = "%Y-%m-%d %H:%M:%SZ"
_GATHERING_S = 0.05


def configure(level: str) -> None:
    """Writes to standard error, from `level` on: debug, info, warning or error."""
    # No format below asks for these, and to find them out takes longer than the rest of a line:
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001 (as documented)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.Formatter.converter = time.gmtime  # images know no other time zone
    everything = logging.StreamHandler()
    everything.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s", _TIME))
    logging.basicConfig(level=level.upper(), handlers=[everything])
    access = logging.getLogger("souk_gateway.access")
    access.addHandler(Gathering())
    access.propagate = False
    # It tells what the gateway's own lines tell.
    logging.getLogger("hypercorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))


def printable(text: str) -> str:
    """The text, with control characters and whatever else cannot be seen as escapes, such as \\x1b or \\u202e."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


class OneLine(logging.Formatter):
    """Escapes what cannot be printed. The lines of a traceback are kept, and indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (so is it called)
        """See logging.Formatter."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (so is it called)
        """See logging.Formatter."""
        # An error's text may have line breaks that a client sent: behind them, too, a line is indented.
        return "\n".join(f"    {printable(line)}" for line in super().formatException(ei).split("\n"))


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
            self._lines.append(f"{self._time} {printable(record.getMessage())}{self.terminator}")
        except Exception:  # noqa: BLE001 (a request must not fail because of its line)
            self.handleError(record)

    def flush(self) -> None:
        """Writes what there is. Called at the end of the process, too."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
        super().flush()
