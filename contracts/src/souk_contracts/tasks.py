"""Work that goes on beside its caller, which does not wait for it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

_running: set[asyncio.Task[None]] = set()
"""The loop alone would not keep them."""


def spawn(
    work: Coroutine[Any, Any, None], what: str, failed: Callable[[], object] = lambda: None
) -> asyncio.Task[None]:
    """Starts it. If an exception ends it, the log says which, and `failed` is called: to stop the process, for example.

    `what` names it in the log.
    """

    def ended(task: asyncio.Task[None]) -> None:
        _running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s ended unexpectedly", what, exc_info=error)
            failed()

    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(ended)
    return task
