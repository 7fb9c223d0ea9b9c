"""One REST request, as far as the calls behind it care."""

import time
from collections.abc import Callable, Mapping

from souk_gateway import __version__

_SELF = f"gateway/{__version__}"


class Exchange:
    """How long a request still has, which versions it goes to, who served it, and what its line in the log is about.

    `pins` are the versions that it asks for, by service; `choices` those that were chosen for it. `status` is that of
    the answer, 0 as long as there is none.
    """

    __slots__ = ("_clock", "_deadline_s", "_ends_at", "_served_by", "_started_at", "about", "choices", "pins", "status")

    def __init__(self, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline_s = deadline_s
        self._served_by = [_SELF]
        self.pins: Mapping[str, str] = {}
        self.choices: dict[str, str] = {}
        self.about = ""
        self.status = 0
        self.restart()

    def restart(self) -> None:
        """The request is complete: its time begins now. What its client took to send it counts for nothing."""
        self._started_at = self._clock()
        self._ends_at = self._started_at + self._deadline_s

    def elapsed_s(self) -> float:
        """How long ago the request was complete."""
        return self._clock() - self._started_at

    def remaining_s(self) -> float:
        """What is left until the request's deadline; never negative."""
        return max(0.0, self._ends_at - self._clock())

    def extend_to(self, seconds: float) -> None:
        """Moves the deadline to at least `seconds` from now, for a call that must be tried even after the deadline."""
        self._ends_at = max(self._ends_at, self._clock() + seconds)

    def note(self, service: str) -> None:
        """Notes who answered, as `orders/1.0.0`; empty if the peer did not say."""
        if service and service not in self._served_by:
            self._served_by.append(service)

    def served_by(self) -> str:
        """All who served the request, this gateway first, separated by spaces."""
        return " ".join(self._served_by)
