"""Orders and their outbox in a database, by SQLAlchemy Core."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, bindparam, delete, insert, select, tuple_, update

from souk_orders import tables
from souk_orders.book import Message, OrderBook, Participant
from souk_orders.database import Database
from souk_orders.domain import Decision, DomainError, HistoryEntry, Order, Status, StorageUnavailable, UnknownOrder
from souk_orders.limits import Position
from souk_orders.service import (
    Answered,
    Cancel,
    Command,
    Complete,
    Create,
    Lease,
    Outcome,
    PutOff,
    Refuse,
)
from souk_orders.tables import history, is_order, orders, outbox
from souk_orders.writer import Clock, Writer, system_clock

REVISION = "0002"
"""The newest migration that this module knows; see `migrations/`."""

_UPDATE_ORDER = (
    update(orders)
    .where(orders.c.order_id == bindparam("key"))
    .values({name: bindparam(name) for name in ("status", "status_reason")})
)
_IS_MESSAGE = (outbox.c.order_id == bindparam("key")) & (outbox.c.participant == bindparam("to"))
_UPDATE_MESSAGE = (
    update(outbox)
    .where(_IS_MESSAGE)
    .values({column.name: bindparam(column.name) for column in outbox.c if not column.primary_key})
)
_PUT_OFF = (
    update(outbox)
    .where(_IS_MESSAGE)
    .values(due_at_us=bindparam("due"), attempts=outbox.c.attempts + 1, last_error=bindparam("error"))
)
_DELETE_MESSAGE = delete(outbox).where(_IS_MESSAGE)
_SELECT_ORDERS = select(orders).where(orders.c.order_id.in_(bindparam("keys", expanding=True)))
# In the order of their keys, so that two processes never wait for each other. An order's row stands for its messages,
# too: whoever is about to change one has locked the other.
_LOCK_ORDERS = _SELECT_ORDERS.order_by(orders.c.order_id).with_for_update()
_SELECT_OUTBOX = select(outbox).where(outbox.c.order_id.in_(bindparam("keys", expanding=True)))
_SELECT_HISTORY = (
    select(history.c.step, history.c.at_us, history.c.served_by, history.c.detail)
    .where(history.c.order_id == bindparam("key"))
    .order_by(history.c.id)
)
_LOCK_DUE = (
    select(orders)
    .join(outbox)
    .where(
        outbox.c.participant == bindparam("to"),
        outbox.c.due_at_us <= bindparam("now_us"),
        outbox.c.leased_until_us <= bindparam("now_us"),
    )
    .order_by(outbox.c.due_at_us)
    .limit(bindparam("limit"))
    .with_for_update(of=orders, skip_locked=True)
)

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError)
"""What reading a row raises that somebody has spoilt."""

_UNREADABLE_DELAY_US = 30_000_000

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class SqlStorage:
    """The port `service.Storage` on a database."""

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._writer: Writer[Command, Outcome] = Writer(database, carry_out, clock)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """See the port."""
        return await self._writer.execute(commands)

    async def order(self, order_id: str) -> Order:
        """See the port."""
        return await self._read(lambda connection: _load_order(connection, order_id))

    async def order_with_history(self, order_id: str) -> tuple[Order, Sequence[HistoryEntry]]:
        """See the port."""

        def query(connection: Connection) -> tuple[Order, Sequence[HistoryEntry]]:
            order = _load_order(connection, order_id)
            return order, [HistoryEntry(*row) for row in connection.execute(_SELECT_HISTORY, {"key": order_id})]

        return await self._read(query)

    async def orders(self, customer_id: str, status: Status | None, after: Position, limit: int) -> Sequence[Order]:
        """See the port."""
        query = page_query(customer_id, status, after, limit)
        return await self._read(lambda connection: [tables.order(row) for row in connection.execute(query)])

    async def answers(self) -> bool:
        """Whether the database can be written: an empty transaction goes the way of every other."""
        try:
            await self.execute([])
        except StorageUnavailable:
            return False
        return True

    def close(self) -> None:
        """Lets what is under way finish."""
        self._writer.close()
        self._readers.shutdown()
        self._database.close()

    async def _read(self, query: Callable[[Connection], Result]) -> Result:
        def run() -> Result:
            with self._database.read() as connection:
                return query(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)


def page_query(customer_id: str, status: Status | None, after: Position, limit: int) -> Select[Any]:
    """A stretch of an index, whatever the filters: no sort, and nothing that is left out again."""
    position = tuple_(orders.c.created_at_us, orders.c.order_id)
    query = select(orders).where(is_order, position < tuple_(*after))
    if customer_id:
        query = query.where(orders.c.customer_id == customer_id)
    if status is not None:
        query = query.where(orders.c.status == status.value)
    return query.order_by(orders.c.created_at_us.desc(), orders.c.order_id.desc()).limit(limit)


def carry_out(connection: Connection, commands: Sequence[Command], now_us: int) -> Sequence[Outcome]:
    """Locks what the commands are about, lets the domain decide, and writes what it changed.

    A row that is not there cannot be locked: who inserts it runs into whoever else does, and sees theirs at the next
    try. Messages to lease are chosen last, and past what others have locked, so that nobody waits for a lease.
    """
    order_ids: set[str] = set()
    wanted: Counter[Participant] = Counter()
    for command in commands:
        match command:
            case Lease(participant, limit):
                wanted[participant] += limit
            case Answered(message) | PutOff(message):
                order_ids.add(message.order_id)
            case _:
                order_ids.add(command.order_id)
    old_decisions = _load_decisions(connection, _LOCK_ORDERS, order_ids)
    for participant, limit in wanted.items():
        # The other commands may each take one away.
        old_decisions.update(_load_due(connection, participant, now_us, limit + len(commands)))
    old_outbox = _load_outbox(connection, old_decisions)

    book = OrderBook(old_decisions, old_outbox.values(), now_us)
    outcomes = [_decide(book, command) for command in commands]

    _save_decisions(connection, old_decisions, book.decisions)
    _save_outbox(connection, old_outbox, book.outbox)
    if book.history:
        connection.execute(insert(history), [tables.history_row(*step) for step in book.history])
    return outcomes


def _decide(book: OrderBook, command: Command) -> Outcome:
    try:
        match command:
            case Create(order_id, fingerprint, terms, accept_until_us, lease_us):
                return book.create(order_id, fingerprint, terms, accept_until_us, lease_us)
            case Refuse(order_id, fingerprint, customer_id, refusal, lease_us):
                return book.refuse(order_id, fingerprint, customer_id, refusal, lease_us)
            case Cancel(order_id):
                return book.cancel(order_id)
            case Complete(order_id):
                return book.complete(order_id)
            case Lease(participant, limit, lease_us):
                return book.lease(participant, limit, lease_us)
            case Answered(message, no, served_by):
                return book.answered(message, no, served_by)
            case PutOff(message, error, delay_us):
                book.put_off(message, error, delay_us)
                return None
    except DomainError as refusal:
        return refusal


def _load_order(connection: Connection, order_id: str) -> Order:
    order = _load_decisions(connection, _SELECT_ORDERS, [order_id]).get(order_id)
    if not isinstance(order, Order):
        raise UnknownOrder(order_id)
    return order


def _load_decisions(connection: Connection, query: Select[Any], order_ids: Iterable[str]) -> dict[str, Decision]:
    keys = list(order_ids)
    if not keys:
        return {}
    with connection.execute(query, {"keys": keys}) as rows:
        return {row.order_id: tables.decision(row) for row in rows}


def _load_due(connection: Connection, to: Participant, now_us: int, limit: int) -> dict[str, Decision]:
    """Locks what is due. An order that cannot be read is put off, so that it holds up none of the others."""
    due = {"to": to.value, "now_us": now_us, "limit": limit}
    try:
        with connection.execute(_LOCK_DUE, due) as rows:
            return {row.order_id: tables.decision(row) for row in rows}
    except _UNREADABLE:
        readable = {}
        for order_id in connection.execute(_LOCK_DUE.with_only_columns(orders.c.order_id), due).scalars().all():
            try:
                readable.update(_load_decisions(connection, _SELECT_ORDERS, [order_id]))
            except _UNREADABLE as error:
                log.warning("order %s cannot be read, so %s cannot be told of it: %s", order_id, to, error)
                reason = f"the order cannot be read: {error}"[:500]
                message = {"key": order_id, "to": to.value, "due": now_us + _UNREADABLE_DELAY_US, "error": reason}
                connection.execute(_PUT_OFF, message)
        return readable


def _load_outbox(connection: Connection, order_ids: Iterable[str]) -> dict[tuple[str, Participant], Message]:
    keys = list(order_ids)
    rows = connection.execute(_SELECT_OUTBOX, {"keys": keys}) if keys else ()
    return {(message.order_id, message.participant): message for message in map(tables.message, rows)}


# Entities are immutable: what changed is another object than the one that was loaded.


def _save_decisions(connection: Connection, old: dict[str, Decision], new: dict[str, Decision]) -> None:
    # Sorted, as in the locks: an insert waits for another's insert of the same key.
    added = [tables.order_row(decision) for order_id, decision in sorted(new.items()) if order_id not in old]
    changed = [
        {"key": order_id, "status": order.status.value, "status_reason": order.status_reason}
        for order_id, order in new.items()
        if isinstance(order, Order) and order_id in old and order is not old[order_id]
    ]
    if added:
        connection.execute(insert(orders), added)
    if changed:
        connection.execute(_UPDATE_ORDER, changed)


def _save_outbox(
    connection: Connection,
    old: dict[tuple[str, Participant], Message],
    new: dict[tuple[str, Participant], Message],
) -> None:
    added = [
        {"order_id": order_id, "participant": to.value, **tables.message_row(message)}
        for (order_id, to), message in new.items()
        if (order_id, to) not in old
    ]
    changed = [
        {"key": order_id, "to": to.value, **tables.message_row(message)}
        for (order_id, to), message in new.items()
        if (order_id, to) in old and message is not old[order_id, to]
    ]
    answered = [{"key": order_id, "to": to.value} for order_id, to in old if (order_id, to) not in new]
    if added:
        connection.execute(insert(outbox), added)
    if changed:
        connection.execute(_UPDATE_MESSAGE, changed)
    if answered:
        connection.execute(_DELETE_MESSAGE, answered)
