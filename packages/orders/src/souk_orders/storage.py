"""Orders and their outbox in a database, by SQLAlchemy Core."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from heapq import merge
from itertools import islice
from typing import TypeVar

from sqlalchemy import bindparam, select, tuple_, update

from souk_orders import tables
from souk_orders.book import Kind, Message, OrderBook, Participant
from souk_orders.database import Database
from souk_orders.domain import (
    Decision,
    DomainError,
    HistoryEntry,
    Order,
    Overloaded,
    Status,
    UnknownOrder,
)
from souk_orders.due import load_due, put_off
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
from souk_orders.statements import Among, Lock, Row, Session, Statement, deleting, inserting, updating
from souk_orders.tables import OLD_STEPS, ORDER_COLUMNS, history_until_0004, is_order, orders, outbox
from souk_orders.writer import Clock, Writer, system_clock

REVISION = "0006"
"""The newest migration that this module knows; see `migrations/`."""

_all_orders = select(*ORDER_COLUMNS)
_orders_among = _all_orders.where(Among(orders.c.order_id))
# An order's row stands for its messages, too: whoever is about to change one has locked the other.
_LOCK_ORDERS = Lock(_all_orders, orders.c.order_id)
_SELECT_ORDERS = Statement(_orders_among)
_SELECT_OUTBOX = Statement(select(outbox).where(Among(outbox.c.order_id)))
_SELECT_ORDER = Statement(select(*ORDER_COLUMNS, orders.c.steps).where(orders.c.order_id == bindparam("key")))
_SELECT_OLD_STEPS = Statement(
    select(*OLD_STEPS).where(history_until_0004.c.order_id == bindparam("key")).order_by(history_until_0004.c.id)
)
_INSERT_ORDERS = inserting(orders, without=("final_at_us",))
_INSERT_MESSAGES = inserting(outbox)
_UPDATE_ORDERS = updating(orders, ("status", "status_reason", "steps"), behind=("steps",))
_UPDATE_STEPS = updating(orders, ("steps",), behind=("steps",))  # which no index knows
_UPDATE_MESSAGES = updating(outbox)
_DELETE_MESSAGES = deleting(outbox)
_RELEASE_OTHERS = Statement(
    update(outbox)
    .where(outbox.c.order_id == bindparam("key"), *(outbox.c.participant != each.value for each in Participant))
    .values(kind=bindparam("kind"), due_at_us=bindparam("now_us"), leased_until_us=0)
)

Result = TypeVar("Result")


class SqlStorage:
    """The port `service.Storage` on a database."""

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._writer: Writer[Command, Outcome] = Writer(database, carry_out, clock)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """See the port."""
        return await self._writer.execute(commands)

    def begin(self, commands: Sequence[Command]) -> asyncio.Future[Sequence[Outcome]]:
        """See the port."""
        return self._writer.begin(commands)

    def lag_s(self) -> float:
        """See the port."""
        return self._writer.lag_s()

    async def order(self, order_id: str) -> Order:
        """See the port."""
        return await self._read(lambda session: _load_order(session, order_id))

    async def order_with_history(self, order_id: str) -> tuple[Order, Sequence[HistoryEntry]]:
        """See the port."""

        def query(session: Session) -> tuple[Order, Sequence[HistoryEntry]]:
            for *row, steps in session.rows(_SELECT_ORDER, key=order_id):
                if isinstance(order := tables.decision(row), Order):
                    return order, tables.history(order_id, session.rows(_SELECT_OLD_STEPS, key=order_id), steps)
            raise UnknownOrder(order_id)

        return await self._read(query)

    async def orders(self, customer_id: str, status: Status | None, after: Position, limit: int) -> Sequence[Order]:
        """See the port."""
        statuses = Status if status is None else [status]

        def rows(session: Session, after: Position, limit: int) -> list[Row]:
            # A stretch for each status, since no index has all orders without what was refused.
            page = _page(bool(customer_id))
            position = dict(zip(("created_at_us", "order_id"), after, strict=True))
            filters = {"customer_id": customer_id, "limit": limit, **position}
            stretches = [session.rows(page, status=each.value, **filters) for each in statuses]
            return list(islice(merge(*stretches, key=tables.position, reverse=True), limit))

        def query(session: Session) -> Sequence[Order]:
            found: list[Order] = []
            last = after
            while lacking := limit - len(found):
                page = rows(session, last, lacking)
                found += [order for order in tables.decision.readable(page) if isinstance(order, Order)]
                if len(page) < lacking:
                    break
                last = tables.position(page[-1])  # others take the places of those that cannot be read
            return found

        return await self._read(query)

    async def answers(self) -> bool:
        """Whether the database can be written."""
        return await self._writer.can_write()

    def close(self) -> None:
        """Lets what is under way finish."""
        self._writer.close()
        self._readers.shutdown()
        self._database.close()

    async def _read(self, query: Callable[[Session], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._database.read, query)


@cache
def _page(of_a_customer: bool) -> Statement:
    """Orders of one status, the newest first: a stretch of an index, no sort, and nothing that is left out again."""
    position = tuple_(orders.c.created_at_us, orders.c.order_id)
    query = _all_orders.where(
        is_order,
        orders.c.status == bindparam("status"),
        position < tuple_(bindparam("created_at_us"), bindparam("order_id")),
    )
    if of_a_customer:
        query = query.where(orders.c.customer_id == bindparam("customer_id"))
    newest_first = query.order_by(orders.c.created_at_us.desc(), orders.c.order_id.desc())
    return Statement(newest_first.limit(bindparam("limit")))


def carry_out(session: Session, commands: Sequence[Command], now_us: int) -> Sequence[Outcome]:
    """Locks what the commands are about, lets the domain decide, and writes what it changed.

    A row that is not there cannot be locked: who inserts it runs into whoever else does, and sees theirs at the next
    try. Messages to lease are chosen last, and past what others have locked, so that nobody waits for a lease.
    """
    wanted: dict[Participant, Lease] = {}
    for command in commands:
        if isinstance(command, Lease):
            limit = wanted[command.participant].limit if command.participant in wanted else 0
            wanted[command.participant] = command._replace(limit=command.limit + limit)
    order_ids = {order_id for command in commands if (order_id := _order_id(command))}
    rows, locked = session.lock(_LOCK_ORDERS, order_ids)
    old_decisions, damaged = tables.decision.keyed(rows)
    due = []
    for lease in wanted.values():
        # The other commands may each take one away.
        found = load_due(session, now_us, lease._replace(limit=lease.limit + len(commands)))
        old_decisions.update(found)
        due += [(order_id, lease.participant) for order_id in found]
    messages, others, spoilt = tables.messages(session.rows_among(_SELECT_OUTBOX, old_decisions))
    for order_id, why in spoilt.items():  # it may be any of its messages, so nothing can be said of the order
        damaged[order_id] = why
        del old_decisions[order_id]
    for order_id, participant in due:
        if order_id in spoilt:
            put_off(session, order_id, participant, now_us, spoilt[order_id])
    old_outbox = {(each.order_id, each.participant): each for each in messages if each.order_id in old_decisions}

    book = OrderBook(old_decisions, old_outbox.values(), now_us, others)
    lacking: dict[str, DomainError] = {**damaged, **{order_id: Overloaded() for order_id in locked}}
    outcomes = [lacking.get(_order_id(command)) or _decide(book, command) for command in commands]

    _save_decisions(session, old_decisions, book)
    _save_outbox(session, old_outbox, book.outbox)
    for order_id in [order_id for order_id in others if book.others[order_id] is not others[order_id]]:
        session.run(_RELEASE_OTHERS, key=order_id, kind=Kind.RELEASE.value, now_us=now_us)
    return outcomes


def _order_id(command: Command) -> str:
    """Of the order that a command is about; empty for a lease, which is about whatever is due."""
    match command:
        case Lease():
            return ""
        case Answered(message) | PutOff(message):
            return message.order_id
        case _:
            return command.order_id


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


def _load_order(session: Session, order_id: str) -> Order:
    order = next(map(tables.decision, session.rows_among(_SELECT_ORDERS, [order_id])), None)
    if not isinstance(order, Order):
        raise UnknownOrder(order_id)
    return order


# Entities are immutable: what changed is another object than the one that was loaded.


def _save_decisions(session: Session, old: Mapping[str, Decision], book: OrderBook) -> None:
    new, steps = book.decisions, book.steps
    # Sorted, as in the locks: an insert waits for another's insert of the same key.
    inserted = sorted(new.keys() - old.keys())
    session.change(_INSERT_ORDERS, [tables.order_row(new[order_id], steps.get(order_id, ())) for order_id in inserted])
    changed, noted = [], []
    for order_id in steps.keys() & old.keys():
        order = new[order_id]
        assert isinstance(order, Order)  # a refusal has no steps
        row = {"order_id": order_id, "steps": tables.steps_text(steps[order_id])}
        if order is old[order_id]:
            noted.append(row)
        else:
            changed.append({**row, "status": order.status.value, "status_reason": order.status_reason})
    session.change(_UPDATE_ORDERS, changed)
    session.change(_UPDATE_STEPS, noted)


def _save_outbox(
    session: Session,
    old: Mapping[tuple[str, Participant], Message],
    new: Mapping[tuple[str, Participant], Message],
) -> None:
    session.change(_INSERT_MESSAGES, [tables.message_row(message) for key, message in new.items() if key not in old])
    changed = [message for key, message in new.items() if message is not old.get(key, message)]
    session.change(_UPDATE_MESSAGES, [tables.message_row(message) for message in changed])
    answered = [{"order_id": order_id, "participant": to.value} for order_id, to in old.keys() - new.keys()]
    session.change(_DELETE_MESSAGES, answered)
