"""What is read of the three databases, as rows and as queries. Times in microseconds since 1970."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec import DecodeError, Struct
from msgspec.json import Decoder
from sqlalchemy import ColumnElement, Connection, Select, Text, case, cast, collate, column, func, select, table


class OrderLine(Struct, array_like=True, frozen=True, gc=False):
    """Pieces of an item, at a price in minor units for one. A later version may say more, behind this."""

    sku: str
    name: str
    quantity: int
    unit_price: int


class ReservedLine(Struct, array_like=True, frozen=True, gc=False):
    """Pieces of an item."""

    sku: str
    quantity: int


class Order(NamedTuple):
    """An order, or a refusal. Money in minor units; `lines` is None where they cannot be read."""

    order_id: str
    status: str
    customer_id: str
    lines: list[OrderLine] | None
    discount_percent: int
    discount: int
    points_redeemed: int
    points_earned: int
    without_loyalty: bool
    created_at_us: int


class Message(NamedTuple):
    """An outbox row: what a participant must still be told."""

    order_id: str
    participant: str
    kind: str
    created_at_us: int
    due_at_us: int
    leased_until_us: int
    attempts: int
    last_error: str


class Reservation(NamedTuple):
    """The pieces of an order; `lines` is None where they cannot be read."""

    order_id: str
    state: str
    lines: list[ReservedLine] | None
    expires_at_us: int


class Hold(NamedTuple):
    """The points of an order."""

    order_id: str
    state: str
    customer_id: str
    points_redeemed: int
    points_earned: int
    expires_at_us: int


class Item(NamedTuple):
    """An item's pieces."""

    sku: str
    on_hand: int
    held: int
    sold: int


class Account(NamedTuple):
    """A customer's points."""

    customer_id: str
    points: int
    points_held: int


class JournalSum(NamedTuple):
    """What was put in, of an item or to an account."""

    key: str
    amount: int


class HoldSum(NamedTuple):
    """What the holds of an account come to: booked by those CONFIRMED, held by those HELD."""

    customer_id: str
    booked: int
    held: int


STATES = ("HELD", "EXPIRED", "CONFIRMED", "CLOSED")
"""Of reservations and of holds."""

TIERS = ("standard", "silver", "gold")

TABLES: dict[str, dict[str, Sequence[str]]] = {
    "orders": {"orders": Order._fields, "outbox": Message._fields},
    "reservations": {"items": Item._fields, "reservations": Reservation._fields, "journal": ("sku", "pieces")},
    "loyalty": {"accounts": Account._fields, "holds": Hold._fields, "journal": ("customer_id", "points")},
}
"""The columns that each database must have."""

KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "orders": {"orders": ("order_id",), "outbox": ("order_id", "participant")},
    "reservations": {"items": ("sku",), "reservations": ("order_id",)},
    "loyalty": {"accounts": ("customer_id",), "holds": ("order_id",)},
}
"""What must be unique in each table, by its schema."""


def _columns(name: str, fields: Sequence[str]) -> list[ColumnElement[Any]]:
    source = table(name, *(column(field) for field in fields))
    # As text, since a driver may parse JSON by itself, and more slowly.
    return [cast(c, Text).label("lines") if c.name == "lines" else c for c in source.c]


ORDERS = select(*_columns("orders", Order._fields))
OUTBOX = select(*_columns("outbox", Message._fields))
RESERVATIONS = select(*_columns("reservations", Reservation._fields))
HOLDS = select(*_columns("holds", Hold._fields))
ITEMS = select(*_columns("items", Item._fields))
ACCOUNTS = select(*_columns("accounts", Account._fields))

_stock_journal = table("journal", column("sku"), column("pieces"))
_points_journal = table("journal", column("customer_id"), column("points"))
_holds = table("holds", *(column(field) for field in Hold._fields))
_booked = case((_holds.c.state == "CONFIRMED", _holds.c.points_earned - _holds.c.points_redeemed), else_=0)
_held = case((_holds.c.state == "HELD", _holds.c.points_redeemed), else_=0)
STOCK_JOURNAL = select(_stock_journal.c.sku, func.sum(_stock_journal.c.pieces)).group_by(_stock_journal.c.sku)
POINTS_JOURNAL = select(_points_journal.c.customer_id, func.sum(_points_journal.c.points)).group_by(
    _points_journal.c.customer_id
)
HOLD_SUMS = (
    select(_holds.c.customer_id, func.sum(_booked), func.sum(_held))
    # CLOSED and EXPIRED ones may be without a customer, and count for nothing.
    .where(_holds.c.state.in_(("CONFIRMED", "HELD")))
    .group_by(_holds.c.customer_id)
)

Row = TypeVar("Row", bound=tuple[Any, ...])

AT_ONCE = 2_000
"""Rows that are fetched at once, and so the memory that a stream takes."""


_order_lines = Decoder(list[OrderLine]).decode
_reserved_lines = Decoder(list[ReservedLine]).decode


def _order(row: Any) -> Order:
    order_id, status, customer_id, lines, *rest = row
    try:
        return Order(order_id, status, customer_id, _order_lines(lines), *rest)
    except DecodeError:
        return Order(order_id, status, customer_id, None, *rest)


def _reservation(row: Any) -> Reservation:
    order_id, state, lines, expires_at_us = row
    try:
        return Reservation(order_id, state, _reserved_lines(lines), expires_at_us)
    except DecodeError:
        return Reservation(order_id, state, None, expires_at_us)


def _maker(row: type[Row]) -> Callable[[Any], Row]:
    special: dict[Any, Callable[[Any], Any]] = {Order: _order, Reservation: _reservation}
    return special.get(row) or row._make  # type: ignore[attr-defined]  # a NamedTuple has it


def stream(connection: Connection, row: type[Row], query: Select[Any], without: Collection[str] = ()) -> Iterator[Row]:
    """All rows but those `without`, in the order of their first column, by bytes, as Python compares text."""
    key = query.selected_columns[0]
    # SQLite compares by bytes unless told otherwise; PostgreSQL as its locale says.
    by_bytes = collate(key, "C") if connection.dialect.name == "postgresql" else key
    result: Iterable[Any] = connection.execute(query.order_by(by_bytes), execution_options={"yield_per": AT_ONCE})
    if without:
        result = (each for each in result if str(each[0]) not in without)
    return map(_maker(row), result)


def by_ids(connection: Connection, row: type[Row], query: Select[Any], ids: Sequence[str]) -> Iterator[Row]:
    """The rows whose first column is one of `ids`, some hundreds at most."""
    result = connection.execute(query.where(query.selected_columns[0].in_(ids)))
    return map(_maker(row), result)


END = "\U0010ffff"
"""A noncharacter, behind all keys."""


def merged(*streams: Iterator[Any]) -> Iterator[list[Any]]:
    """The rows of all streams, by key: for each key a list of [key, row or None of each stream].

    The streams are ordered by their rows' first field. Of rows with one key in one stream only the first counts.
    """
    ended: tuple[Any, ...] = (END,)
    heads = [next(each, ended) for each in streams]
    keys = [head[0] for head in heads]
    while (key := min(keys)) != END:
        group: list[Any] = [key]
        for n, head in enumerate(heads):
            if keys[n] != key:
                group.append(None)
                continue
            group.append(head)
            while keys[n] == key:
                heads[n] = next(streams[n], ended)
                keys[n] = heads[n][0]
        yield group
