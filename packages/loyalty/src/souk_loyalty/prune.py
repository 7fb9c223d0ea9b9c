"""`python -m souk_… prune`: deletes what is old: rows that EXPIRED, which every call treats as if they were not there,
and answers that are kept for repeated calls.

CLOSED rows are deleted when orders says so, and CONFIRMED rows stay: docs/retention.md.
The same file stands in both services whose rows expire; see docs/adr/0003-one-writer.md.
"""

import time
from argparse import Namespace
from contextlib import closing

from sqlalchemy import Column, ColumnElement, bindparam, delete, func, select

from . import __version__
from .database import Database
from .settings import Settings
from .statements import Among, Statement
from .storage import PRUNED, REVISION
from .writer import Clock, system_clock

_DAY_US = 86_400_000_000
_AT_ONCE = 500
_BETWEEN_BATCHES_S = 0.01
"""For others who wait to write: the lock of a SQLite file is not handed on in turn."""


class Old:
    """Rows of a kind that go when they are old, by their time."""

    def __init__(self, name: str, key: Column[str], at_us: Column[int], condition: ColumnElement[bool]) -> None:
        self.name = name
        is_old = condition & (at_us <= bindparam("before_us"))
        old = select(key).where(is_old).order_by(at_us).limit(bindparam("limit"))
        # Past what a call has locked, which is about to use it anew.
        self.lock = Statement(old.with_for_update(skip_locked=True))
        self.delete = Statement(delete(key.table).where(Among(key)).returning(key))
        self.count = Statement(select(func.count()).select_from(key.table).where(is_old))


KINDS = tuple(Old(*each) for each in PRUNED)


def prune(settings: Settings, options: Namespace, clock: Clock = system_clock) -> None:
    """Carries the command out and prints what it did. Raises SchemaMismatch, StorageUnavailable."""
    with closing(Database(settings.database_url)) as database:
        database.check_schema(REVISION, __version__)
        age = "a day" if options.days == 1 else f"{options.days} days"
        done = "would be deleted" if options.dry_run else "deleted"
        for kind in KINDS:
            if options.dry_run:
                count = _count_old(database, kind, options.days, clock)
            else:
                count = delete_old(database, kind, options.days, clock)
            print(f"{kind.name} at least {age} ago: {count:,} {done}.")


def _count_old(database: Database, kind: Old, days: int, clock: Clock) -> int:
    before_us = clock() - days * _DAY_US
    ((count,),) = database.read(lambda session: session.rows(kind.count, before_us=before_us))
    return int(count)


def delete_old(database: Database, kind: Old, days: int, clock: Clock) -> int:
    """Deletes what is at least so many days old, a batch a transaction; gives how many. It may run beside others.

    Raises StorageUnavailable.
    """
    total = 0
    while True:
        with database.write() as session:
            before_us = clock() - days * _DAY_US
            old = [key for (key,) in session.rows(kind.lock, before_us=before_us, limit=_AT_ONCE)]
            total += len(session.rows_among(kind.delete, old))
        if len(old) < _AT_ONCE:
            return total
        time.sleep(_BETWEEN_BATCHES_S)
