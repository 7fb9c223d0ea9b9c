"""When a failed call is repeated: soon, but not at the same moment as all other failed calls, and not too often.

Source of the pauses: exponential back-off with full jitter, Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

import random
from collections.abc import Callable

ATTEMPT_S = 2.0
"""How long one attempt may take, so that one which hangs leaves time for another."""

_MAX_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.05
_WORTHWHILE_S = 0.05
"""With less time than this left, another attempt would only fail."""
_EARNED = 0.1
_SAVED = 10.0


class Retries:
    """The budget of a service: in the long run at most one call in ten is repeated, so an outage does not multiply.

    Each call earns a tenth of a retry, and ten retries can be saved up. `jitter` gives numbers from 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._budget = _SAVED

    def called(self) -> None:
        """Counts the first attempt of a call."""
        self._budget = min(self._budget + _EARNED, _SAVED)

    def pause_s(self, attempts: int, left_s: float) -> float | None:
        """How long to wait before another attempt, after `attempts` and with `left_s` to go; None for no other."""
        pause_s = self._jitter() * _FIRST_PAUSE_S * 2.0 ** (attempts - 1)
        if attempts >= _MAX_ATTEMPTS or pause_s + _WORTHWHILE_S > left_s or self._budget < 1:
            return None
        self._budget -= 1
        return pause_s
