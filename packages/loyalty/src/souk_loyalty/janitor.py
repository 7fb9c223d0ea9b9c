"""Ends holds whose time has passed."""

import asyncio
import logging

from souk_loyalty.domain import StorageUnavailable
from souk_loyalty.service import Loyalty

log = logging.getLogger(__name__)

_AT_ONCE = 100


class Janitor:
    """Looks through the holds every `period_s` seconds."""

    def __init__(self, loyalty: Loyalty, period_s: float) -> None:
        self._loyalty = loyalty
        self._period_s = period_s

    async def run_once(self) -> int:
        """Ends all holds that are due; gives how many. Raises StorageUnavailable."""
        total = 0
        while count := await self._loyalty.expire_due(_AT_ONCE):
            total += count
        return total

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                if count := await self.run_once():
                    log.info("%d holds expired", count)
            except StorageUnavailable:
                log.warning("cannot end expired holds: the database does not answer; trying again")
            except Exception:  # holds must go on expiring, whatever it was
                log.exception("cannot end expired holds; trying again")
            await asyncio.sleep(self._period_s)
