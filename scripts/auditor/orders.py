"""Orders: whether one agrees with itself and its outbox, and whether reservations and loyalty did what it says."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auditor.findings import Code, Finding
from auditor.rows import STATES, Hold, Message, Order, OrderLine, Reservation, ReservedLine

DONE = ("CONFIRMED", "COMPLETED")
TAKEN = ("ACCEPTED", *DONE)
RELEASED = ("CANCELLED", "REFUSED")

KEPT_US = 23 * 3600 * 1_000_000
"""The rows of an order that is younger than this are all there: `prune` waits a day, and clocks may differ."""


class Case(NamedTuple):
    """All rows of one order id; a message is what a participant must still be told."""

    order_id: str
    order: Order | None
    to_reservations: Message | None
    to_loyalty: Message | None
    reservation: Reservation | None
    hold: Hold | None

    def position(self) -> tuple[int, str, str, str]:
        """Where the order is on its way; it never comes back to a position that it has left.

        One that was pruned may be there again under the same key, as another order, which was created later.
        """
        return (
            self.order.created_at_us if self.order else 0,
            self.order.status if self.order else "",
            self.to_reservations.kind if self.to_reservations else "",
            self.to_loyalty.kind if self.to_loyalty else "",
        )


def order_findings(case: Case, stale_before_us: int) -> Iterator[Finding]:
    """What is wrong in the orders database; a message that nobody sent since `stale_before_us` is stale."""
    order, order_id = case.order, case.order_id
    if case.to_reservations is not None:
        yield from _message_findings(order, case.to_reservations, stale_before_us)
    if case.to_loyalty is not None:
        yield from _message_findings(order, case.to_loyalty, stale_before_us)
    if order is None:
        return
    if order.status not in (*TAKEN, *RELEASED):
        yield Finding(Code.STATE_UNKNOWN, order_id, f"the order is '{order.status}'")
        return
    if order.status == "ACCEPTED" and "CONFIRM" not in case.position():
        yield Finding(
            Code.ORDER_STUCK,
            order_id,
            "the order is ACCEPTED, but no Confirm is pending, so it will never be CONFIRMED",
        )
    if order.status != "REFUSED":
        yield from _figure_findings(order)


def _message_findings(order: Order | None, message: Message, stale_before_us: int) -> Iterator[Finding]:
    what = f"{message.kind} to {message.participant}"
    if order is None:
        yield Finding(Code.OUTBOX_ORPHAN, message.order_id, f"{what} is pending, but there is no such order")
    elif message.kind not in _kinds(order, message.participant):
        yield Finding(Code.OUTBOX_CONTRADICTS, order.order_id, f"{what} is pending, but the order is {order.status}")
    idle_since_us = max(message.created_at_us, message.due_at_us, message.leased_until_us)
    if not message.attempts and idle_since_us < stale_before_us:
        idle_s = (stale_before_us - idle_since_us) / 1e6
        figures = f"{what} should have been tried {idle_s:.0f} s ago, but never was"
        yield Finding(Code.OUTBOX_STALE, message.order_id, figures)


def _kinds(order: Order, participant: str) -> tuple[str, ...]:
    """What may be pending."""
    without = participant == "LOYALTY" and order.without_loyalty
    match order.status:
        case "ACCEPTED":
            return ("RELEASE",) if without else ("CONFIRM",)
        case "CONFIRMED" | "COMPLETED":
            return ("RELEASE",) if without else ()
        case "CANCELLED" | "REFUSED":
            return ("RELEASE",)
    return (order.status,)  # unknown, which is a finding of its own


def _figure_findings(order: Order) -> Iterator[Finding]:
    lines = order.lines
    if lines is None:
        yield Finding(Code.LINES_UNREADABLE, order.order_id, "the lines of the order cannot be read")
        return
    subtotal, sound = 0, bool(lines)
    for line in lines:
        subtotal += line.quantity * line.unit_price
        sound = sound and line.quantity > 0 and line.unit_price >= 0
    percent, discount, redeemed = order.discount_percent, order.discount, order.points_redeemed
    total = subtotal - discount - redeemed
    wrong = []
    if not sound:
        wrong.append("the order has no lines, a line without pieces, or a negative price")
    if discount != subtotal * percent // 100:
        wrong.append(f"{percent} percent of {subtotal} is {subtotal * percent // 100}, but the discount is {discount}")
    if total < 0:
        wrong.append(f"the total is negative: {subtotal} - {discount} - {redeemed} = {total}")
    if min(percent, redeemed, order.points_earned) < 0:
        wrong.append(f"one is negative: {percent} percent, {redeemed} points redeemed, {order.points_earned} earned")
    if order.without_loyalty and (percent or discount or redeemed or order.points_earned):
        wrong.append("the order is without loyalty, but has a discount or points")
    for each in wrong:
        yield Finding(Code.FIGURES_DISAGREE, order.order_id, each)


def suspicions(case: Case, now_us: int) -> Iterator[Finding]:
    """Where reservations or loyalty differ from what the order says, and no pending message will correct it.

    Reliable if all rows are from one moment. With rows from different moments, an order may have moved on in between.
    """
    order = case.order
    if order is None:
        yield from _without_order(case)
    elif order.status in TAKEN:
        if case.to_reservations is None:
            yield from _sold(order, case.reservation)
        if case.to_loyalty is None:
            yield from _booked(order, case.hold)
    elif order.status in RELEASED:
        kept = order.created_at_us > now_us - KEPT_US
        if case.to_reservations is None:
            yield from _given_back(order, case.reservation, kept, "reservation", _RESERVATION_CODES)
        if case.to_loyalty is None:
            yield from _given_back(order, case.hold, kept, "hold", _HOLD_CODES)


def _without_order(case: Case) -> Iterator[Finding]:
    # Only orders' relay confirms and closes, so whatever was confirmed or closed has an order, or a refusal.
    if case.reservation is not None and case.reservation.state in ("CONFIRMED", "CLOSED"):
        figures = f"the reservation is {case.reservation.state}, but there is no order or refusal with this id"
        yield Finding(Code.RESERVATION_WITHOUT_ORDER, case.order_id, figures)
    if case.hold is not None and case.hold.state in ("CONFIRMED", "CLOSED"):
        figures = f"the hold is {case.hold.state}, but there is no order or refusal with this id"
        yield Finding(Code.HOLD_WITHOUT_ORDER, case.order_id, figures)


def _sold(order: Order, reservation: Reservation | None) -> Iterator[Finding]:
    if reservation is None or reservation.state != "CONFIRMED":
        state = reservation.state if reservation else "not there"
        figures = f"the order is {order.status}, but its reservation is {state}"
        yield Finding(Code.ORDER_WITHOUT_RESERVATION, order.order_id, figures)
        return
    if order.lines is None or reservation.lines is None:  # a finding of its own
        return
    wanted, sold = _quantities(order.lines), _quantities(reservation.lines)
    if wanted != sold:
        yield Finding(
            Code.RESERVATION_DIFFERS, order.order_id, f"the order says {wanted}, but its reservation says {sold}"
        )


def _quantities(lines: Sequence[OrderLine | ReservedLine]) -> dict[str, int]:
    found = {line.sku: line.quantity for line in lines}
    if len(found) < len(lines):
        for sku in found:
            found[sku] = sum(line.quantity for line in lines if line.sku == sku)
    return found


def _booked(order: Order, hold: Hold | None) -> Iterator[Finding]:
    state = hold.state if hold else "not there"
    if order.without_loyalty:
        if state == "CONFIRMED":
            figures = f"the order is {order.status} and without loyalty, but its hold is CONFIRMED"
            yield Finding(Code.HOLD_NOT_WANTED, order.order_id, figures)
    elif hold is None or state != "CONFIRMED":
        figures = f"the order is {order.status}, but its hold is {state}"
        yield Finding(Code.ORDER_WITHOUT_HOLD, order.order_id, figures)
    else:
        wanted = (order.customer_id, order.points_redeemed, order.points_earned)
        booked = (hold.customer_id, hold.points_redeemed, hold.points_earned)
        if wanted != booked:
            figures = "the order says {}, {} redeemed, {} earned; its hold says {}, {} redeemed, {} earned"
            yield Finding(Code.HOLD_DIFFERS, order.order_id, figures.format(*wanted, *booked))


_RESERVATION_CODES = (Code.GOODS_NOT_RELEASED, Code.RESERVATION_NOT_CLOSED)
_HOLD_CODES = (Code.POINTS_NOT_RELEASED, Code.HOLD_NOT_CLOSED)


def _given_back(
    order: Order, row: Reservation | Hold | None, kept: bool, what: str, codes: tuple[Code, Code]
) -> Iterator[Finding]:
    state = row.state if row else "not there"
    figures = f"the order is {order.status} and nothing is pending, but its {what} is {state}"
    if state == "CONFIRMED":
        yield Finding(codes[0], order.order_id, figures)
    elif state != "CLOSED" and state in ("not there", *STATES) and kept:
        yield Finding(codes[1], order.order_id, figures)
