"""Items, and reservations of them. Standard library only.

The states of a reservation and what each call makes of them stand here, and nowhere else:

    call      no row, EXPIRED           HELD                        CONFIRMED            CLOSED
    reserve   hold, or refuse           same lines: hold anew       Settled, and says    Settled
                                        other lines: Busy           that it is CONFIRMED
    confirm   sell: CONFIRMED, or       drop the hold, then as      yes                  no
              CLOSED and no             on the left
    release   CLOSED                    drop the hold: CLOSED       take back: CLOSED    CLOSED
    expire    -                         once due: EXPIRED           -                    -
    forget    no row                    stays                       stays                no row
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from souk_reservations.revisions import ANY, Condition, revision_of

MAX_PIECES = 1_000_000_000
"""Of one item, on hand; also the highest price, in minor units."""

MAX_NUMBER = 2**53 - 1
"""Above it, readers of JSON round whole numbers. No sum that Souk keeps or shows may pass it."""


LONGEST_TTL_US = 86_400_000_000
"""Of a hold, a day."""

CLOCKS_APART_US = 30_000_000
"""By which the clocks of two processes may differ, and a clock step back, unnoticed."""


class DomainError(Exception):
    """A refusal. Its text is for people; `metadata` names what it is about."""

    def __init__(self, detail: str, **metadata: object) -> None:
        super().__init__(detail)
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(DomainError):
    """A field is missing or out of its range."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field} {detail}", field=field)


class UnknownSku(DomainError):
    """There is no such item."""

    def __init__(self, sku: str) -> None:
        super().__init__(f"there is no item with the SKU '{sku}'", sku=sku)


class OutOfStock(DomainError):
    """Fewer pieces are there than asked for."""

    def __init__(self, sku: str, requested: int, available: int) -> None:
        super().__init__(
            f"{requested} pieces of '{sku}' were ordered, but {available} are available; order fewer, or try later",
            sku=sku,
            requested=requested,
            available=available,
        )


class HeldByOthers(DomainError):
    """Enough pieces are on hand, but others hold some of them, which may be available again in a moment."""

    def __init__(self, sku: str, requested: int, available: int) -> None:
        super().__init__(
            f"{requested} pieces of '{sku}' were ordered, but {available} are available while other orders hold some; "
            "try again in a moment",
            sku=sku,
            requested=requested,
            available=available,
        )


class Busy(DomainError):
    """The order holds other lines."""

    def __init__(self, order_id: str) -> None:
        super().__init__(
            f"another request with other lines is in progress for the order {order_id}; try again in a moment"
        )


class Settled(DomainError):
    """The reservation is CONFIRMED or CLOSED; the state is in the metadata."""

    def __init__(self, order_id: str, state: "State") -> None:
        super().__init__(f"the reservation of the order {order_id} is already {state}", state=state)


class OnHandBelowHeld(DomainError):
    """Fewer pieces would be on hand than are held."""

    def __init__(self, sku: str, on_hand: int, held: int) -> None:
        super().__init__(
            f"'{sku}' cannot have {on_hand} pieces on hand while orders hold {held}; "
            f"set at least {held}, or try again later",
            sku=sku,
            held=held,
        )


class OnHandAboveLimit(DomainError):
    """More pieces would be on hand than there may be."""

    def __init__(self, sku: str, quantity: int, on_hand: int) -> None:
        super().__init__(
            f"{quantity} pieces would raise '{sku}' from {on_hand} to more than {MAX_PIECES} on hand; add fewer",
            sku=sku,
            on_hand=on_hand,
        )


class LimitExceeded(DomainError):
    """A sum would pass MAX_NUMBER."""

    def __init__(self, what: str, number: int, **about: object) -> None:
        super().__init__(f"{what} would be {number}, but may be at most {MAX_NUMBER}", **about)


class KeyReused(DomainError):
    """The id was given to another restock."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the request id {request_id} belongs to a different restock; use a new id or key")


class PreconditionFailed(DomainError):
    """The item is not as the put says that it must be."""

    def __init__(self, sku: str, item: "Item | None") -> None:
        found = "is not as the request says that it must be" if item else "does not exist"
        super().__init__(f"the item '{sku}' {found}; nothing was changed, so read it and decide anew", sku=sku)


class UnknownReservation(DomainError):
    """There is no reservation under this order id."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no reservation for the order {order_id}")


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


NO_ANSWER = (InvalidArgument, Overloaded, Damaged)
"""What is neither a yes nor a no to a Confirm."""


class State(StrEnum):
    """Where a reservation is on its way."""

    HELD = "HELD"
    EXPIRED = "EXPIRED"
    CONFIRMED = "CONFIRMED"
    CLOSED = "CLOSED"


class Line(NamedTuple):
    """Pieces of an item."""

    sku: str
    quantity: int


class QuotedLine(NamedTuple):
    """Pieces of an item at a price, in minor units for one."""

    sku: str
    name: str
    quantity: int
    unit_price: int


class Item(NamedTuple):
    """What can be reserved. Always 0 <= held <= on_hand. `description` is for people, empty for none."""

    sku: str
    name: str
    unit_price: int
    on_hand: int
    held: int = 0
    sold: int = 0
    description: str = ""

    @property
    def available(self) -> int:
        """Pieces that nobody has spoken for."""
        return self.on_hand - self.held

    @property
    def revision(self) -> str:
        """Another text whenever something changed that `put` sets."""
        return revision_of((self.name, self.unit_price, self.description), self.on_hand)


class Reservation(NamedTuple):
    """The pieces of one order. `quote` is what `reserve` said, while they are HELD."""

    order_id: str
    state: State
    lines: tuple[Line, ...]
    quote: tuple[QuotedLine, ...]
    expires_at_us: int


class Restock(NamedTuple):
    """The answer to a restock that is carried out once: the item as it was then, or why not."""

    request_id: str
    sku: str
    quantity: int
    answer: Item | UnknownSku | OnHandAboveLimit
    at_us: int


class Restocked(NamedTuple):
    """A restock that was decided, now or by an earlier call."""

    restock: Restock
    replayed: bool


class JournalEntry(NamedTuple):
    """Pieces that came into the stock, or left it otherwise than by an order."""

    sku: str
    pieces: int


class Stock:
    """The items and reservations that a transaction is about, and what may be done to them.

    It holds every item, reservation and restock that the calls name; an item that is not there does not exist. A call
    that raises has changed nothing.
    """

    def __init__(
        self,
        items: Mapping[str, Item],
        reservations: Mapping[str, Reservation],
        restocks: Mapping[str, Restock] | None = None,
    ) -> None:
        self.items = dict(items)
        self.reservations = dict(reservations)
        self.restocks = dict(restocks or {})
        self.journal: list[JournalEntry] = []

    def reserve(self, order_id: str, lines: tuple[Line, ...], expires_at_us: int) -> Reservation:
        """Holds all lines until `expires_at_us`, or none.

        Raises Busy, Settled, UnknownSku, OutOfStock, LimitExceeded; HeldByOthers only where nothing but time is needed.
        """
        row = self.reservations.get(order_id)
        if row is not None and row.state in (State.CONFIRMED, State.CLOSED):
            raise Settled(order_id, row.state)
        if row is not None and row.state is State.HELD:
            if _quantities(row.lines) != _quantities(lines):
                raise Busy(order_id)
            held = row._replace(expires_at_us=expires_at_us)
        else:
            quote = tuple(self._quote(line) for line in lines)
            costs = sum(line.quantity * line.unit_price for line in quote)
            if costs > MAX_NUMBER:
                raise LimitExceeded("what the order costs", costs)
            for line in lines:
                self._check_available(line, HeldByOthers)
            self._change_held(lines, +1)
            held = Reservation(order_id, State.HELD, lines, quote, expires_at_us)
        self.reservations[order_id] = held
        return held

    def confirm(self, order_id: str, lines: tuple[Line, ...]) -> DomainError | None:
        """Sells exactly these lines, whatever was held; gives None for yes, or else why not."""
        row = self.reservations.get(order_id) or Reservation(order_id, State.EXPIRED, (), (), 0)
        if row.state is State.CONFIRMED:
            return None
        if row.state is State.CLOSED:
            return Settled(order_id, row.state)
        if row.state is State.HELD:
            self._change_held(row.lines, -1)
        try:
            for line in lines:
                self._quote(line)
                self._check_available(line, OutOfStock)
        except (UnknownSku, OutOfStock) as refusal:
            self.reservations[order_id] = row._replace(state=State.CLOSED, quote=())
            return refusal
        self._sell(lines, +1)
        self.reservations[order_id] = row._replace(state=State.CONFIRMED, lines=lines, quote=())
        return None

    def release(self, order_id: str) -> None:
        """Drops the hold or takes back what was sold, and closes the reservation for ever."""
        row = self.reservations.get(order_id) or Reservation(order_id, State.EXPIRED, (), (), 0)
        if row.state is State.HELD:
            self._change_held(row.lines, -1)
        elif row.state is State.CONFIRMED:
            self._sell(row.lines, -1)
        self.reservations[order_id] = row._replace(state=State.CLOSED, quote=())

    def expire_due(self, now_us: int, ttl_us: int = LONGEST_TTL_US) -> int:
        """Ends the holds whose time has passed; gives how many.

        One that would live for longer than `ttl_us`, by more than clocks may be apart, was made before the clock
        stepped back. It gets `ttl_us` from now.
        """
        latest_us = now_us + ttl_us + CLOCKS_APART_US
        for row in [
            row for row in self.reservations.values() if row.state is State.HELD and row.expires_at_us > latest_us
        ]:
            self.reservations[row.order_id] = row._replace(expires_at_us=now_us + ttl_us)
        due = [row for row in self.reservations.values() if row.state is State.HELD and row.expires_at_us <= now_us]
        for row in due:
            self._change_held(row.lines, -1)
            self.reservations[row.order_id] = row._replace(state=State.EXPIRED, quote=())
        return len(due)

    def forget(self, order_ids: Iterable[str]) -> list[str]:
        """Takes away what is CLOSED or EXPIRED, as if it had never been; gives the ids of those that stay."""
        rows = [row for order_id in order_ids if (row := self.reservations.get(order_id)) is not None]
        for row in rows:
            if row.state in (State.CLOSED, State.EXPIRED):
                self.reservations.pop(row.order_id, None)
        return [row.order_id for row in rows if row.order_id in self.reservations]

    def put(
        self,
        sku: str,
        name: str,
        unit_price: int,
        on_hand: int | None,
        description: str | None = None,
        condition: Condition = ANY,
    ) -> Item:
        """Creates an item, or changes it. What is None stays as it was: no pieces and no description in a new one.

        As many pieces as there are may be put whatever they are, since a cancelled order may bring more than the limit.
        Raises PreconditionFailed, InvalidArgument, OnHandBelowHeld, LimitExceeded.
        """
        there = self.items.get(sku)
        old = there or Item(sku, name, unit_price, on_hand=0)
        description = old.description if description is None else description
        item = old._replace(name=name, unit_price=unit_price, description=description)
        pieces = 0 if on_hand is None else on_hand - old.on_hand
        if condition.is_repeat and item == there and pieces == 0:
            return item
        if not condition.is_met(there and there.revision, counts=on_hand is not None):
            raise PreconditionFailed(sku, there)
        if pieces and on_hand is not None:
            in_range("on_hand", on_hand, 0, MAX_PIECES)
            if on_hand < old.held:
                raise OnHandBelowHeld(sku, on_hand, old.held)
        return self._stock_up(item, pieces)

    def restock(self, sku: str, quantity: int) -> Item:
        """Adds pieces. Raises UnknownSku, OnHandAboveLimit, LimitExceeded."""
        item = self._item(sku)
        if item.on_hand + quantity > MAX_PIECES:
            raise OnHandAboveLimit(sku, quantity, item.on_hand)
        return self._stock_up(item, quantity)

    def restock_once(self, request_id: str, sku: str, quantity: int, now_us: int) -> Restocked:
        """Adds pieces the first time; gives that time's answer, and whether it is from before. Raises KeyReused."""
        known = self.restocks.get(request_id)
        if known is not None:
            if (known.sku, known.quantity) != (sku, quantity):
                raise KeyReused(request_id)
            return Restocked(known, replayed=True)
        answer: Item | UnknownSku | OnHandAboveLimit
        try:
            answer = self.restock(sku, quantity)
        except (UnknownSku, OnHandAboveLimit) as refusal:
            answer = refusal
        decided = self.restocks[request_id] = Restock(request_id, sku, quantity, answer, now_us)
        return Restocked(decided, replayed=False)

    def _item(self, sku: str) -> Item:
        try:
            return self.items[sku]
        except KeyError:
            raise UnknownSku(sku) from None

    def _quote(self, line: Line) -> QuotedLine:
        item = self._item(line.sku)
        if item.on_hand < line.quantity:
            raise OutOfStock(line.sku, line.quantity, item.available)
        return QuotedLine(line.sku, item.name, line.quantity, item.unit_price)

    def _check_available(self, line: Line, otherwise: type[HeldByOthers | OutOfStock]) -> None:
        available = self.items[line.sku].available
        if available < line.quantity:
            raise otherwise(line.sku, line.quantity, available)

    def _change_held(self, lines: Iterable[Line], sign: int) -> None:
        for line in lines:
            item = self.items[line.sku]
            self.items[line.sku] = item._replace(held=item.held + sign * line.quantity)

    def _sell(self, lines: Iterable[Line], sign: int) -> None:
        for line in lines:
            item = self.items[line.sku]
            pieces = sign * line.quantity
            self.items[line.sku] = item._replace(on_hand=item.on_hand - pieces, sold=item.sold + pieces)

    def _stock_up(self, item: Item, pieces: int) -> Item:
        # Orders move pieces between on hand and sold, so neither can ever pass what bounds both.
        ever = item.on_hand + item.sold + pieces
        if pieces > 0 and ever > MAX_NUMBER:
            raise LimitExceeded(f"the pieces of '{item.sku}', with those that were sold,", ever, sku=item.sku)
        stocked = item._replace(on_hand=item.on_hand + pieces)
        self.items[item.sku] = stocked
        if pieces:
            self.journal.append(JournalEntry(item.sku, pieces))
        return stocked


def in_range(field: str, value: int, low: int, high: int) -> int:
    """The value. Raises InvalidArgument where it is not from `low` to `high`."""
    if not low <= value <= high:
        raise InvalidArgument(field, f"must be from {low} to {high}, but is {value}")
    return value


def _quantities(lines: Iterable[Line]) -> dict[str, int]:
    return {line.sku: line.quantity for line in lines}
