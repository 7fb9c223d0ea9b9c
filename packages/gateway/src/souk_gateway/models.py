"""The REST requests and answers, and how answers are made from the services' messages.

The limits are those of the contracts: `gateway.v1.yaml` for REST, and the .proto files behind it.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from souk_contracts.loyalty.v1 import Account, Tier
from souk_contracts.orders.v1 import HistoryEntry, Order, OrderStatus
from souk_contracts.reservations.v1 import Item

# msgspec searches; the ends of the text are part of the pattern. `\Z`, since `$` would let a line feed pass.
KNOWN_ID = re.compile(r"\A[A-Za-z0-9._-]{1,64}\Z")
"""An id that there may be: . and .. could be put before version 1.2."""
KNOWN_ID_WANTED = "1 to 64 letters, digits, dots, underscores or hyphens"
# Clients take . and .. out of a path before they send it: RFC 3986, 5.2.4.
ID_PATTERN = r"\A(?!\.\.?\Z)[A-Za-z0-9._-]{1,64}\Z"
ID = re.compile(ID_PATTERN)
ID_WANTED = f"{KNOWN_ID_WANTED}, but not . or .."
# What a text may not have, after RFC 9839: controls but tabs and line breaks, and what Unicode calls noncharacters.
# A name is shown among other texts, so it may neither break a line nor turn the direction of what follows it (Unicode's
# Bidi_Control), and has something to be seen. See docs/adr/0016-narrowing.md.
_NO_CHARACTERS = r"\ufdd0-\ufdef\ufffe\uffff"
_BLANKS = r" \u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff"
NAME_PATTERN = (
    rf"\A(?![{_BLANKS}]*\Z)"
    rf"[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069{_NO_CHARACTERS}]{{1,200}}\Z"
)
NAME = re.compile(NAME_PATTERN)
NAME_WANTED = "1 to 200 characters, not only spaces, without control characters, line breaks and changes of direction"
TEXT_PATTERN = rf"\A[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_NO_CHARACTERS}]*\Z"
TEXT_WANTED = "text without control characters (tabs and line breaks are allowed)"

MAX_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_PIECES = 1_000_000_000
MAX_UNIT_PRICE = 1_000_000_000
MAX_POINTS = 1_000_000_000_000
MAX_NOTE = 500
MAX_DESCRIPTION = 2000

Identifier = Annotated[str, Meta(pattern=ID_PATTERN)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
MAX_NUMBER = 2**53 - 1
"""Up to which JavaScript reads whole numbers as they are."""
Points = Annotated[int, Meta(ge=0, le=MAX_POINTS)]
Note = Annotated[str, Meta(pattern=TEXT_PATTERN, max_length=MAX_NOTE)]
Description = Annotated[str, Meta(pattern=TEXT_PATTERN, max_length=MAX_DESCRIPTION)]

# RFC 3339, 5.6; msgspec takes a space for the T, too, and offsets without a colon.
_TIME = re.compile(r"[0-9]{4}(?:-[0-9]{2}){2}T(?:[0-9]{2}:){2}[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})", re.I)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""


class OrderLineRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sku: Identifier
    quantity: Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]


# `omit_defaults` keeps fingerprints what they are when a later version adds a field that has a default.
class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    customer_id: Identifier
    lines: Annotated[tuple[OrderLineRequest, ...], Meta(min_length=1, max_length=MAX_LINES)]
    redeem_points: Points = 0
    note: Note = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for line in self.lines:
            if line.sku in seen:
                raise ValueError(f"lines: the SKU {line.sku!r} appears twice; put its whole quantity into one line")
            seen.add(line.sku)


class ItemRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    unit_price: Annotated[int, Meta(ge=0, le=MAX_UNIT_PRICE)]
    on_hand: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class RestockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    quantity: Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]


class CustomerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    tier: Literal["standard", "silver", "gold"]
    points: Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | UnsetType = UNSET
    tier_expires_at: str | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.tier_expires_at, str):
            _time_us("tier_expires_at", self.tier_expires_at)

    @property
    def tier_expires_at_us(self) -> int | None:
        """As loyalty has it: 0 for never, None to leave it as it was."""
        if isinstance(self.tier_expires_at, str):
            return _time_us("tier_expires_at", self.tier_expires_at)
        return None if self.tier_expires_at is UNSET else 0


class OrderLineAnswer(msgspec.Struct):
    sku: str
    name: str
    quantity: int
    unit_price: int
    line_total: int


# What has a default in an answer is new since 1.0, and left out where there is none: answers of a 1.0 look the same.


class OrderAnswer(msgspec.Struct, omit_defaults=True):
    id: str
    status: str
    status_reason: str | None
    customer_id: str
    currency: str
    lines: list[OrderLineAnswer]
    subtotal: int
    discount: int
    discount_percent: int
    points_redeemed: int
    points_earned: int
    total: int
    without_loyalty: bool
    created_at: str
    note: str = ""


class StepAnswer(msgspec.Struct, omit_defaults=True):
    step: str
    at: str
    by: str
    detail: str = ""


class OrderWithHistory(OrderAnswer, kw_only=True):
    history: list[StepAnswer]


class OrderPage(msgspec.Struct):
    orders: list[OrderAnswer]
    next_page_token: str | None


class ItemAnswer(msgspec.Struct, omit_defaults=True):
    sku: str
    name: str
    unit_price: int
    currency: str
    on_hand: int
    held: int
    available: int
    sold: int
    description: str = ""


class ItemPage(msgspec.Struct):
    items: list[ItemAnswer]
    next_page_token: str | None


class CustomerAnswer(msgspec.Struct, omit_defaults=True):
    id: str
    name: str
    tier: str
    discount_percent: int
    points: int
    points_held: int
    tier_expires_at: str | None = None


class CustomerPage(msgspec.Struct):
    customers: list[CustomerAnswer]
    next_page_token: str | None


STATUSES = {
    "ACCEPTED": OrderStatus.ACCEPTED,
    "CONFIRMED": OrderStatus.CONFIRMED,
    "COMPLETED": OrderStatus.COMPLETED,
    "CANCELLED": OrderStatus.CANCELLED,
}
TIERS = {"standard": Tier.STANDARD, "silver": Tier.SILVER, "gold": Tier.GOLD}
# What is in neither was added by a service that is newer than this gateway.
_STATUS_NAMES = {status: name for name, status in STATUSES.items()}
_TIER_NAMES = {tier: name for name, tier in TIERS.items()}


def _time_us(name: str, text: str) -> int:
    """A time of RFC 3339 in microseconds since the Unix epoch. Raises ValueError."""
    try:
        time = msgspec.convert(text, datetime) if _TIME.fullmatch(text) else None
    except msgspec.ValidationError:  # such as the 30th of February, and leap seconds
        time = None
    if time is None:
        raise ValueError(f"{name}: expected a time such as 2027-01-31T12:00:00Z or 2027-01-31T12:00:00+02:00")
    time_us = (time - _EPOCH) // timedelta(microseconds=1)
    if not 0 < time_us <= _LAST_US:
        raise ValueError(f"{name}: expected a time after 1970-01-01 and before the year 10000, in UTC")
    return time_us


def rfc3339(time_us: int) -> str:
    """Microseconds since the Unix epoch, as `2026-01-02T03:04:05.000000Z`."""
    second, microsecond = divmod(time_us, 1_000_000)
    return f"{_second(second)}.{microsecond:06}Z"


@lru_cache(maxsize=1024)
def _second(time_s: int) -> str:
    """What is made in the same second is many things, under load."""
    return (_EPOCH + timedelta(seconds=time_s)).isoformat().removesuffix("+00:00")


def order_answer(order: Order) -> OrderAnswer:
    return OrderAnswer(
        id=order.id,
        status=_STATUS_NAMES.get(order.status, "UNKNOWN"),
        status_reason=order.status_reason or None,
        customer_id=order.customer_id,
        currency=order.currency,
        lines=[
            OrderLineAnswer(line.sku, line.name, line.quantity, line.unit_price, line.unit_price * line.quantity)
            for line in order.lines
        ],
        subtotal=order.subtotal,
        discount=order.discount,
        discount_percent=order.discount_percent,
        points_redeemed=order.points_redeemed,
        points_earned=order.points_earned,
        total=order.total,
        without_loyalty=order.without_loyalty,
        created_at=rfc3339(order.created_at_us),
        note=order.note,
    )


def order_with_history(order: Order, history: list[HistoryEntry]) -> OrderWithHistory:
    steps = [StepAnswer(entry.step, rfc3339(entry.at_us), entry.served_by, entry.detail) for entry in history]
    return OrderWithHistory(**msgspec.structs.asdict(order_answer(order)), history=steps)


def item_answer(item: Item) -> ItemAnswer:
    return ItemAnswer(
        sku=item.sku,
        name=item.name,
        unit_price=item.unit_price,
        currency=item.currency,
        on_hand=item.on_hand,
        held=item.held,
        available=item.available,
        sold=item.sold,
        description=item.description,
    )


def customer_answer(account: Account) -> CustomerAnswer:
    return CustomerAnswer(
        id=account.customer_id,
        name=account.name,
        tier=_TIER_NAMES.get(account.tier, "unknown"),
        discount_percent=account.discount_percent,
        points=account.points,
        points_held=account.points_held,
        tier_expires_at=rfc3339(account.tier_expires_at_us) if account.tier_expires_at_us else None,
    )
