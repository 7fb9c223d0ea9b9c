"""What the service does for others, and what it needs for that.

A use case checks what it is given and hands commands to the storage, which carries out all that are waiting in one
transaction: so commands go in lists, and each has an outcome of its own.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from souk_reservations.domain import (
    LONGEST_TTL_US,
    MAX_PIECES,
    NO_ANSWER,
    Damaged,
    DomainError,
    InvalidArgument,
    Item,
    Line,
    Overloaded,
    Reservation,
    Restocked,
    UnknownSku,
    in_range,
)
from souk_reservations.revisions import ANY, Condition

MAX_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_PAGE = 500
DEFAULT_PAGE = 100
MAX_FORGOTTEN = 1000
"""Orders, of one call."""
MAX_REVISIONS = 16
MAX_DESCRIPTION = 2000
"""Characters."""
MAX_PAGE_DESCRIPTIONS = 800_000
"""Characters of all items on a page: at their longest they stay below the 4 MiB that a gRPC message may have by
default."""
LONGEST_LAG_S = 1.0
"""What is new is not begun while commands wait longer than this: the gateway, which waits five seconds for all services
together, would not wait for the answer."""
PAUSE_MS = 250
"""For how long the gateway is asked to begin nothing then."""
_LAGS = "earlier calls have waited too long already, so this was not begun; try again in a moment"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SKU = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_NEW = (".", "..")
"""SKUs that items could have before version 1.2. No client can name them in a path, so no further item gets one."""


class Reserve(NamedTuple):
    """Outcome: the Reservation, or Busy, Settled, UnknownSku, OutOfStock, HeldByOthers."""

    order_id: str
    lines: tuple[Line, ...]
    ttl_us: int


class Confirm(NamedTuple):
    """Outcome: None for yes, or why not."""

    order_id: str
    lines: tuple[Line, ...]


class Release(NamedTuple):
    """Outcome: None."""

    order_id: str


class Forget(NamedTuple):
    """Outcome: the ids of those that stay, a tuple."""

    order_ids: tuple[str, ...]


class PutItem(NamedTuple):
    """Outcome: the Item, or PreconditionFailed, InvalidArgument, OnHandBelowHeld."""

    sku: str
    name: str
    unit_price: int
    on_hand: int | None
    """None leaves it as it was, as with the description."""
    description: str | None = None
    condition: Condition = ANY


class RestockItem(NamedTuple):
    """Outcome: the Item, or UnknownSku, OnHandAboveLimit."""

    sku: str
    quantity: int


class RestockOnce(NamedTuple):
    """Outcome: Restocked, or KeyReused."""

    request_id: str
    sku: str
    quantity: int


class ExpireDue(NamedTuple):
    """Ends holds whose time has passed, the oldest first; none lives for longer than `ttl_us`. Outcome: how many."""

    limit: int
    ttl_us: int = LONGEST_TTL_US


Wanted = tuple[str, Sequence[Line]]
"""An order's id and its lines."""

Command = Reserve | Confirm | Release | Forget | PutItem | RestockItem | RestockOnce | ExpireDue
Outcome = Reservation | Item | Restocked | list[str] | int | DomainError | None


class Storage(Protocol):
    """Where items and reservations are kept. Every method raises StorageUnavailable when it cannot be reached."""

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Carries out all commands, in order, durably; a refused one is an outcome and does not stop the others."""

    def lag_s(self) -> float:
        """For how long the first command that is not carried out yet has waited, in seconds."""

    async def reservation(self, order_id: str) -> Reservation:
        """Raises UnknownReservation."""

    async def item(self, sku: str) -> Item:
        """Raises UnknownSku."""

    async def items(self, after: str, limit: int) -> Sequence[Item]:
        """Items with a SKU greater than `after`, by SKU."""


class Reservations:
    """The use cases. All raise InvalidArgument for what is out of its range, and StorageUnavailable."""

    def __init__(self, storage: Storage, *, hold_ttl_s: float) -> None:
        self._storage = storage
        self._ttl_us = int(hold_ttl_s * 1_000_000)

    async def reserve(self, order_id: str, lines: Sequence[Line]) -> Reservation:
        """Raises Busy, Settled, UnknownSku, OutOfStock, HeldByOthers."""
        (outcome,) = await self.reserve_all([(order_id, lines)])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def reserve_all(self, wanted: Sequence[Wanted]) -> Sequence[Reservation | DomainError]:
        """Reserves for several orders. What `reserve` would raise for one is its outcome, InvalidArgument too."""
        if self._storage.lag_s() > LONGEST_LAG_S:
            return [Overloaded(_LAGS, pause_ms=PAUSE_MS)] * len(wanted)
        return await self._execute_all([_reserve(*each, self._ttl_us) for each in wanted])

    async def confirm(self, order_id: str, lines: Sequence[Line]) -> DomainError | None:
        """Gives None for yes, or why not."""
        (outcome,) = await self.confirm_all([(order_id, lines)])
        if isinstance(outcome, NO_ANSWER):
            raise outcome
        return outcome

    async def confirm_all(self, wanted: Sequence[Wanted]) -> Sequence[DomainError | None]:
        """Confirms for several orders at once; InvalidArgument is the outcome of one that is not as it should be."""
        return await self._execute_all([_confirm(*each) for each in wanted])

    async def release(self, order_id: str) -> None:
        """Always succeeds."""
        await self._execute(Release(_order_id(order_id)))

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        """Takes away the rows of these orders that are CLOSED or EXPIRED; gives the ids of those that stay."""
        if len(order_ids) > MAX_FORGOTTEN:
            raise InvalidArgument("order_ids", f"must be at most {MAX_FORGOTTEN}, but are {len(order_ids)}")
        kept = await self._execute(Forget(tuple(map(_order_id, order_ids))))
        assert isinstance(kept, list)
        return kept

    async def reservation(self, order_id: str) -> Reservation:
        """Raises UnknownReservation."""
        return await self._storage.reservation(_order_id(order_id))

    async def put_item(
        self,
        sku: str,
        name: str,
        unit_price: int,
        on_hand: int | None,
        description: str | None = None,
        condition: Condition = ANY,
    ) -> Item:
        """What is None stays as it was. Raises PreconditionFailed, OnHandBelowHeld."""
        if sku in _NOT_NEW:
            raise InvalidArgument("sku", f"must not be {' or '.join(_NOT_NEW)}, which cannot be part of a path")
        if not name.strip() or len(name) > 200 or "\0" in name:
            raise InvalidArgument("name", "must have 1 to 200 characters, not only spaces, without NUL")
        in_range("unit_price", unit_price, 0, MAX_PIECES)
        if description is not None and (len(description) > MAX_DESCRIPTION or "\0" in description):
            raise InvalidArgument("description", f"must have at most {MAX_DESCRIPTION} characters, without NUL")
        in_range("revisions", len(condition.revisions), 0, MAX_REVISIONS)
        return await self._item(PutItem(_sku(sku), name, unit_price, on_hand, description, condition))

    async def restock_item(self, sku: str, quantity: int) -> Item:
        """Raises UnknownSku, OnHandAboveLimit."""
        return await self._item(RestockItem(_sku(sku), in_range("quantity", quantity, 1, MAX_PIECES)))

    async def restock_once(self, request_id: str, sku: str, quantity: int) -> Restocked:
        """The first call's answer, also where that is UnknownSku or OnHandAboveLimit. Raises KeyReused."""
        if not _UUID.fullmatch(request_id):
            raise InvalidArgument(
                "request_id", f"must be a UUID in lower case with hyphens, but is '{request_id[:64]}'"
            )
        outcome = await self._execute(
            RestockOnce(request_id, _sku(sku), in_range("once.quantity", quantity, 1, MAX_PIECES))
        )
        assert isinstance(outcome, Restocked)
        return outcome

    async def item(self, sku: str) -> Item:
        """Raises UnknownSku."""
        return await self._storage.item(_sku(sku))

    async def items(self, page_size: int, page_token: str) -> tuple[Sequence[Item], str]:
        """A page, and the token of the next one; empty on the last.

        A token is the SKU of the last item on its page, in every version. Items are never deleted, so another text was
        not given.
        """
        size = in_range("page_size", page_size, 0, MAX_PAGE) or DEFAULT_PAGE
        if page_token:
            try:
                await self.item(page_token)
            except Damaged:
                pass  # it is there, and the list goes on without it
            except (InvalidArgument, UnknownSku):
                wanted = "is not from an answer of this call; leave it empty for the first page"
                raise InvalidArgument("page_token", wanted) from None
        items = await self._storage.items(page_token, size + 1)
        page = items[: _fitting(items[:size])]
        return page, page[-1].sku if len(page) < len(items) else ""

    async def expire_due(self, limit: int) -> int:
        """Ends up to `limit` holds whose time has passed; gives how many it ended."""
        count = await self._execute(ExpireDue(limit, self._ttl_us))
        assert isinstance(count, int)
        return count

    async def _item(self, command: PutItem | RestockItem) -> Item:
        item = await self._execute(command)
        assert isinstance(item, Item)
        return item

    async def _execute(self, command: Command) -> Outcome:
        (outcome,) = await self._storage.execute([command])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def _execute_all(self, commands: Sequence[Command | InvalidArgument]) -> Sequence[Any]:
        """Their outcomes; a command that could not be made is its own."""
        made = [command for command in commands if not isinstance(command, InvalidArgument)]
        outcomes = iter(await self._storage.execute(made) if made else ())
        return [command if isinstance(command, InvalidArgument) else next(outcomes) for command in commands]


def _reserve(order_id: str, lines: Sequence[Line], ttl_us: int) -> Reserve | InvalidArgument:
    try:
        return Reserve(_order_id(order_id), _lines(lines), ttl_us)
    except InvalidArgument as error:
        return error


def _confirm(order_id: str, lines: Sequence[Line]) -> Confirm | InvalidArgument:
    try:
        return Confirm(_order_id(order_id), _lines(lines))
    except InvalidArgument as error:
        return error


def _fitting(items: Sequence[Item]) -> int:
    """How many of the items, from the first, fit on one page."""
    characters = accumulate(len(item.description) for item in items)
    return sum(1 for total in characters if total <= MAX_PAGE_DESCRIPTIONS)


def _order_id(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise InvalidArgument("order_id", f"must be a UUID in lower case with hyphens, but is '{text[:64]}'")
    return text


def _sku(text: str) -> str:
    if not _SKU.fullmatch(text):
        wanted = "must be 1 to 64 letters, digits, dots, underscores or hyphens"
        raise InvalidArgument("sku", f"{wanted}, but is '{text[:80]}'")
    return text


def _lines(lines: Sequence[Line]) -> tuple[Line, ...]:
    in_range("lines", len(lines), 1, MAX_LINES)
    for line in lines:
        _sku(line.sku)
        in_range("quantity", line.quantity, 1, MAX_QUANTITY)
    if len({line.sku for line in lines}) < len(lines):
        raise InvalidArgument("lines", "must name each SKU once; put its whole quantity into one line")
    return tuple(lines)
