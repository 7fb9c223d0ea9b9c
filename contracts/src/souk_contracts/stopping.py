"""How a process is stopped while it starts: imported first, so it loads nothing that takes time.

The first process of a container gets no signal that it has no handler for. So SIGTERM would be lost until the server
waits for it, and the process would serve until it is killed.
"""

import signal
from types import FrameType


class Stopped(SystemExit, KeyboardInterrupt):
    """Ends the process. As a KeyboardInterrupt, it makes database drivers cancel what they wait for."""


_has_come = False


def stop_at_once() -> None:
    """From now on, SIGTERM and SIGINT raise `Stopped` in the main thread: exit code 143 and 130."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def has_come() -> bool:
    """Whether a signal has come: what it raised may have met code that let nothing through."""
    return _has_come


def _stop(number: int, _: FrameType | None) -> None:
    global _has_come
    _has_come = True
    raise Stopped(128 + number)
