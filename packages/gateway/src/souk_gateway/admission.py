"""Which orders are begun: as many as can be finished in time. The others get their 503 at once, and hold nothing.

Without that, all orders would be slow under a load that is too high, and those that were accepted could lose their
goods before they are confirmed. See docs/adr/0015-admission.md.
"""

import time
from collections.abc import Callable
from typing import Protocol

from souk_gateway.errors import Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderRequest
from souk_gateway.saga import Decision, Saga

_FULL = "as many orders are being placed as can be finished in time, so this one was not begun; try again in a moment"
_PAUSED = "earlier orders must be finished first, so this one was not begun; try again in a moment"
_MAX_PAUSE_MS = 1000
"""A service may ask for more, but whoever waits for it hears nothing new meanwhile."""


class Placing(Protocol):
    """What `Admission` is to those who place orders."""

    def check(self) -> None: ...

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange, besides: str = "") -> Decision: ...


class Admission:
    """Lets orders through to the saga: at most so many at a time, and none while a service asks for a pause.

    When a pause is over, one order goes first. What becomes of it says whether the others may follow.
    """

    def __init__(self, saga: Saga, *, max_under_way: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._saga = saga
        self._max_under_way = max_under_way
        self._clock = clock
        self._under_way = 0
        self._pause_s = 0.0
        """0 where no service has asked for one."""
        self._paused_until = 0.0

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange, besides: str = "") -> Decision:
        """See `Saga.place`. Raises `Unavailable` (OVERLOADED) for an order that is not begun."""
        self.check()
        if self._pause_s:
            self._paused_until = self._clock() + self._pause_s  # this one goes first
        self._under_way += 1
        try:
            decision = await self._saga.place(wanted, key, exchange, besides)
        except Unavailable as error:
            if error.pause_ms:
                self._hear(error.pause_ms)
            raise
        finally:
            self._under_way -= 1
        if decision.pause_ms is not None:
            self._hear(decision.pause_ms)
        return decision

    def check(self) -> None:
        """Raises `Unavailable` (OVERLOADED) where no order may be begun now. Cheap, for before a request is read."""
        if self._under_way >= self._max_under_way:
            raise Unavailable(_FULL, reason="OVERLOADED")
        if self._pause_s and self._clock() < self._paused_until:
            raise Unavailable(_PAUSED, reason="OVERLOADED")

    def _hear(self, pause_ms: int) -> None:
        self._pause_s = min(max(pause_ms, 0), _MAX_PAUSE_MS) / 1000
        self._paused_until = self._clock() + self._pause_s
