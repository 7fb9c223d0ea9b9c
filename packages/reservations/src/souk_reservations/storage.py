"""Items and reservations in a database, by SQLAlchemy Core."""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    cast,
    literal_column,
    select,
    true,
    update,
)

from souk_reservations.database import Conflict, Database
from souk_reservations.domain import (
    CLOCKS_APART_US,
    Damaged,
    DomainError,
    Item,
    Line,
    OnHandAboveLimit,
    Overloaded,
    QuotedLine,
    Reservation,
    Restock,
    State,
    Stock,
    UnknownReservation,
    UnknownSku,
)
from souk_reservations.rows import Reader, check_types
from souk_reservations.service import (
    Command,
    Confirm,
    ExpireDue,
    Forget,
    Outcome,
    PutItem,
    Release,
    Reserve,
    RestockItem,
    RestockOnce,
)
from souk_reservations.statements import Among, Change, Lock, Session, Statement, deleting, inserting, updating
from souk_reservations.writer import Clock, Writer, system_clock

REVISION = "0005"
"""The newest migration that this module knows; see `migrations/`."""

metadata = MetaData()
"""The tables. Their indexes are the migrations' business: to name them here would load every kind of database."""

_BY_BYTES = String(64).with_variant(String(64, collation="C"), "postgresql")
"""Sorted alike by every database, whatever language it is set to."""

items = Table(
    "items",
    metadata,
    Column("sku", _BY_BYTES, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("unit_price", BigInteger, nullable=False),
    Column("on_hand", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("sold", BigInteger, nullable=False),
    Column("description", Text, nullable=False, server_default=""),  # empty for none; version 1.0 does not write it
    CheckConstraint("0 <= held AND held <= on_hand", name="held_is_on_hand"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("order_id", String(36), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("lines", JSON, nullable=False),  # [[sku, quantity], …]
    Column("quote", JSON, nullable=False),  # [[name, unit_price], …] of the lines, while they are HELD
    Column("expires_at_us", BigInteger, nullable=False),
)

# A literal, since an index for some of the rows is used only where a query names the same condition.
_is_held = reservations.c.state == literal_column("'HELD'")

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sku", String(64), nullable=False),
    Column("pieces", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

restocks = Table(
    "restocks",
    metadata,
    Column("request_id", String(36), primary_key=True),
    Column("sku", String(64), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("answer", Text, nullable=False),  # JSON: {"item": what it then was}, {"on_hand": too many}, {}: unknown SKU
    Column("at_us", BigInteger, nullable=False),
)

currency = Table(
    "currency",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),  # 1: there is one row
    Column("code", String(3), nullable=False),
)

_is_expired = reservations.c.state == literal_column("'EXPIRED'")
PRUNED = (
    ("Reservations that expired", reservations.c.order_id, reservations.c.expires_at_us, _is_expired),
    ("Answers of restocks, given", restocks.c.request_id, restocks.c.at_us, true()),
)
"""What `prune` deletes when it is old: what it is called, its key, its time, and which rows."""

_all_items = select(items)
_all_reservations = select(
    *(cast(column, Text) if isinstance(column.type, JSON) else column for column in reservations.c)
)
_items_among = _all_items.where(Among(items.c.sku))
_reservations_among = _all_reservations.where(Among(reservations.c.order_id))
_LOCK_ITEMS = Lock(_all_items, items.c.sku)
_LOCK_RESERVATIONS = Lock(_all_reservations, reservations.c.order_id)
_SELECT_ITEMS = Statement(_items_among)
_SELECT_RESERVATIONS = Statement(_reservations_among)
_SELECT_DUE = Statement(
    select(reservations.c.order_id)
    .where(
        _is_held,
        reservations.c.expires_at_us > bindparam("from_us"),
        reservations.c.expires_at_us <= bindparam("until_us"),
    )
    .order_by(reservations.c.expires_at_us)
    .limit(bindparam("limit"))
)
_SELECT_PAGE = Statement(
    _all_items.where(items.c.sku > bindparam("after")).order_by(items.c.sku).limit(bindparam("limit"))
)
_SELECT_RESTOCKS = Statement(select(restocks).where(Among(restocks.c.request_id)))
_SELECT_CURRENCY = Statement(select(currency.c.code))
_INSERT_CURRENCY = inserting(currency)
_INSERT_ITEMS = inserting(items)
_INSERT_RESERVATIONS = inserting(reservations)
_INSERT_JOURNAL = inserting(journal, without=("id",))
_INSERT_RESTOCKS = inserting(restocks)
_UPDATE_ITEMS = updating(items)
_UPDATE_RESERVATIONS = updating(reservations)
_DELETE_RESERVATIONS = deleting(reservations)
_PUT_OFF = Statement(
    update(reservations).where(reservations.c.order_id == bindparam("key")).values(expires_at_us=bindparam("due"))
)
_DAMAGED_DELAY_US = 30_000_000

_ANY_TIME_AGO, _NEVER = -(2**62), 2**62

Result = TypeVar("Result")
Entity = TypeVar("Entity")


class SqlStorage:
    """The port `service.Storage` on a database."""

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._writer: Writer[Command, Outcome] = Writer(database, carry_out, clock)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """See the port."""
        return await self._writer.execute(commands)

    def lag_s(self) -> float:
        """See the port."""
        return self._writer.lag_s()

    async def reservation(self, order_id: str) -> Reservation:
        """See the port."""
        found = await self._read(lambda session: _load(session, _SELECT_RESERVATIONS, order_id, _READ_RESERVATION))
        if found is None:
            raise UnknownReservation(order_id)
        return found

    async def item(self, sku: str) -> Item:
        """See the port."""
        found = await self._read(lambda session: _load(session, _SELECT_ITEMS, sku, _READ_ITEM))
        if found is None:
            raise UnknownSku(sku)
        return found

    async def items(self, after: str, limit: int) -> Sequence[Item]:
        """See the port."""

        def query(session: Session) -> Sequence[Item]:
            found: list[Item] = []
            last = after
            while lacking := limit - len(found):
                rows = session.rows(_SELECT_PAGE, after=last, limit=lacking)
                found += _READ_ITEM.readable(rows)
                if len(rows) < lacking:
                    break
                last = rows[-1][0]  # others take the places of those that cannot be read
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


def remembered_currency(database: Database, code: str) -> str:
    """The currency of the prices in the database; `code` where it did not know one.

    Raises StorageUnavailable.
    """
    try:
        with database.write() as session:
            for (known,) in session.rows(_SELECT_CURRENCY):
                return str(known)
            session.change(_INSERT_CURRENCY, [{"id": 1, "code": code}])
            return code
    except Conflict:  # another process was first
        return remembered_currency(database, code)


def carry_out(session: Session, commands: Sequence[Command], now_us: int) -> Sequence[Outcome]:
    """Locks what the commands are about, lets the domain decide, and writes what it changed.

    A row that is not there cannot be locked. Who writes it runs into whoever else does, and sees theirs at the next
    try; who decides that there is to be none looks again, since the items may have gone to that very order meanwhile.
    Raises Conflict.
    """
    order_ids = {c.order_id for c in commands if isinstance(c, Reserve | Confirm | Release)}
    due: set[str] = set()
    for command in commands:
        if isinstance(command, Forget):
            order_ids.update(command.order_ids)
        if isinstance(command, ExpireDue):
            due |= _due(session, command, now_us)
    order_ids |= due
    old_reservations, lacking = _locked(session, _LOCK_RESERVATIONS, order_ids, _READ_RESERVATION)
    skus = {c.sku for c in commands if isinstance(c, PutItem | RestockItem | RestockOnce)}
    skus.update(line.sku for c in commands if isinstance(c, Reserve | Confirm) for line in c.lines)
    # What is CLOSED or EXPIRED affects no item, and hundreds of such may be forgotten at once, beside live orders.
    live = [each for each in old_reservations.values() if each.state in (State.HELD, State.CONFIRMED)]
    skus.update(line.sku for reservation in live for line in reservation.lines)
    old_items, lacking_items = _locked(session, _LOCK_ITEMS, skus, _READ_ITEM)
    if lacking_items:  # then nothing can be said of what is held or sold of these items, either
        for reservation in live:
            if whys := [lacking_items[line.sku] for line in reservation.lines if line.sku in lacking_items]:
                lacking[reservation.order_id] = whys[0]
                del old_reservations[reservation.order_id]
    for order_id in due & {each for each, why in lacking.items() if isinstance(why, Damaged)}:
        session.run(_PUT_OFF, key=order_id, due=now_us + _DAMAGED_DELAY_US)  # it holds up none of the others

    # Nothing changes them, so they need no lock; who inserts the same one at the same time meets with a Conflict.
    request_ids = {c.request_id for c in commands if isinstance(c, RestockOnce)}
    old_restocks, damaged_restocks = _READ_RESTOCK.keyed(session.rows_among(_SELECT_RESTOCKS, request_ids))
    lacking.update(damaged_restocks)

    stock = Stock(old_items, old_reservations, old_restocks)
    outcomes = [
        _lacks(command, lacking, lacking_items) or _decide(stock, command, now_us, lacking) for command in commands
    ]

    unknown = order_ids - stock.reservations.keys() - old_reservations.keys() - lacking.keys()
    if session.rows_among(_SELECT_RESERVATIONS, unknown):
        raise Conflict
    forgotten = sorted(old_reservations.keys() - stock.reservations.keys())
    session.change(_DELETE_RESERVATIONS, [{"order_id": order_id} for order_id in forgotten])
    _save(session, _INSERT_ITEMS, _UPDATE_ITEMS, old_items, stock.items, _item_row)
    _save(session, _INSERT_RESERVATIONS, _UPDATE_RESERVATIONS, old_reservations, stock.reservations, _reservation_row)
    new_restocks = sorted(stock.restocks.keys() - old_restocks.keys())
    session.change(_INSERT_RESTOCKS, [_restock_row(stock.restocks[request_id]) for request_id in new_restocks])
    session.change(
        _INSERT_JOURNAL, [{"sku": entry.sku, "pieces": entry.pieces, "at_us": now_us} for entry in stock.journal]
    )
    return outcomes


def _due(session: Session, command: ExpireDue, now_us: int) -> set[str]:
    """The orders whose holds have expired, or expire so late that another clock must have said so."""
    latest_us = now_us + command.ttl_us + CLOCKS_APART_US
    found: set[str] = set()
    for from_us, until_us in ((_ANY_TIME_AGO, now_us), (latest_us, _NEVER)):
        rows = session.rows(_SELECT_DUE, from_us=from_us, until_us=until_us, limit=command.limit)
        found.update(order_id for (order_id,) in rows)
    return found


Lacking = Mapping[str, Overloaded | Damaged]
"""Rows that cannot be had, by their keys, and why."""


def _lacks(command: Command, orders: Lacking, items: Lacking) -> DomainError | None:
    """Why a command cannot be carried out: it needs a row that cannot be had."""
    if not orders and not items:
        return None
    match command:
        case Reserve(order_id, lines) | Confirm(order_id, lines):
            return orders.get(order_id) or next((items[line.sku] for line in lines if line.sku in items), None)
        case Release(order_id):
            return orders.get(order_id)
        case Forget(order_ids):
            whys = (orders.get(order_id) for order_id in order_ids)
            return next((why for why in whys if isinstance(why, Overloaded)), None)  # what is damaged stays
        case RestockOnce(request_id, sku):
            return orders.get(request_id) or items.get(sku)
        case PutItem(sku) | RestockItem(sku):
            return items.get(sku)
        case ExpireDue():
            return None  # it can do without some


def _decide(stock: Stock, command: Command, now_us: int, lacking: Lacking) -> Outcome:
    try:
        match command:
            case Reserve(order_id, lines, ttl_us):
                return stock.reserve(order_id, lines, now_us + ttl_us)
            case Confirm(order_id, lines):
                return stock.confirm(order_id, lines)
            case Release(order_id):
                stock.release(order_id)
                return None
            case Forget(order_ids):
                stay = [order_id for order_id in order_ids if order_id in lacking]
                return [*stay, *stock.forget([order_id for order_id in order_ids if order_id not in lacking])]
            case PutItem():
                return stock.put(*command)
            case RestockItem(sku, quantity):
                return stock.restock(sku, quantity)
            case RestockOnce(request_id, sku, quantity):
                return stock.restock_once(request_id, sku, quantity, now_us)
            case ExpireDue(_, ttl_us):
                return stock.expire_due(now_us, ttl_us)
    except DomainError as refusal:
        return refusal


def _locked(
    session: Session, lock: Lock, keys: Collection[str], reader: Reader[Entity]
) -> tuple[dict[str, Entity], dict[str, Overloaded | Damaged]]:
    """The entities, locked; and those that cannot be had, since they are damaged or another process has locked them."""
    rows, passed = session.lock(lock, keys)
    entities, damaged = reader.keyed(rows)
    return entities, {**damaged, **{key: Overloaded() for key in passed}}


def _load(session: Session, query: Statement, key: str, reader: Reader[Entity]) -> Entity | None:
    """Raises Damaged."""
    return next(map(reader, session.rows_among(query, [key])), None)


def _lines(text: str) -> tuple[Line, ...]:
    found = json.loads(text)
    check_types([found], list)
    lines = tuple(Line(*line) for line in found)
    for line in lines:
        check_types(line, str, int)
    return lines


def _prices(text: str) -> list[tuple[str, int]]:
    prices = [(name, unit_price) for name, unit_price in json.loads(text)]
    for price in prices:
        check_types(price, str, int)
    return prices


def _reservation(
    order_id: str, state: State, lines: tuple[Line, ...], prices: Sequence[tuple[str, int]], expires_at_us: int
) -> Reservation:
    quote = tuple(
        QuotedLine(line.sku, name, line.quantity, unit_price)
        for line, (name, unit_price) in zip(lines if prices else (), prices, strict=True)
    )
    return Reservation(order_id, state, lines, quote, expires_at_us)


def _restock(request_id: str, sku: str, quantity: int, found: Mapping[str, Any], at_us: int) -> Restock:
    answer: Item | UnknownSku | OnHandAboveLimit
    if "item" in found:
        answer = Item(sku, *found["item"])
    elif "on_hand" in found:
        answer = OnHandAboveLimit(sku, quantity, found["on_hand"])
    else:
        answer = UnknownSku(sku)
    return Restock(request_id, sku, quantity, answer, at_us)


_READ_RESTOCK = Reader("restock", restocks.c, _restock, answer=json.loads)
_READ_ITEM = Reader("item", items.c, Item)
_READ_RESERVATION = Reader("reservation", reservations.c, _reservation, state=State, lines=_lines, quote=_prices)


def _restock_row(restock: Restock) -> dict[str, object]:
    answer: dict[str, object] = {}
    match restock.answer:
        case Item():
            answer = {"item": restock.answer[1:]}
        case OnHandAboveLimit(metadata=about):
            answer = {"on_hand": int(about["on_hand"])}
    return restock._asdict() | {"answer": json.dumps(answer)}


def _item_row(item: Item) -> dict[str, object]:
    return {
        "sku": item.sku,
        "name": item.name,
        "unit_price": item.unit_price,
        "on_hand": item.on_hand,
        "held": item.held,
        "sold": item.sold,
        "description": item.description,
    }


def _reservation_row(reservation: Reservation) -> dict[str, object]:
    return {
        "order_id": reservation.order_id,
        "state": reservation.state.value,
        "lines": json.dumps([[line.sku, line.quantity] for line in reservation.lines]),
        "quote": json.dumps([[line.name, line.unit_price] for line in reservation.quote]),
        "expires_at_us": reservation.expires_at_us,
    }


def _save(
    session: Session,
    insert: Change,
    update: Change,
    old: Mapping[str, Entity],
    new: Mapping[str, Entity],
    row: Callable[[Entity], dict[str, object]],
) -> None:
    """Entities are immutable: what changed is another object than the one that was loaded."""
    changed = {key: entity for key, entity in new.items() if entity is not old.get(key)}
    # Sorted, as in the locks: an insert waits for another's insert of the same key.
    session.change(insert, [row(changed[key]) for key in sorted(changed.keys() - old.keys())])
    session.change(update, [row(entity) for key, entity in changed.items() if key in old])
