"""The report: as text and as JSON."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby

from auditor.audit import Report
from auditor.findings import Finding

SHOWN = 20
"""How many findings of one code the text shows; JSON has all."""


def as_json(report: Report) -> str:
    """One object; ages in seconds."""
    now_us = time.time_ns() // 1000
    return json.dumps(
        {
            "clean": not report.findings,
            "seconds": round(report.seconds, 3),
            "checked": {
                "items": report.items,
                "accounts": report.accounts,
                "orders": dict(report.orders),
                "reservations": report.reservations,
                "holds": report.holds,
            },
            "newest_order_s": (now_us - report.newest_order_us) // 1_000_000 if report.newest_order_us else None,
            "without_log": report.without_log,
            "in_flight": report.in_flight,
            "looked_at_again": report.looked_at_again,
            "pending": dict(report.pending),
            "waiting": [
                {
                    "what": what,
                    "count": each.count,
                    "oldest_s": (now_us - each.oldest_us) // 1_000_000,
                    "oldest_order_id": each.oldest_id,
                    "attempts": each.attempts,
                    "last_error": each.last_error,
                }
                for what, each in report.waiting.items()
            ],
            "findings": [asdict(finding) for finding in report.findings],
        },
        indent=2,
    )


def as_text(report: Report) -> str:
    """A table of what was checked, and the findings."""
    return "\n".join(
        [*_checked(report), *_waiting(report), *_findings(report.findings), *_doubts(report), _verdict(report)]
    )


def _checked(report: Report) -> Iterator[str]:
    yield f"{'items':<14}{report.items:>11,}"
    yield f"{'accounts':<14}{report.accounts:>11,}"
    for name, counts in (("orders", report.orders), ("reservations", report.reservations), ("holds", report.holds)):
        states = "   ".join(f"{state} {count:,}" for state, count in sorted(counts.items()))
        yield f"{name:<14}{sum(counts.values()):>11,}   {states}".rstrip()
    pending = "   ".join(f"{what} {count:,}" for what, count in sorted(report.pending.items()))
    yield f"{'outbox':<14}{sum(report.pending.values()):>11,}   {pending}".rstrip()
    yield f"{'in flight':<14}{report.in_flight:>11,}   orders with something pending or held; this is normal"


def _waiting(report: Report) -> Iterator[str]:
    now_us = time.time_ns() // 1000
    for what, each in sorted(report.waiting.items()):
        age_s = (now_us - each.oldest_us) // 1_000_000
        yield (
            f"\nwaiting: {what}: {each.count:,} failed so far, after up to {each.attempts} attempts; the oldest has "
            f"waited {age_s} s, for the order {each.oldest_id}: {each.last_error or 'no error was recorded'}"
        )


def _findings(findings: list[Finding]) -> Iterator[str]:
    for code, group in groupby(findings, key=lambda finding: finding.code):
        same = list(group)
        yield f"\n{code} ({len(same):,})"
        for finding in same[:SHOWN]:
            yield f"  {finding.id}  {finding.figures}"
        if len(same) > SHOWN:
            yield f"  … and {len(same) - SHOWN:,} more; --json lists all"


def _doubts(report: Report) -> Iterator[str]:
    if report.without_log:
        yield (
            f"\nnote: no write-ahead log (-wal) stands beside the SQLite file of {', '.join(report.without_log)}. If "
            "it was copied while a service ran, its newest changes are missing; docs/backup.md says how to copy"
        )


def _verdict(report: Report) -> str:
    if report.is_empty():
        return (
            "\nEmpty: there are no orders, items or accounts, so there was nothing to check. Are these the databases?"
        )
    orders = sum(report.orders.values())
    if orders:
        age = _age(time.time_ns() // 1000 - report.newest_order_us)
        looked_at = f"{orders:,} {'order' if orders == 1 else 'orders'}, the newest {age} old"
    else:
        looked_at = "no orders"
    if not report.findings:
        return f"\nClean: every check passed; looked at {looked_at} ({report.seconds:.1f} s)."
    count = len(report.findings)
    what = "finding" if count == 1 else "findings"
    return (
        f"\n{count:,} {what}; docs/audit.md says what each one means and what to do; looked at {looked_at} "
        f"({report.seconds:.1f} s)."
    )


def _age(microseconds: int) -> str:
    seconds = max(microseconds, 0) // 1_000_000
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:,} {unit}"
    return f"{seconds} s"
