"""Orders: their terms and the statuses that they pass through. Standard library only.

`book.py` decides which messages follow from an order.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

CANCELLED_BY_CUSTOMER = "CUSTOMER"
"""The status reason of what `cancel` cancelled."""


class DomainError(Exception):
    """A refusal. Its text is for people; `metadata` names what it is about."""

    def __init__(self, detail: str, **metadata: object) -> None:
        super().__init__(detail)
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(DomainError):
    """A field is missing or out of its range."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field} {detail}", field=field)


class UnknownOrder(DomainError):
    """There is no such order."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no order with the id {order_id}")


class KeyReused(DomainError):
    """The id was decided for another request."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"the order id {order_id} belongs to a different request; use a new id or key")


class HoldExpiring(DomainError):
    """The earliest of the holds ends so soon that it could expire before it is confirmed."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"the holds of the order {order_id} expire too soon; place the order again")


class WrongStatus(DomainError):
    """The order's status does not allow it."""

    def __init__(self, order_id: str, status: "Status", wanted: str) -> None:
        super().__init__(f"the order {order_id} is {status} and cannot be {wanted}", status=status)


class StorageUnavailable(DomainError):
    """The database does not answer, or cannot write. What was asked for may have been done, or not: ask again."""

    def __init__(self) -> None:
        super().__init__("the database cannot be used now; the service's log says why")


class Damaged(DomainError):
    """A stored row that is needed cannot be read. That does not pass by itself: somebody has to mend the row."""

    def __init__(self, record: str, key: str, field: str) -> None:
        what = f"its field {field} cannot be read" if field else "its fields do not fit together"
        super().__init__(
            f"the stored {record} {key} is damaged: {what}; whoever runs Souk has to mend it",
            record=record,
            id=key,
            damaged_field=field,
        )


class Overloaded(DomainError):
    """It was not begun: too much waits to be done, or another process keeps a row locked that it needs. Ask again."""

    def __init__(
        self, detail: str = "another process keeps locked what this needs; try again in a moment", **metadata: object
    ) -> None:
        super().__init__(detail, **metadata)


class Status(StrEnum):
    """The status of an order."""

    ACCEPTED = "ACCEPTED"
    CONFIRMED = "CONFIRMED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class Line(NamedTuple):
    """Pieces of an item at a price, in minor units for one."""

    sku: str
    name: str
    quantity: int
    unit_price: int


class Terms(NamedTuple):
    """The terms of an order: who gets what for how much. Money in minor units of `currency`.

    `note` is a remark of the customer's or the shop's, empty for none.
    """

    customer_id: str
    currency: str
    lines: tuple[Line, ...]
    discount_percent: int
    discount: int
    points_redeemed: int
    points_earned: int
    without_loyalty: bool
    note: str = ""

    @property
    def subtotal(self) -> int:
        """The sum of the lines."""
        return sum(line.quantity * line.unit_price for line in self.lines)

    @property
    def total(self) -> int:
        """What is left to pay."""
        return self.subtotal - self.discount - self.points_redeemed

    def check_figures(self) -> None:
        """Raises InvalidArgument where the figures contradict each other."""
        figures = (self.discount_percent, self.discount, self.points_redeemed, self.points_earned)
        if self.without_loyalty and any(figures):
            raise InvalidArgument("without_loyalty", "is true, so discount and points must be 0")
        discount = self.subtotal * self.discount_percent // 100
        if self.discount != discount:
            percent = f"{self.discount_percent} percent of {self.subtotal}"
            raise InvalidArgument("discount", f"must be {discount} ({percent}, rounded down), but is {self.discount}")
        payable = self.subtotal - discount
        if self.points_redeemed > payable:
            raise InvalidArgument("points_redeemed", f"must be at most {payable}, but is {self.points_redeemed}")


class Order(NamedTuple):
    """An order that was taken. `status_reason` says why it was cancelled, in capitals."""

    order_id: str
    fingerprint: bytes
    terms: Terms
    status: Status
    status_reason: str
    created_at_us: int

    def confirmed(self) -> "Order":
        """Goods and points are the order's own. For an ACCEPTED one only."""
        assert self.status is Status.ACCEPTED
        return self._replace(status=Status.CONFIRMED)

    def completed(self) -> "Order":
        """The completed order; a COMPLETED one stays as it is. Raises WrongStatus."""
        if self.status is Status.COMPLETED:
            return self
        if self.status is not Status.CONFIRMED:
            raise WrongStatus(self.order_id, self.status, "completed")
        return self._replace(status=Status.COMPLETED)

    def cancelled(self, reason: str) -> "Order":
        """The cancelled order; a CANCELLED one stays as it is. Raises WrongStatus."""
        if self.status is Status.CANCELLED:
            return self
        if self.status is Status.COMPLETED:
            raise WrongStatus(self.order_id, self.status, "cancelled")
        return self._replace(status=Status.CANCELLED, status_reason=reason)


class HistoryEntry(NamedTuple):
    """A step of an order: when it was taken, by which version of which service, and why where there is a reason."""

    step: str
    """ACCEPTED and the like, or what a participant did, such as LOYALTY_CONFIRMED."""
    at_us: int
    served_by: str
    detail: str


class Refusal(NamedTuple):
    """Why something was refused: a reason in capitals, a text for people, and what it is about."""

    reason: str
    detail: str
    metadata: Mapping[str, str]


class RefusedOrder(NamedTuple):
    """The decision that an id does not become an order."""

    order_id: str
    fingerprint: bytes
    customer_id: str
    refusal: Refusal
    created_at_us: int


Decision = Order | RefusedOrder
