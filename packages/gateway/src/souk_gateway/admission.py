"""Which orders are begun: as many as can be finished in time. The others get their 503 at once, and hold nothing.

Without that, all orders would be slow under a load that is too high, and those that were accepted could lose their
goods before they are confirmed. See docs/adr/0015-admission.md.
"""

import math
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


_REMEMBERED_S = 4.0
"""What came before counts for ever less."""
_SPREAD_S, _MOST_SPREAD_S = 120, 30
"""Over how many seconds the return of clients is spread where as many orders are refused as are begun, and at most."""


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
        self._begun = self._refused = 0.0
        """Of the last seconds."""
        self._counted_at = clock()

    async def place(self, wanted: OrderRequest, key: str | None, exchange: Exchange, besides: str = "") -> Decision:
        """See `Saga.place`. Raises `Unavailable` (OVERLOADED) for an order that is not begun."""
        self.check()
        if self._pause_s:
            self._paused_until = self._clock() + self._pause_s  # this one goes first
        self._under_way += 1
        self._fade()
        self._begun += 1
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
            raise self._refusal(_FULL)
        if self._pause_s and self._clock() < self._paused_until:
            raise self._refusal(_PAUSED)

    def _refusal(self, detail: str) -> Unavailable:
        """The more orders are refused for each that is begun, the later they are to come back: each refusal costs."""
        self._fade()
        self._refused += 1
        spread_s = round(_SPREAD_S * self._refused / max(self._begun, 1.0))
        return Unavailable(detail, reason="OVERLOADED", spread_s=min(spread_s, _MOST_SPREAD_S))

    def _fade(self) -> None:
        now = self._clock()
        remains = math.exp((self._counted_at - now) / _REMEMBERED_S)
        self._begun, self._refused, self._counted_at = self._begun * remains, self._refused * remains, now

    def _hear(self, pause_ms: int) -> None:
        self._pause_s = min(max(pause_ms, 0), _MAX_PAUSE_MS) / 1000
        self._paused_until = self._clock() + self._pause_s
