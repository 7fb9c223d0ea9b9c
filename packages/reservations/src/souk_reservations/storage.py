"""Items and reservations in a database, by SQLAlchemy Core."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    insert,
    select,
    update,
)

from souk_reservations.database import Conflict, Database
from souk_reservations.domain import (
    DomainError,
    Item,
    Line,
    QuotedLine,
    Reservation,
    State,
    Stock,
    StorageUnavailable,
    UnknownReservation,
    UnknownSku,
)
from souk_reservations.service import (
    Command,
    Confirm,
    ExpireDue,
    Outcome,
    PutItem,
    Release,
    Reserve,
    RestockItem,
)
from souk_reservations.writer import Clock, Writer, system_clock

REVISION = "0002"
"""The newest migration that this module knows; see `migrations/`."""

metadata = MetaData()

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
_is_held = reservations.c.state == "HELD"  # only holds fall due, and they are few
Index("reservations_due", reservations.c.expires_at_us, sqlite_where=_is_held, postgresql_where=_is_held)

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sku", String(64), nullable=False),
    Column("pieces", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

_UPDATE_ITEM = (
    update(items)
    .where(items.c.sku == bindparam("key"))
    .values({name: bindparam(name) for name in ("name", "unit_price", "on_hand", "held", "sold", "description")})
)
_UPDATE_RESERVATION = (
    update(reservations)
    .where(reservations.c.order_id == bindparam("key"))
    .values({name: bindparam(name) for name in ("state", "lines", "quote", "expires_at_us")})
)
_SELECT_RESERVATIONS = select(reservations).where(reservations.c.order_id.in_(bindparam("keys", expanding=True)))
_SELECT_ITEMS = select(items).where(items.c.sku.in_(bindparam("keys", expanding=True)))
# In the order of their keys, so that two processes never wait for each other.
_LOCK_RESERVATIONS = _SELECT_RESERVATIONS.order_by(reservations.c.order_id).with_for_update()
_LOCK_ITEMS = _SELECT_ITEMS.order_by(items.c.sku).with_for_update()
_SELECT_DUE = (
    select(reservations.c.order_id)
    .where(reservations.c.state == "HELD", reservations.c.expires_at_us <= bindparam("now_us"))
    .order_by(reservations.c.expires_at_us)
    .limit(bindparam("limit"))
)
_SELECT_PAGE = select(items).where(items.c.sku > bindparam("after")).order_by(items.c.sku).limit(bindparam("limit"))

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

    async def reservation(self, order_id: str) -> Reservation:
        """See the port."""
        rows = await self._read(lambda connection: _load_reservations(connection, _SELECT_RESERVATIONS, [order_id]))
        if order_id not in rows:
            raise UnknownReservation(order_id)
        return rows[order_id]

    async def item(self, sku: str) -> Item:
        """See the port."""
        rows = await self._read(lambda connection: _load_items(connection, _SELECT_ITEMS, [sku]))
        if sku not in rows:
            raise UnknownSku(sku)
        return rows[sku]

    async def items(self, after: str, limit: int) -> Sequence[Item]:
        """See the port."""
        return await self._read(
            lambda connection: [
                Item(**row) for row in connection.execute(_SELECT_PAGE, {"after": after, "limit": limit}).mappings()
            ]
        )

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


def carry_out(connection: Connection, commands: Sequence[Command], now_us: int) -> Sequence[Outcome]:
    """Locks what the commands are about, lets the domain decide, and writes what it changed.

    A row that is not there cannot be locked. Who writes it runs into whoever else does, and sees theirs at the next
    try; who decides that there is to be none looks again, since the items may have gone to that very order meanwhile.
    Raises Conflict.
    """
    order_ids = {c.order_id for c in commands if isinstance(c, Reserve | Confirm | Release)}
    for command in commands:
        if isinstance(command, ExpireDue):
            order_ids.update(connection.execute(_SELECT_DUE, {"now_us": now_us, "limit": command.limit}).scalars())
    old_reservations = _load_reservations(connection, _LOCK_RESERVATIONS, order_ids)
    skus = {c.sku for c in commands if isinstance(c, PutItem | RestockItem)}
    skus.update(line.sku for c in commands if isinstance(c, Reserve | Confirm) for line in c.lines)
    skus.update(line.sku for reservation in old_reservations.values() for line in reservation.lines)
    old_items = _load_items(connection, _LOCK_ITEMS, skus)

    stock = Stock(old_items, old_reservations)
    outcomes = [_decide(stock, command, now_us) for command in commands]

    if _load_reservations(connection, _SELECT_RESERVATIONS, order_ids - stock.reservations.keys()):
        raise Conflict
    _save(connection, items, _UPDATE_ITEM, old_items, stock.items, _item_row)
    _save(connection, reservations, _UPDATE_RESERVATION, old_reservations, stock.reservations, _reservation_row)
    if stock.journal:
        rows = [{"sku": entry.sku, "pieces": entry.pieces, "at_us": now_us} for entry in stock.journal]
        connection.execute(insert(journal), rows)
    return outcomes


def _decide(stock: Stock, command: Command, now_us: int) -> Outcome:
    try:
        match command:
            case Reserve(order_id, lines, ttl_us):
                return stock.reserve(order_id, lines, now_us + ttl_us)
            case Confirm(order_id, lines):
                return stock.confirm(order_id, lines)
            case Release(order_id):
                stock.release(order_id)
                return None
            case PutItem(sku, name, unit_price, on_hand, description):
                return stock.put(sku, name, unit_price, on_hand, description)
            case RestockItem(sku, quantity):
                return stock.restock(sku, quantity)
            case ExpireDue():
                return stock.expire_due(now_us)
    except DomainError as refusal:
        return refusal


def _load_items(connection: Connection, query: Select[Any], skus: Iterable[str]) -> dict[str, Item]:
    keys = list(skus)
    rows = connection.execute(query, {"keys": keys}) if keys else ()
    return {row.sku: Item(*row) for row in rows}


def _load_reservations(connection: Connection, query: Select[Any], order_ids: Iterable[str]) -> dict[str, Reservation]:
    keys = list(order_ids)
    rows = connection.execute(query, {"keys": keys}) if keys else ()
    return {row.order_id: _reservation(row) for row in rows}


def _reservation(row: Any) -> Reservation:
    lines = tuple(Line(sku, quantity) for sku, quantity in row.lines)
    quote = tuple(
        QuotedLine(line.sku, name, line.quantity, unit_price)
        for line, (name, unit_price) in zip(lines if row.quote else (), row.quote, strict=True)
    )
    return Reservation(row.order_id, State(row.state), lines, quote, row.expires_at_us)


def _reservation_row(reservation: Reservation) -> dict[str, object]:
    return {
        "state": reservation.state.value,
        "lines": [[line.sku, line.quantity] for line in reservation.lines],
        "quote": [[line.name, line.unit_price] for line in reservation.quote],
        "expires_at_us": reservation.expires_at_us,
    }


def _item_row(item: Item) -> dict[str, object]:
    return {
        "name": item.name,
        "unit_price": item.unit_price,
        "on_hand": item.on_hand,
        "held": item.held,
        "sold": item.sold,
        "description": item.description,
    }


Entity = TypeVar("Entity")


def _save(
    connection: Connection,
    table: Table,
    update_by_key: Any,
    old: dict[str, Entity],
    new: dict[str, Entity],
    row: Callable[[Entity], dict[str, object]],
) -> None:
    """Entities are immutable: what changed is another object than the one that was loaded."""
    (key,) = table.primary_key
    # Sorted, as in the locks: an insert waits for another's insert of the same key.
    added = [{key.name: name, **row(entity)} for name, entity in sorted(new.items()) if name not in old]
    changed = [{"key": name, **row(entity)} for name, entity in new.items() if name in old and entity is not old[name]]
    if added:
        connection.execute(insert(table), added)
    if changed:
        connection.execute(update_by_key, changed)
