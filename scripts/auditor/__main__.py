"""Audits Souk's three databases: checks that every order happened completely or not at all.

It changes no data, and may run beside a live system. SOUK_ORDERS_DATABASE_URL, SOUK_RESERVATIONS_DATABASE_URL and
SOUK_LOYALTY_DATABASE_URL name the databases, as they do for the services. By default they are the SQLite files in
SOUK_DATA (./data). Exit codes: 0 clean, 1 there are findings, 2 a database cannot be read. docs/audit.md explains each
finding.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from auditor.audit import Audit, Patience
from auditor.databases import NAMES, Database, Unreadable, urls
from auditor.report import as_json, as_text

SLACK_S = 10.0
"""How late the janitor may be without a finding: clocks differ, and services restart."""


def hold_grace_s(participant: str, environment: Mapping[str, str] = os.environ) -> float:
    """How long after its time a hold may still be HELD: the janitor's period, as the service reads it, plus slack."""
    names = (f"SOUK_{participant.upper()}_JANITOR_PERIOD_S", "SOUK_JANITOR_PERIOD_S")
    return float(next((environment[each] for each in names if environment.get(each)), "1")) + SLACK_S


def seconds(text: str) -> float:
    """A duration. Raises ValueError."""
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError
    return value


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser("audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the folder of the SQLite files; overrides all variables"
    )
    parser.add_argument(
        "--settle", type=seconds, default=5.0, metavar="SECONDS",
        help="check again for this long where the databases disagree, since orders may be under way (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-age", type=seconds, default=60.0, metavar="SECONDS",
        help="report a message that was due this long ago and was never tried (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    options = parser.parse_args()
    try:
        grace_s = {name: hold_grace_s(name) for name in NAMES[1:]}
    except ValueError:
        print("SOUK_JANITOR_PERIOD_S, or a service's own, is not a number of seconds.", file=sys.stderr)
        return 2
    try:
        databases = {name: Database(name, url) for name, url in urls(options.data).items()}
        patience = Patience(options.settle, grace_s, options.outbox_age)
        report = Audit(databases, patience, lambda text: print(text, file=sys.stderr, flush=True)).run()
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 2
    print(as_json(report) if options.json else as_text(report))
    if report.is_empty() and report.without_log:
        print("The databases look like copies of open files, without what was in their logs.", file=sys.stderr)
        return 2
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
