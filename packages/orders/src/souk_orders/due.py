"""Which messages of the outbox are due."""

from collections.abc import Mapping

from sqlalchemy import bindparam, or_, select, update

from souk_orders import tables
from souk_orders.book import CLOCKS_APART_US, LONGEST_DELAY_US, Participant
from souk_orders.domain import Damaged, Decision
from souk_orders.service import Lease
from souk_orders.statements import Session, Statement
from souk_orders.tables import ORDER_COLUMNS, orders, outbox

_all_orders = select(*ORDER_COLUMNS)
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
_PUT_OFF = Statement(
    update(outbox)
    .where(outbox.c.order_id == bindparam("key"), outbox.c.participant == bindparam("to"))
    .values(due_at_us=bindparam("due"), attempts=outbox.c.attempts + 1, last_error=bindparam("error"))
)

_LOOKS = 16
"""At most, in one transaction, for messages behind those of orders that cannot be read."""

_ANY_TIME_AGO, _NEVER = -(2**62), 2**62


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


def put_off(session: Session, order_id: str, to: Participant, now_us: int, why: Damaged) -> None:
    """Has a message that cannot be sent wait, so that it holds up none of the others."""
    session.run(_PUT_OFF, key=order_id, to=to.value, due=now_us + LONGEST_DELAY_US, error=str(why)[:500])


def _load_window(
    session: Session, to: Participant, now_us: int, window: Mapping[str, object]
) -> tuple[dict[str, Decision], dict[str, Damaged]]:
    """Locks what is due between two times, and puts off the orders that cannot be read."""
    readable, damaged = tables.decision.keyed(session.rows(_LOCK_DUE, **window))
    for order_id, why in damaged.items():
        put_off(session, order_id, to, now_us, why)
    return readable, damaged
