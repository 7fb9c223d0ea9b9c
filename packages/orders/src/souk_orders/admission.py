"""Whether another order may be taken: only if what follows from the earlier ones is done in time.

An order that was accepted loses its goods if the relay cannot have them confirmed before their hold ends. So new orders
wait while Confirm messages do, or while the writer cannot keep up. See docs/adr/0015-admission.md.
"""

from collections.abc import Callable

from souk_orders.domain import Overloaded

_LONGEST_LAG_S = 1.0
"""Of the writer. The gateway waits five seconds for all services together, and would not wait for the answer."""
_SHORTEST_LAG_US = 1_000_000
"""Of the relay: where holds live for a few seconds, a quarter of them is nothing out of the ordinary."""
_PAUSE_MS = 250
"""What the gateway is asked for: so long it begins nothing, and then asks again, by one order."""
_LAGS = "earlier orders must be finished first, so this one was not begun; try again in a moment"


class Admission:
    """Says what may be begun. `writer_lag_s` and `relay_lag_us` give for how long the oldest work has waited.

    Up to an eighth of the holds' life, or half of the writer's limit, everything is taken. From there on the answers
    ask for a pause, before anything is held for other orders. At twice that nothing is taken: it is for the orders of
    gateways that do not know of pauses.
    """

    def __init__(
        self, writer_lag_s: Callable[[], float], relay_lag_us: Callable[[int], int], *, hold_ttl_s: float
    ) -> None:
        self._writer_lag_s = writer_lag_s
        self._relay_lag_us = relay_lag_us
        self._ttl_us = int(hold_ttl_s * 1_000_000)

    def pause_ms(self) -> int:
        """For how long no other order should be begun; 0 where it may be."""
        return _PAUSE_MS if self._load() > 0.5 else 0

    def check(self) -> None:
        """Raises Overloaded where no order may be taken."""
        if self._load() > 1:
            raise Overloaded(
                "orders must first finish earlier orders, so this was not begun; try again in a moment",
                pause_ms=_PAUSE_MS,
            )

    def _load(self) -> float:
        """How near it is to its limits: above 1 it is beyond."""
        longest_us = max(self._ttl_us / 4, _SHORTEST_LAG_US)
        return max(self._writer_lag_s() / _LONGEST_LAG_S, self._relay_lag_us(self._ttl_us) / longest_us)
