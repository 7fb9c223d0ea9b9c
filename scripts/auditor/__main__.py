"""Audits Souk's three databases: whether every order happened as a whole or not at all.

It only reads, and may run beside a live system. The databases are those of the environment, as the services read it
(SOUK_ORDERS_DATABASE_URL and so on), or else SQLite files in SOUK_DATA (./data). Exit codes: 0 clean, 1 findings,
2 a database cannot be read. docs/audit.md tells what each finding means.
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
"""From when the janitor should have looked to when it must have: clocks differ, and processes are started again."""


def hold_grace_s(participant: str, environment: Mapping[str, str] = os.environ) -> float:
    """How long a hold may outlive its time: the janitor's period, as the service reads it, and some slack."""
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
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the SQLite files are, whatever else is set")
    parser.add_argument(
        "--settle", type=seconds, default=5.0, metavar="SECONDS",
        help="how long what the databases seem to disagree about is looked at again (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-age", type=seconds, default=60.0, metavar="SECONDS",
        help="how long a message may be due before it is tried (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the same for machines")
    options = parser.parse_args()
    try:
        grace_s = {name: hold_grace_s(name) for name in NAMES[1:]}
    except ValueError:
        print("SOUK_JANITOR_PERIOD_S must be a number of seconds, as for the services.", file=sys.stderr)
        return 2
    try:
        databases = {name: Database(name, url) for name, url in urls(options.data).items()}
        patience = Patience(options.settle, grace_s, options.outbox_age)
        report = Audit(databases, patience, lambda text: print(text, file=sys.stderr, flush=True)).run()
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 2
    print(as_json(report) if options.json else as_text(report))
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
