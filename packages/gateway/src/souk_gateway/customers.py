"""Which orders loyalty is asked about before they take goods, since it might refuse them afterwards.

Goods are held before loyalty is asked for its hold. So orders for customers that do not exist would keep goods from
everybody else until they are refused. An honest order pays nothing for the question: it is asked only while loyalty
refuses others, and not about customers that this process has seen.
"""

import time
from collections.abc import Callable
from typing import Protocol

from souk_contracts.loyalty.v1 import Account
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderRequest

_WARY_S = 60.0
_MOST_SEEN = 20_000
"""Customers. The one known for longest is forgotten for a new one; it is then asked about again."""


class Accounts(Protocol):
    """The part of loyalty that is needed here."""

    async def get_account(self, customer_id: str, exchange: Exchange) -> Account:
        """Raises `Rejected`, `Unavailable`."""


class Customers:
    """The customers that this process has seen; Souk never deletes one."""

    def __init__(self, loyalty: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._loyalty = loyalty
        self._clock = clock
        self._seen: dict[str, None] = {}
        self._wary_until_s: float | None = None

    def exists(self, customer_id: str) -> None:
        """Notes that loyalty knows this customer."""
        if customer_id not in self._seen:
            if len(self._seen) >= _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[customer_id] = None

    def refused(self) -> None:
        """Notes that loyalty has refused an order, so that it is asked about others first for the next minute."""
        self._wary_until_s = self._clock() + _WARY_S

    async def check(self, wanted: OrderRequest, exchange: Exchange, *, needed: bool) -> None:
        """Asks loyalty, where that is called for.

        Raises `Rejected` for an order that loyalty would refuse; `Unavailable` where loyalty is `needed`.
        """
        if not self._is_doubtful(wanted.customer_id):
            return
        try:
            await self._loyalty.get_account(wanted.customer_id, exchange)
        except Unavailable:
            if needed:
                raise
            return
        except Rejected:
            self.refused()
            raise
        self.exists(wanted.customer_id)

    def _is_doubtful(self, customer_id: str) -> bool:
        if self._wary_until_s is None:
            return False
        if self._clock() >= self._wary_until_s:
            self._wary_until_s = None
            return False
        return customer_id not in self._seen
