"""Goods: what items, their journal and their reservations say of each other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from auditor.findings import Code, Finding
from auditor.rows import STATES, Item, JournalSum, Reservation


class Stock:
    """Adds up reservations as they pass by; it takes memory for each item, not for each reservation."""

    def __init__(self, overdue_us: int) -> None:
        """What was HELD until before `overdue_us` should have been expired by now."""
        self.states: dict[str, int] = {}
        self._overdue_us = overdue_us
        self._held: defaultdict[str, int] = defaultdict(int)
        self._sold: defaultdict[str, int] = defaultdict(int)
        self._findings: list[Finding] = []

    def watch(self, reservations: Iterable[Reservation]) -> Iterator[Reservation]:
        """Passes them on."""
        for row in reservations:
            state = row.state
            self.states[state] = self.states.get(state, 0) + 1
            if state in ("HELD", "CONFIRMED"):
                self._add(row)
            elif state not in STATES:
                self._findings.append(Finding(Code.STATE_UNKNOWN, row.order_id, f"the reservation is '{state}'"))
            yield row

    def _add(self, row: Reservation) -> None:
        sums = self._sold
        if row.state == "HELD":
            sums = self._held
            if row.expires_at_us < self._overdue_us:
                late_s = (self._overdue_us - row.expires_at_us) / 1e6
                figures = f"the reservation is still HELD, {late_s:.0f} s after it should have expired"
                self._findings.append(Finding(Code.RESERVATION_OVERDUE, row.order_id, figures))
        if row.lines is None:
            figures = "the lines of the reservation cannot be read"
            self._findings.append(Finding(Code.LINES_UNREADABLE, row.order_id, figures))
            return
        for line in row.lines:
            sums[line.sku] += line.quantity

    def findings(self, rows: Iterable[list[Any]]) -> Iterator[Finding]:
        """`rows` are items merged with the sums of their journal; all reservations have passed by before."""
        yield from self._findings
        for sku, item, put_in in rows:
            held, sold = self._held.pop(sku, 0), self._sold.pop(sku, 0)
            yield from _item_findings(sku, item, put_in, held, sold)
        for sku in sorted({*self._held, *self._sold}):
            yield from _item_findings(sku, None, None, self._held.get(sku, 0), self._sold.get(sku, 0))


def _item_findings(sku: str, item: Item | None, put_in: JournalSum | None, held: int, sold: int) -> Iterator[Finding]:
    journal = put_in.amount if put_in else 0
    if item is None:
        figures = f"there is no such item, but {journal} pieces in the journal, {held} HELD and {sold} CONFIRMED"
        yield Finding(Code.ITEM_MISSING, sku, figures)
        return
    if item.on_hand + item.sold != journal:
        figures = (
            f"{item.on_hand} on hand + {item.sold} sold = {item.on_hand + item.sold}, but the journal says {journal}"
        )
        yield Finding(Code.STOCK_NOT_CONSERVED, sku, figures)
    if not 0 <= item.held <= item.on_hand:
        yield Finding(Code.HELD_OUT_OF_RANGE, sku, f"the item says {item.held} held, but {item.on_hand} on hand")
    if item.held != held:
        yield Finding(
            Code.HELD_MISMATCH, sku, f"the item says {item.held} held, but its HELD reservations add up to {held}"
        )
    if item.sold != sold:
        yield Finding(
            Code.SOLD_MISMATCH, sku, f"the item says {item.sold} sold, but its CONFIRMED reservations add up to {sold}"
        )
