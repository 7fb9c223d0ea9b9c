"""Points: what accounts, their journal and their holds say of each other."""

from collections.abc import Iterable, Iterator
from typing import Any

from auditor.findings import Code, Finding
from auditor.rows import STATES, Account, Hold, HoldSum, JournalSum


class Points:
    """Looks at holds as they pass by. What they come to for each account the database adds up."""

    def __init__(self, overdue_us: int) -> None:
        """What was HELD until before `overdue_us` should have been expired by now."""
        self.states: dict[str, int] = {}
        self.accounts = 0
        self._overdue_us = overdue_us
        self._findings: list[Finding] = []

    def watch(self, holds: Iterable[Hold]) -> Iterator[Hold]:
        """Passes them on."""
        for row in holds:
            state = row.state
            self.states[state] = self.states.get(state, 0) + 1
            if state not in STATES:
                self._findings.append(Finding(Code.STATE_UNKNOWN, row.order_id, f"the hold is '{state}'"))
            elif state == "HELD" and row.expires_at_us < self._overdue_us:
                late_s = (self._overdue_us - row.expires_at_us) / 1e6
                figures = f"the hold is still HELD, {late_s:.0f} s after it should have expired"
                self._findings.append(Finding(Code.HOLD_OVERDUE, row.order_id, figures))
            yield row

    def findings(self, rows: Iterable[list[Any]]) -> Iterator[Finding]:
        """`rows` are accounts merged with the sums of their journal and of their holds."""
        yield from self._findings
        for customer_id, account, put_in, sums in rows:
            self.accounts += account is not None
            yield from _account_findings(customer_id, account, put_in, sums)


def _account_findings(
    customer_id: str, account: Account | None, put_in: JournalSum | None, sums: HoldSum | None
) -> Iterator[Finding]:
    journal = put_in.amount if put_in else 0
    booked, held = (sums.booked, sums.held) if sums else (0, 0)
    if account is None:
        figures = f"there is no such account, but {journal} points in the journal, {booked} booked and {held} held"
        yield Finding(Code.ACCOUNT_MISSING, customer_id, figures)
        return
    if account.points != journal + booked:
        figures = (
            f"the account says {account.points} points, but the journal's {journal} and the {booked} of its CONFIRMED "
            f"holds add up to {journal + booked}"
        )
        yield Finding(Code.POINTS_NOT_CONSERVED, customer_id, figures)
    if account.points_held != held:
        figures = f"the account says {account.points_held} points held, but its HELD holds add up to {held}"
        yield Finding(Code.POINTS_HELD_MISMATCH, customer_id, figures)
