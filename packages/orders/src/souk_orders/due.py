"""Which messages of the outbox are due."""

import logging
from collections.abc import Mapping

from sqlalchemy import bindparam, or_, select, update

from souk_orders import tables
from souk_orders.book import CLOCKS_APART_US, LONGEST_DELAY_US, Participant
from souk_orders.domain import Decision
from souk_orders.service import Lease
from souk_orders.statements import Session, Statement
from souk_orders.tables import ORDER_COLUMNS, orders, outbox

_all_orders = select(*ORDER_COLUMNS)
_SELECT_ORDER = Statement(_all_orders.where(orders.c.order_id == bindparam("key")))
_due_orders = (
    _all_orders.join(outbox)
    .where(
        outbox.c.participant == bindparam("to"),
        or_(outbox.c.leased_until_us <= bindparam("now_us"), outbox.c.leased_until_us > bindparam("no_lease_us")),
        outbox.c.due_at_us > bindparam("from_us"),
        outbox.c.due_at_us <= bindparam("until_us"),
    )
    .order_by(outbox.c.due_at_us)
    .limit(bindparam("limit"))
    .with_for_update(of=orders, skip_locked=True)
)
_LOCK_DUE = Statement(_due_orders)
_LOCK_DUE_IDS = Statement(_due_orders.with_only_columns(orders.c.order_id))
_PUT_OFF = Statement(
    update(outbox)
    .where(outbox.c.order_id == bindparam("key"), outbox.c.participant == bindparam("to"))
    .values(due_at_us=bindparam("due"), attempts=outbox.c.attempts + 1, last_error=bindparam("error"))
)

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError)
"""What reading a row raises that somebody has spoilt."""

_LOOKS = 16
"""At most, in one transaction, for messages behind those of orders that cannot be read."""

_ANY_TIME_AGO, _NEVER = -(2**62), 2**62

log = logging.getLogger(__name__)


def load_due(session: Session, now_us: int, lease: Lease) -> dict[str, Decision]:
    """Locks what is due, and what is due so late that another clock must have said so. See `OrderBook.lease`."""
    found: dict[str, Decision] = {}
    too_late_us = now_us + LONGEST_DELAY_US + CLOCKS_APART_US
    for from_us, until_us in ((_ANY_TIME_AGO, now_us), (too_late_us, _NEVER)):
        window = {
            "to": lease.participant.value,
            "now_us": now_us,
            "no_lease_us": now_us + lease.lease_us + CLOCKS_APART_US,
            "from_us": from_us,
            "until_us": until_us,
            "limit": lease.limit - len(found),
        }
        # Others may stand behind those that cannot be read.
        for _ in range(_LOOKS if len(found) < lease.limit else 0):
            readable, unreadable = _load_window(session, lease.participant, now_us, window)
            found.update(readable)
            if not unreadable:
                break
    return found


def _load_window(
    session: Session, to: Participant, now_us: int, window: Mapping[str, object]
) -> tuple[dict[str, Decision], int]:
    """Locks what is due between two times; gives how many orders cannot be read.

    Those are put off, so that they hold up none of the others.
    """
    try:
        return {row[0]: tables.decision(row) for row in session.rows(_LOCK_DUE, **window)}, 0
    except _UNREADABLE:
        readable: dict[str, Decision] = {}
        unreadable = 0
        for (order_id,) in session.rows(_LOCK_DUE_IDS, **window):
            try:
                (row,) = session.rows(_SELECT_ORDER, key=order_id)
                readable[order_id] = tables.decision(row)
            except _UNREADABLE as error:
                log.warning("order %s cannot be read, so its message to %s must wait: %s", order_id, to, error)
                reason = f"the order cannot be read: {error}"[:500]
                session.run(_PUT_OFF, key=order_id, to=to.value, due=now_us + LONGEST_DELAY_US, error=reason)
                unreadable += 1
        return readable, unreadable
