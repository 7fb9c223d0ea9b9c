"""The tables, and their rows as the domain sees them."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    cast,
    literal_column,
)

from souk_orders.book import Kind, Message, Participant
from souk_orders.domain import Damaged, Decision, HistoryEntry, Line, Order, Refusal, RefusedOrder, Status, Terms
from souk_orders.limits import Position
from souk_orders.rows import Reader, check_types, damaged
from souk_orders.statements import Row

REFUSED = "REFUSED"
"""The status of rows that hold a refusal."""

metadata = MetaData()
"""The tables. Their indexes are the migrations' business: to name them here would load every kind of database."""

_BY_BYTES = String(36).with_variant(String(36, collation="C"), "postgresql")
"""Sorted alike by every database, whatever language it is set to."""

orders = Table(
    "orders",
    metadata,
    Column("order_id", _BY_BYTES, primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_reason", String(64), nullable=False),
    Column("customer_id", String(64), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("lines", JSON, nullable=False),  # [[sku, name, quantity, unit_price], …]
    Column("discount_percent", Integer, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("points_redeemed", BigInteger, nullable=False),
    Column("points_earned", BigInteger, nullable=False),
    Column("without_loyalty", Boolean, nullable=False),
    Column("refusal", JSON(none_as_null=True)),  # [reason, detail, metadata] where the status is REFUSED
    Column("created_at_us", BigInteger, nullable=False),
    Column("note", Text, nullable=False, server_default=""),  # empty for none; version 1.0 does not write it
    Column("final_at_us", BigInteger),  # see retention.py, whose alone it is
    Column("steps", Text, nullable=False, server_default=""),  # [step, at_us, served_by, detail],[…],
)

OF_DECISIONS = [column for column in orders.c if column.name not in ("final_at_us", "steps")]
"""What decisions are made of."""

ORDER_COLUMNS = [cast(column, Text) if isinstance(column.type, JSON) else column for column in OF_DECISIONS]
"""What is read of an order: JSON as text."""

_CREATED_AT = [column.name for column in OF_DECISIONS].index("created_at_us")

# A literal, since an index for some of the rows is used only where a query names the same condition.
is_order = orders.c.status != literal_column("'REFUSED'")

outbox = Table(
    "outbox",
    metadata,
    Column("order_id", _BY_BYTES, ForeignKey("orders.order_id"), primary_key=True),
    Column("participant", String(16), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("due_at_us", BigInteger, nullable=False),
    Column("leased_until_us", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
)

history_until_0004 = Table(
    "history_until_0004",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("order_id", _BY_BYTES, ForeignKey("orders.order_id"), nullable=False),
    Column("step", String(32), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("served_by", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
"""Steps that were taken before they stood in the order's row. Their ids follow the order in which they were, which
times of two processes need not. Older versions find all steps in the view `history`."""

OLD_STEPS = [history_until_0004.c[name] for name in HistoryEntry._fields]
"""What is read of them."""


def _status(text: str) -> Status | None:
    return None if text == REFUSED else Status(text)


def _lines(text: str) -> tuple[Line, ...]:
    found = json.loads(text)
    check_types([found], list)
    lines = tuple(Line(*line) for line in found)
    for line in lines:
        check_types(line, str, str, int, int)
    return lines


def _refusal(text: str | None) -> Refusal | None:
    if text is None:
        return None
    refusal = Refusal(*json.loads(text))
    check_types(refusal, str, str, dict)
    return refusal


def _decision(
    order_id: str,
    fingerprint: bytes,
    status: Status | None,
    reason: str,
    customer_id: str,
    currency: str,
    lines: tuple[Line, ...],
    *rest: Any,
) -> Decision:
    percent, discount, redeemed, earned, without_loyalty, refusal, created_at_us, note = rest
    if status is None:
        check_types([refusal], Refusal)
        return RefusedOrder(order_id, fingerprint, customer_id, refusal, created_at_us)
    terms = Terms(customer_id, currency, lines, percent, discount, redeemed, earned, bool(without_loyalty), note)
    return Order(order_id, fingerprint, terms, status, reason, created_at_us)


decision = Reader("order", OF_DECISIONS, _decision, status=_status, lines=_lines, refusal=_refusal)
"""What was decided, from a row of `ORDER_COLUMNS`."""

message = Reader("message to a participant of order", outbox.c, Message, participant=Participant, kind=Kind)
"""What a participant must be told."""


def position(row: Row) -> Position:
    """Where an order is in a list of them, from a row of `ORDER_COLUMNS`."""
    return row[_CREATED_AT], row[0]


_PARTICIPANTS = frozenset(each.value for each in Participant)


def messages(rows: Sequence[Row]) -> tuple[list[Message], dict[str, dict[str, str]], dict[str, Damaged]]:
    """What participants must be told; the kinds of messages to those that only a newer version knows, by order.

    And the orders of messages that cannot be read.
    """
    known, others, damaged = [], defaultdict[str, dict[str, str]](dict), {}
    for row in rows:
        order_id, participant, kind, *_ = row
        try:
            if participant in _PARTICIPANTS:
                known.append(message(row))
            else:
                others[order_id][participant] = kind
        except Damaged as error:
            damaged[order_id] = error
    return known, others, damaged


def order_row(decision: Decision, steps: Sequence[HistoryEntry] = ()) -> dict[str, object]:
    """A new row."""
    if isinstance(decision, Order):
        terms, refusal = decision.terms, None
        status, status_reason = decision.status.value, decision.status_reason
    else:
        terms = Terms(decision.customer_id, "", (), 0, 0, 0, 0, without_loyalty=False)
        refusal = [decision.refusal.reason, decision.refusal.detail, dict(decision.refusal.metadata)]
        status, status_reason = REFUSED, ""
    return {
        "order_id": decision.order_id,
        "fingerprint": decision.fingerprint,
        "status": status,
        "status_reason": status_reason,
        "customer_id": terms.customer_id,
        "currency": terms.currency,
        "lines": json.dumps([[line.sku, line.name, line.quantity, line.unit_price] for line in terms.lines]),
        "discount_percent": terms.discount_percent,
        "discount": terms.discount,
        "points_redeemed": terms.points_redeemed,
        "points_earned": terms.points_earned,
        "without_loyalty": terms.without_loyalty,
        "refusal": None if refusal is None else json.dumps(refusal),
        "created_at_us": decision.created_at_us,
        "note": terms.note,
        "steps": steps_text(steps),
    }


def history(order_id: str, old: Sequence[Row], text: str) -> list[HistoryEntry]:
    """The steps that are not in the order's row, and those that are. Raises Damaged."""
    field = history_until_0004.name
    try:
        entries = [HistoryEntry(*step) for step in old]
        field = "steps"
        entries += steps(text)
        for entry in entries:
            check_types(entry, str, int, str, str)
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged("order", order_id, field, error) from error
    return entries


def steps(text: str) -> list[HistoryEntry]:
    """Those of an order's row. Raises TypeError, ValueError."""
    return [HistoryEntry(*step) for step in json.loads(f"[{text.rstrip(',')}]")]


def steps_text(steps: Sequence[HistoryEntry]) -> str:
    """What is put behind the steps that are there."""
    return f"{json.dumps(steps)[1:-1]}," if steps else ""


def message_row(message: Message) -> dict[str, object]:
    """A row, new or changed."""
    return {
        "order_id": message.order_id,
        "participant": message.participant.value,
        "kind": message.kind.value,
        "created_at_us": message.created_at_us,
        "due_at_us": message.due_at_us,
        "leased_until_us": message.leased_until_us,
        "attempts": message.attempts,
        "last_error": message.last_error,
    }
