"""Which orders may go, and how they go, on SQLAlchemy Core.

Only what came to nothing ever goes: refusals, and orders that are CANCELLED. Both are final, so once their outbox is
empty nothing of them changes any more. `final_at_us` says since when that has been seen, for two reasons: no message
of theirs can be on its way a day later, and so long, or longer, their key keeps its answer. See docs/retention.md.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, delete, func, literal_column, select, tuple_

from souk_orders import tables
from souk_orders.database import Database
from souk_orders.domain import DomainError, HistoryEntry, StorageUnavailable
from souk_orders.statements import Among, Session, Statement, updating
from souk_orders.tables import OF_DECISIONS, OLD_STEPS, ORDER_COLUMNS, history_until_0004, orders, outbox
from souk_orders.writer import Clock, Writer, system_clock

DAY_US = 86_400_000_000

Position = tuple[int, str]
"""Of an order among those that are over: since when, and its id."""

START: Position = (0, "")
"""Before the first of them."""

# Literals, since an index for some of the rows is used only where a query names the same condition.
_came_to_nothing = orders.c.status.in_([literal_column("'REFUSED'"), literal_column("'CANCELLED'")])
_is_due = _came_to_nothing & (orders.c.final_at_us <= bindparam("before_us"))
_is_marked = _came_to_nothing & orders.c.final_at_us.is_not(None)
_is_unmarked = _came_to_nothing & orders.c.final_at_us.is_(None)
# Past what others have locked, so that nobody waits for anybody: the next run will find it.
_LOCK_UNMARKED = Statement(
    select(orders.c.order_id)
    .where(_is_unmarked, orders.c.order_id > bindparam("after"))
    .order_by(orders.c.final_at_us, orders.c.order_id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_MARK = updating(orders, ("final_at_us",))
_SELECT_DUE = Statement(
    select(orders.c.final_at_us, orders.c.order_id)
    .where(
        _is_due,
        tuple_(orders.c.final_at_us, orders.c.order_id) > tuple_(bindparam("final_at_us"), bindparam("order_id")),
    )
    .order_by(orders.c.final_at_us, orders.c.order_id)
    .limit(bindparam("limit"))
)
_LOCK_MARKED = Statement(
    select(orders.c.order_id, orders.c.final_at_us)
    .where(Among(orders.c.order_id), _is_marked)
    .order_by(orders.c.order_id)  # so that two processes never wait for each other
    .with_for_update()
)
_SELECT_WAITING = Statement(select(outbox.c.order_id).where(Among(outbox.c.order_id)))
_DELETE_OLD_STEPS = Statement(
    delete(history_until_0004).where(Among(history_until_0004.c.order_id)).returning(history_until_0004.c.id)
)
_DELETE_ORDERS = Statement(delete(orders).where(Among(orders.c.order_id), _is_marked).returning(orders.c.order_id))
_NAMES = (*(column.name for column in OF_DECISIONS), "final_at_us")
_SELECT_ROWS = Statement(select(*ORDER_COLUMNS, orders.c.final_at_us, orders.c.steps).where(Among(orders.c.order_id)))
_SELECT_OLD_STEPS = Statement(
    select(history_until_0004.c.order_id, history_until_0004.c.id, *OLD_STEPS).where(
        Among(history_until_0004.c.order_id)
    )
)
_COUNT_UNMARKED = Statement(
    select(func.count())
    .select_from(orders)
    .where(_is_unmarked, ~select(outbox.c.order_id).where(outbox.c.order_id == orders.c.order_id).exists())
)
_COUNT_DUE = Statement(select(func.count()).select_from(orders).where(_is_due))


@dataclass(frozen=True, slots=True)
class Mark:
    """Notes of orders that came to nothing, and that nobody must be told of any more, that they have been seen so.

    Looks at `limit` of those with a greater id than `after`. Outcome: Marked.
    """

    after: str
    limit: int


@dataclass(frozen=True, slots=True)
class Marked:
    """How many were; `last` is the id to go on after, None where there is no more to look at."""

    count: int
    last: str | None


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes those of the orders, with their history, that have been over for `age_us`. Outcome: how many."""

    order_ids: Sequence[str]
    age_us: int


class SqlRetention:
    """What came to nothing, in a database. Every method raises StorageUnavailable."""

    def __init__(self, database: Database, days: int, clock: Clock = system_clock) -> None:
        """`days` is for how long an order must have been over to be due: at least one, whatever is asked for."""
        self._database = database
        self._age_us = max(days, 1) * DAY_US
        self._clock = clock
        self._writer: Writer[Mark | Delete, Marked | int | DomainError] = Writer(database, carry_out, clock)

    async def mark(self, after: str, limit: int) -> Marked:
        """See Mark."""
        (marked,) = await self._writer.execute([Mark(after, limit)])
        if isinstance(marked, DomainError):
            raise StorageUnavailable from marked
        assert isinstance(marked, Marked)
        return marked

    async def delete(self, order_ids: Sequence[str]) -> int:
        """Deletes those that are due, in one transaction; gives how many."""
        (count,) = await self._writer.execute([Delete(order_ids, self._age_us)])
        if isinstance(count, DomainError):
            raise StorageUnavailable from count
        assert isinstance(count, int)
        return count

    def due(self, after: Position, limit: int) -> Sequence[Position]:
        """Those that are due and come after a position, the oldest first."""
        final_at_us, order_id = after
        parameters = {"before_us": self._before_us(), "final_at_us": final_at_us, "order_id": order_id, "limit": limit}
        rows = self._database.read(lambda session: session.rows(_SELECT_DUE, **parameters))
        return [(final_at_us, order_id) for final_at_us, order_id in rows]

    def records(self, order_ids: Sequence[str]) -> Sequence[dict[str, Any]]:
        """All that is known of these orders, with their history, by the columns' names. Times in microseconds."""
        return self._database.read(lambda session: _records(session, order_ids))

    def counts(self) -> tuple[int, int]:
        """How many could be marked now, and how many are due."""

        def query(session: Session) -> tuple[int, int]:
            ((unmarked,),) = session.rows(_COUNT_UNMARKED)
            ((due,),) = session.rows(_COUNT_DUE, before_us=self._before_us())
            return unmarked, due

        return self._database.read(query)

    def close(self) -> None:
        """Lets what is under way finish."""
        self._writer.close()
        self._database.close()

    def _before_us(self) -> int:
        return self._clock() - self._age_us


def carry_out(session: Session, commands: Sequence[Mark | Delete], now_us: int) -> Sequence[Marked | int]:
    """Locks what the commands are about, and changes what is still as they expect it."""
    return [
        _mark(session, command, now_us) if isinstance(command, Mark) else _delete(session, command, now_us)
        for command in commands
    ]


def _mark(session: Session, command: Mark, now_us: int) -> Marked:
    found = [order_id for (order_id,) in session.rows(_LOCK_UNMARKED, after=command.after, limit=command.limit)]
    over = _without_messages(session, found)
    session.change(_MARK, [{"order_id": order_id, "final_at_us": now_us} for order_id in over])
    return Marked(len(over), found[-1] if len(found) == command.limit else None)


def _delete(session: Session, command: Delete, now_us: int) -> int:
    locked = session.rows_among(_LOCK_MARKED, command.order_ids)
    due = [order_id for order_id, final_at_us in locked if final_at_us <= now_us - command.age_us]
    over = _without_messages(session, due)
    session.rows_among(_DELETE_OLD_STEPS, over)
    return len(session.rows_among(_DELETE_ORDERS, over))


def _without_messages(session: Session, order_ids: Sequence[str]) -> list[str]:
    """Those that no participant must be told of; their rows are locked, and with them their messages."""
    waiting = {order_id for (order_id,) in session.rows_among(_SELECT_WAITING, order_ids)}
    return [order_id for order_id in order_ids if order_id not in waiting]


def _records(session: Session, order_ids: Sequence[str]) -> Sequence[dict[str, Any]]:
    old = defaultdict(list)
    for order_id, _, *step in sorted(session.rows_among(_SELECT_OLD_STEPS, order_ids), key=itemgetter(1)):
        old[order_id].append(HistoryEntry(*step))
    records = []
    for *row, steps in session.rows_among(_SELECT_ROWS, order_ids):
        record = dict(zip(_NAMES, row, strict=True))
        # Not by way of the domain: a row that somebody has spoilt is archived as it is.
        record["fingerprint"] = bytes(record["fingerprint"]).hex()
        record["without_loyalty"] = bool(record["without_loyalty"])
        record |= {name: _parsed(record[name]) for name in ("lines", "refusal")}
        try:
            record["history"] = [step._asdict() for step in (*old[record["order_id"]], *tables.steps(steps))]
        except (TypeError, ValueError):
            record["history"] = steps
        records.append(record)
    return records


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
