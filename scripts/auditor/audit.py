"""The audit: one look at everything, then further looks at what the three databases may only seem to disagree about."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, column, func, select, table

from auditor import rows
from auditor.databases import NAMES, Database, damaged_rows, key_findings, unknown_tiers
from auditor.findings import Code, Finding
from auditor.orders import Case, order_findings, suspicions
from auditor.points import Points
from auditor.rows import Account, Hold, HoldSum, Item, JournalSum, Message, Order, Reservation, by_ids, merged, stream
from auditor.stock import Stock

PARTICIPANTS = ("RESERVATIONS", "LOYALTY")
IDS_AT_ONCE = 400
BETWEEN_LOOKS_S = 0.5


@dataclass(frozen=True)
class Patience:
    """How long what is in flight may take, in seconds."""

    settle_s: float = 5.0
    """What the databases seem to disagree about is looked at again for so long."""
    hold_grace_s: Mapping[str, float] = field(default_factory=dict)
    """By participant: from the end of a hold's time to the end of the hold: the janitor's period, and some slack."""
    outbox_s: float = 60.0
    """From when a message is due to when it must have been tried."""


@dataclass
class Waiting:
    """Messages that were tried in vain, and are tried again."""

    count: int = 0
    oldest_us: int = 0
    oldest_id: str = ""
    attempts: int = 0
    last_error: str = ""


@dataclass
class Report:
    """What was looked at, what is under way and what is wrong."""

    seconds: float = 0.0
    items: int = 0
    accounts: int = 0
    orders: Counter[str] = field(default_factory=Counter)
    reservations: dict[str, int] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    newest_order_us: int = 0
    """When the newest order was placed; 0 where there is none."""
    without_log: list[str] = field(default_factory=list)
    """The databases that may be copies of open files, without their logs."""
    in_flight: int = 0
    looked_at_again: int = 0
    findings: list[Finding] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether there was nothing to look at."""
        return not (self.orders or self.items or self.accounts or self.reservations or self.holds)


class Audit:
    """Over orders, reservations and loyalty. Raises Unreadable."""

    def __init__(self, databases: Mapping[str, Database], patience: Patience, say: Callable[[str], None]) -> None:
        """`say` tells people why it takes longer."""
        self._databases = databases
        self._say = say
        self._patience = patience
        self._report = Report()
        self._now_us = 0

    def run(self) -> Report:
        """Looks at everything."""
        started = time.monotonic()
        self._report.without_log = [name for name in NAMES if self._databases[name].lacks_log()]
        for name in NAMES:
            self._databases[name].check_tables()
        suspicious = self._look_at_all()
        self._report.looked_at_again = len(suspicious)
        self._report.findings += self._look_again(suspicious)
        self._report.findings.sort(key=lambda finding: (finding.code, finding.id))
        self._report.seconds = time.monotonic() - started
        return self._report

    def _look_at_all(self) -> list[str]:
        """Findings for which one database suffices; gives the orders that the databases seem to disagree about.

        Orders last: whoever confirmed or closed something was told to by orders, so the order must be there. An order
        that was settled between the snapshots seems to be ahead of its participants, until it is looked at again.
        """
        with ExitStack() as stack:
            reservations, loyalty, orders = (
                stack.enter_context(self._databases[name].snapshot()) for name in ("reservations", "loyalty", "orders")
            )
            self._now_us = time.time_ns() // 1000
            damaged: dict[str, set[str]] = defaultdict(set)
            for name, connection in (("orders", orders), ("reservations", reservations), ("loyalty", loyalty)):
                self._report.findings += key_findings(name, connection)
                for table_name, finding in damaged_rows(name, connection):
                    damaged[table_name].add(finding.id)
                    self._report.findings.append(finding)
            self._report.findings += _unknown_participants(orders)
            self._report.findings += unknown_tiers(loyalty)
            stock, points = Stock(self._overdue_us("reservations")), Points(self._overdue_us("loyalty"))
            cases = merged(
                stream(orders, Order, rows.ORDERS, damaged["orders"]),
                *(stream(orders, Message, _messages_to(each), damaged["outbox"]) for each in PARTICIPANTS),
                stock.watch(stream(reservations, Reservation, rows.RESERVATIONS, damaged["reservations"])),
                points.watch(stream(loyalty, Hold, rows.HOLDS, damaged["holds"])),
            )
            # What stands in a damaged row cannot be compared with anything.
            everywhere = set[str]().union(*damaged.values())
            suspicious = list(self._look_at(Case._make(case) for case in cases if case[0] not in everywhere))
            items = stream(reservations, Item, rows.ITEMS, damaged["items"])
            put_in = stream(reservations, JournalSum, rows.STOCK_JOURNAL)
            self._report.findings += stock.findings(merged(self._counted(items), put_in))
            self._report.findings += points.findings(
                merged(
                    stream(loyalty, Account, rows.ACCOUNTS, damaged["accounts"]),
                    stream(loyalty, JournalSum, rows.POINTS_JOURNAL),
                    stream(loyalty, HoldSum, rows.HOLD_SUMS),
                )
            )
        self._report.findings = [
            each for each in self._report.findings if each.id not in everywhere or each.code is Code.ROW_DAMAGED
        ]
        self._report.reservations, self._report.holds = stock.states, points.states
        self._report.accounts = points.accounts
        return suspicious

    def _look_at(self, cases: Iterator[Case]) -> Iterator[str]:
        stale_before_us = self._now_us - int(self._patience.outbox_s * 1_000_000)
        report, findings = self._report, self._report.findings
        for case in cases:
            if case.order is not None:
                report.orders[case.order.status] += 1
                report.newest_order_us = max(report.newest_order_us, case.order.created_at_us)
            findings += order_findings(case, stale_before_us)
            self._count_in_flight(case)
            if next(suspicions(case, self._now_us), None):
                yield case.order_id

    def _look_again(self, order_ids: Sequence[str]) -> list[Finding]:
        """What is still wrong in the end, and of which orders nothing was under way while it was looked at."""
        deadline = time.monotonic() + self._patience.settle_s
        if order_ids and self._patience.settle_s:
            what = "1 order" if len(order_ids) == 1 else f"{len(order_ids):,} orders"
            limit_s = self._patience.settle_s
            self._say(f"Checking {what} again for up to {limit_s:g} s, since messages may be under way.")
        while True:
            judged = [each for ids in _chunks(order_ids) for each in self._judge(ids)]
            left = time.monotonic() < deadline
            order_ids = [order_id for order_id, _ in judged]
            if not order_ids or not left:
                break
            time.sleep(BETWEEN_LOOKS_S)
        self._report.in_flight += sum(findings is None for _, findings in judged)
        return [finding for _, findings in judged for finding in findings or ()]

    def _judge(self, order_ids: Sequence[str]) -> Iterator[tuple[str, list[Finding] | None]]:
        """The findings of orders that are not as they should be, None for those that move; nothing for the others.

        An order whose position is the same before and after its participants were looked at has not moved meanwhile,
        since it never comes back to one; so its participants had been told whatever is not pending.
        """
        before = self._cases(order_ids, {}, {})
        with self._databases["reservations"].snapshot() as connection:
            reservations = {row.order_id: row for row in by_ids(connection, Reservation, rows.RESERVATIONS, order_ids)}
        with self._databases["loyalty"].snapshot() as connection:
            holds = {row.order_id: row for row in by_ids(connection, Hold, rows.HOLDS, order_ids)}
        now_us = time.time_ns() // 1000
        for old, case in zip(before, self._cases(order_ids, reservations, holds), strict=True):
            findings = list(suspicions(case, now_us))
            if findings:
                yield case.order_id, findings if old.position() == case.position() else None

    def _cases(
        self, order_ids: Sequence[str], reservations: Mapping[str, Reservation], holds: Mapping[str, Hold]
    ) -> list[Case]:
        with self._databases["orders"].snapshot() as connection:
            orders = {row.order_id: row for row in by_ids(connection, Order, rows.ORDERS, order_ids)}
            messages = {
                (row.order_id, row.participant): row for row in by_ids(connection, Message, rows.OUTBOX, order_ids)
            }
        return [
            Case(
                each,
                orders.get(each),
                messages.get((each, "RESERVATIONS")),
                messages.get((each, "LOYALTY")),
                reservations.get(each),
                holds.get(each),
            )
            for each in order_ids
        ]

    def _count_in_flight(self, case: Case) -> None:
        messages = [message for message in (case.to_reservations, case.to_loyalty) if message is not None]
        self._report.in_flight += bool(messages) or "HELD" in (_state(case.reservation), _state(case.hold))
        for message in messages:
            what = f"{message.kind} to {message.participant}"
            self._report.pending[what] += 1
            if message.attempts:
                waiting = self._report.waiting.setdefault(what, Waiting())
                waiting.count += 1
                waiting.attempts = max(waiting.attempts, message.attempts)
                if not waiting.oldest_us or message.created_at_us < waiting.oldest_us:
                    waiting.oldest_us, waiting.oldest_id = message.created_at_us, message.order_id
                    waiting.last_error = message.last_error

    def _counted(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self._report.items += 1
            yield item

    def _overdue_us(self, participant: str) -> int:
        return self._now_us - int(self._patience.hold_grace_s.get(participant, 15.0) * 1_000_000)


def _state(row: Reservation | Hold | None) -> str:
    return row.state if row else ""


def _messages_to(participant: str) -> Select[Any]:
    return rows.OUTBOX.where(column("participant") == participant)


def _unknown_participants(orders: Connection) -> Iterator[Finding]:
    found = table("outbox", column("order_id"), column("participant"))
    others = select(found.c.order_id, func.min(found.c.participant)).where(found.c.participant.not_in(PARTICIPANTS))
    for order_id, participant in orders.execute(others.group_by(found.c.order_id).order_by(found.c.order_id)):
        yield Finding(Code.STATE_UNKNOWN, order_id, f"a message to '{participant}' is pending")


def _chunks(order_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(order_ids), IDS_AT_ONCE):
        yield order_ids[start : start + IDS_AT_ONCE]
