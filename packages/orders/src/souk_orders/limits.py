"""The limits of what a call may contain: each check returns its argument, or raises InvalidArgument."""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from itertools import accumulate

from souk_orders.domain import InvalidArgument, Line, Order, Refusal, Status, Terms

MAX_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_PRICE = 1_000_000_000
"""Of one piece, in minor units."""
MAX_NUMBER = 2**53 - 1
"""Above it, readers of JSON round whole numbers. No sum that Souk keeps or shows may pass it."""
MAX_POINTS_EARNED = 1_000_000_000_000_000
MAX_NOTE = 500
"""Characters."""
MAX_WAIT_MS = 10_000
MAX_PAGE = 500
DEFAULT_PAGE = 50
MAX_PAGE_LINES = 4000
"""Of all orders on a page: at their longest they stay below the 4 MiB that a gRPC message may have by default."""
_LINES_OF_A_NOTE = 3
"""A note counts as this many lines: at their longest they are longer than the longest note."""

_INT64 = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME_WANTED = "must be 1 to 64 letters, digits, dots, underscores or hyphens"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_POSITION = re.compile(r"([0-9]{1,19}) ([0-9a-f-]{36})")

_UNMARKED = 14
"""Characters of an order's id in every page token. A digit comes next in an id, and a hyphen in a mark."""

Position = tuple[int, str]
"""The position of an order in a list of all: when it was created, and its id."""

START: Position = (_INT64, "")
"""Before the newest order."""


def order_id(text: str) -> str:
    """A UUID in its canonical form."""
    if not _UUID.fullmatch(text):
        raise InvalidArgument("order_id", f"must be a UUID in lower case with hyphens, but is '{text[:64]}'")
    return text


def fingerprint(digest: bytes) -> bytes:
    """A SHA-256."""
    if len(digest) != 32:
        raise InvalidArgument("fingerprint", f"must have 32 bytes, but has {len(digest)}")
    return digest


def customer_id(text: str) -> str:
    """An id as loyalty knows it."""
    return _matching("customer_id", _NAME, text, _NAME_WANTED)


def terms(given: Terms) -> Terms:
    """Terms in their limits whose figures agree with each other."""
    customer_id(given.customer_id)
    _matching("currency", _CURRENCY, given.currency, "must be an ISO 4217 currency code")
    _lines(given.lines)
    _in_range("discount_percent", given.discount_percent, 0, 100)
    _in_range("discount", given.discount, 0, _INT64)
    _in_range("points_redeemed", given.points_redeemed, 0, _INT64)
    _in_range("points_earned", given.points_earned, 0, MAX_POINTS_EARNED)
    _text("note", given.note, 0, MAX_NOTE)
    if given.subtotal > MAX_NUMBER:  # no other figure is above it
        raise InvalidArgument("lines", f"must cost at most {MAX_NUMBER}, but cost {given.subtotal}")
    given.check_figures()
    return given


def refusal(given: Refusal) -> Refusal:
    """A refusal that is small enough to keep."""
    _matching(
        "refusal.reason",
        _REASON,
        given.reason,
        "must be 1 to 63 capitals, digits or underscores",
    )
    _text("refusal.detail", given.detail, 0, 4000)
    _in_range("refusal.metadata", len(given.metadata), 0, 64)
    for key, value in given.metadata.items():
        _text("refusal.metadata", key, 1, 64)
        _text("refusal.metadata", value, 0, 1000)
    return given


def wait_ms(wanted: int) -> int:
    """How long a call may wait, in milliseconds."""
    return _in_range("wait_ms", wanted, 0, MAX_WAIT_MS)


def page_size(wanted: int) -> int:
    """How many orders a page holds."""
    return _in_range("page_size", wanted, 0, MAX_PAGE) or DEFAULT_PAGE


def fitting(orders: Sequence[Order]) -> int:
    """How many of the orders, from the first, fit on one page."""
    lines = accumulate(len(order.terms.lines) + (_LINES_OF_A_NOTE if order.terms.note else 0) for order in orders)
    return sum(1 for total in lines if total <= MAX_PAGE_LINES)


def page_token(last: Order, following: Order, customer_id: str, status: Status | None) -> str:
    """The token of the page that begins with `following`, after `last`; it needs no escaping in a URL.

    It is the position of `last` for every version. The second half of the id is a mark instead, which binds the token
    to the list's filters, and which versions before 1.2 take for an id: it sorts between the two orders, as it begins
    with a character below every other one. Where nothing is between them, the token has no mark.
    """
    order_id = last.order_id
    beginning = (last.created_at_us, order_id[:_UNMARKED])
    if beginning != (following.created_at_us, following.order_id[:_UNMARKED]):
        order_id = _marked(last.created_at_us, order_id, customer_id, status)
    return base64.urlsafe_b64encode(f"{last.created_at_us} {order_id}".encode()).decode().rstrip("=")


def position(token: str, customer_id: str, status: Status | None) -> Position:
    """Where the page of a token begins, in the list with these filters."""
    if not token:
        return START
    try:
        padded = token + "=" * (-len(token) % 4)
        found = _POSITION.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        found = None
    if found is None or int(found[1]) > _INT64:
        raise InvalidArgument("page_token", "is not from an answer of this call; leave it empty for the first page")
    created_at_us, order_id = int(found[1]), found[2]
    if order_id[_UNMARKED] == "-" and order_id != _marked(created_at_us, order_id, customer_id, status):
        raise InvalidArgument("page_token", "is from a list with other filters; leave it empty for the first page")
    return created_at_us, order_id


def _marked(created_at_us: int, order_id: str, customer_id: str, status: Status | None) -> str:
    beginning = order_id[:_UNMARKED]
    named = f"{customer_id} {status or ''} {created_at_us} {beginning}"
    return f"{beginning}-{hashlib.sha256(named.encode()).hexdigest()}"[: len(order_id)]


def _lines(lines: Sequence[Line]) -> None:
    _in_range("lines", len(lines), 1, MAX_LINES)
    for line in lines:
        _matching("sku", _NAME, line.sku, _NAME_WANTED)
        _text("name", line.name, 1, 200)
        _in_range("quantity", line.quantity, 1, MAX_QUANTITY)
        _in_range("unit_price", line.unit_price, 0, MAX_PRICE)
    if len({line.sku for line in lines}) < len(lines):
        raise InvalidArgument("lines", "must name each SKU once; put its whole quantity into one line")


def _matching(field: str, pattern: re.Pattern[str], text: str, wanted: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidArgument(field, f"{wanted}, but is '{text[:80]}'")
    return text


def _text(field: str, text: str, shortest: int, longest: int) -> None:
    if not shortest <= len(text) <= longest or "\0" in text:
        raise InvalidArgument(field, f"must have {shortest} to {longest} characters, without NUL")


def _in_range(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgument(field, f"must be from {low} to {high}, but is {value}")
    return value
