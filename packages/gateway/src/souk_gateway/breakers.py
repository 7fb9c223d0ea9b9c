"""Stops calling a service that does not answer, so that neither the service nor its callers waste work."""

import logging
import random
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

_FAILURES = 10
"""How many failures in a row open a breaker: more than one request can cause with its repeated calls."""
_PAUSE_S = 1.0
"""The longest pause between two probes."""


class Breaker:
    """Opens after ten failures in a row; then lets one call through each second, until one succeeds.

    After each call that `allows` let through, the caller reports its outcome by `succeeded`, `failed` or `gave_up`.
    `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self, service: str, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._service = service
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._batches = deque[object](maxlen=_FAILURES)
        """Those that failed last."""
        self._next_probe_at: float | None = None
        """None while it is closed."""
        self._probing = self._has_probed = False

    def is_closed(self) -> bool:
        """Whether calls are let through, as long as none of them fails."""
        return self._next_probe_at is None

    def is_open(self) -> bool:
        """Whether a call would be turned away now."""
        return self._next_probe_at is not None and (self._probing or self._clock() < self._next_probe_at)

    def allows(self) -> bool:
        """Whether a call may be made."""
        if self._next_probe_at is None:
            return True
        if self.is_open():
            return False
        self._probing = True
        if not self._has_probed:  # told once for an outage
            self._has_probed = True
            log.info("trying %s again, one call at a time", self._service)
        return True

    def succeeded(self) -> None:
        """The service has answered; a refusal is an answer."""
        if self._next_probe_at is not None:
            log.warning("%s answers again", self._service)
        self._failures = 0
        self._batches.clear()
        self._next_probe_at = None
        self._probing = self._has_probed = False

    def failed(self, batch: object = None) -> None:
        """The service did not answer. The calls of a batch, unless it is None, fail together, so they count once."""
        if batch is not None:
            if batch in self._batches:
                return
            self._batches.append(batch)
        self._failures += 1
        if self._failures < _FAILURES:
            return
        if self._next_probe_at is None:
            log.warning("%s failed to answer %d calls in a row; its calls pause for a moment", self._service, _FAILURES)
        self._probing = False
        self._next_probe_at = self._clock() + _PAUSE_S * (1 + self._jitter()) / 2

    def gave_up(self) -> None:
        """The caller did not wait long enough to know whether the service answers."""
        self._probing = False
