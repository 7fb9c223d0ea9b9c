"""`python -m souk_… prune`: deletes rows that EXPIRED long ago. Every call treats such a row as if it were not there.

CLOSED rows are deleted when orders says so, and CONFIRMED rows stay: docs/retention.md.
The same file stands in both services whose rows expire; see docs/adr/0003-one-writer.md.
"""

import time
from argparse import Namespace
from contextlib import closing

from sqlalchemy import bindparam, delete, func, literal_column, select

from . import __version__
from .database import Database
from .settings import Settings
from .statements import Among, Statement
from .storage import EXPIRING, REVISION
from .writer import Clock, system_clock

_DAY_US = 86_400_000_000
_AT_ONCE = 500
_BETWEEN_BATCHES_S = 0.01
"""For others who wait to write: the lock of a SQLite file is not handed on in turn."""

_order_id, _expires_at_us = EXPIRING.c.order_id, EXPIRING.c.expires_at_us
# A literal, since an index for some of the rows is used only where a query names the same condition.
_is_old = (EXPIRING.c.state == literal_column("'EXPIRED'")) & (_expires_at_us <= bindparam("before_us"))
_old = select(_order_id).where(_is_old).order_by(_expires_at_us).limit(bindparam("limit"))
# Past what a call has locked, which is about to hold it anew.
_LOCK_OLD = Statement(_old.with_for_update(skip_locked=True))
_DELETE = Statement(delete(EXPIRING).where(Among(_order_id)).returning(_order_id))
_COUNT_OLD = Statement(select(func.count()).select_from(EXPIRING).where(_is_old))


def prune(settings: Settings, options: Namespace, clock: Clock = system_clock) -> None:
    """Carries the command out and prints what it did. Raises SchemaMismatch, StorageUnavailable."""
    with closing(Database(settings.database_url)) as database:
        database.check_schema(REVISION, __version__)
        if options.dry_run:
            before_us = clock() - options.days * _DAY_US
            ((count,),) = database.read(lambda session: session.rows(_COUNT_OLD, before_us=before_us))
        else:
            count = delete_old(database, options.days, clock)
    age = "a day" if options.days == 1 else f"{options.days} days"
    done = "would be deleted" if options.dry_run else "deleted"
    print(f"{EXPIRING.name.capitalize()} that expired at least {age} ago: {count:,} {done}.")


def delete_old(database: Database, days: int, clock: Clock) -> int:
    """Deletes what expired at least so many days ago, a batch a transaction; gives how many. It may run beside others.

    Raises StorageUnavailable.
    """
    total = 0
    while True:
        with database.write() as session:
            before_us = clock() - days * _DAY_US
            old = [order_id for (order_id,) in session.rows(_LOCK_OLD, before_us=before_us, limit=_AT_ONCE)]
            total += len(session.rows_among(_DELETE, old))
        if len(old) < _AT_ONCE:
            return total
        time.sleep(_BETWEEN_BATCHES_S)
