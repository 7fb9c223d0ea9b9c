"""Where calls wait for an order to be settled. A call that waits holds no thread and no database connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

_FIRST_LOOK_S = 0.02
_LONGEST_LOOK_S = 0.5


class Lobby:
    """Wakes those that wait for an order when this process has settled it.

    Another process may settle the order without telling us, so those that wait also look for themselves: first after
    20 ms, and then less and less often, but at least every half second.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    async def wait(self, order_id: str, is_settled: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Returns when `is_settled`, when the time is over, or when the lobby closes. Raises what `is_settled` does."""
        loop = asyncio.get_running_loop()
        ends_at, pause_s = loop.time() + timeout_s, _FIRST_LOOK_S
        called = asyncio.Event()
        # Before the first look: what is settled after it must not go unheard.
        self._waiting.setdefault(order_id, set()).add(called)
        try:
            while not self._closed and not await is_settled() and (left_s := ends_at - loop.time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, left_s)):
                        await called.wait()
                called.clear()
                pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
        finally:
            self._waiting[order_id].discard(called)
            if not self._waiting[order_id]:
                del self._waiting[order_id]

    def call(self, order_id: str) -> None:
        """Says that this order was settled."""
        for called in self._waiting.get(order_id, ()):
            called.set()

    def close(self) -> None:
        """Lets everyone go, and nobody wait any more."""
        self._closed = True
        for order_id in self._waiting:
            self.call(order_id)
