"""The one table from reasons to REST answers, and the answers: problem+json.

Source: RFC 9457. `type` is the reason as a path of this gateway that explains it, `detail` is for people, and what
the problem is about stands in members of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """What an answer for one reason looks like."""

    reason: str
    status: int
    title: str
    advice: str
    """What its page says: when it happens, and what to do."""
    retry_after_s: int | None = None
    status_in_path: int | None = None
    """The status where the request's path, not its body, names what is unknown."""

    @property
    def name(self) -> str:
        return self.reason.lower().replace("_", "-")

    @property
    def type(self) -> str:
        return f"/problems/{self.name}"


_AGAIN = "Send the same request again in a moment, with the same Idempotency-Key where it had one."

_KINDS = (
    # What a client can mend.
    Kind(
        "INVALID_ARGUMENT", 400, "Invalid request", "The request is not as the contract says; `detail` names the part."
    ),
    Kind(
        "UNKNOWN_VERSION",
        400,
        "No such version",
        "Souk-Prefer asks for a version that has no target; /health/targets shows those there are.",
    ),
    Kind("NOT_FOUND", 404, "No such page", "Nothing is served under this path; /docs shows what is."),
    Kind("METHOD_NOT_ALLOWED", 405, "Method not allowed", "The path exists; the Allow header names its methods."),
    Kind("BODY_TOO_LARGE", 413, "Body too large", "A request's body may have at most 64 KiB."),
    Kind("UNSUPPORTED_MEDIA_TYPE", 415, "Unsupported media type", "Send JSON, with Content-Type: application/json."),
    # What an order asks for and cannot have.
    Kind(
        "UNKNOWN_SKU",
        422,
        "Unknown item",
        "There is no item with this SKU; GET /v1/items lists those there are.",
        status_in_path=404,
    ),
    Kind(
        "UNKNOWN_CUSTOMER",
        422,
        "Unknown customer",
        "There is no customer with this id; PUT /v1/customers/{id} creates one.",
        status_in_path=404,
    ),
    Kind("OUT_OF_STOCK", 409, "Out of stock", "Fewer pieces are available than were ordered. Order less, or later."),
    Kind(
        "INSUFFICIENT_POINTS", 409, "Not enough points", "The customer has fewer free points than are to be redeemed."
    ),
    Kind(
        "REDEEM_EXCEEDS_TOTAL",
        422,
        "More points than there is to pay",
        "One point pays one minor unit; redeem at most what is left to pay after the discount.",
    ),
    # Idempotency.
    Kind("KEY_REUSED", 422, "Idempotency-Key used before", "The key belongs to another request. Take a new one."),
    Kind(
        "BUSY",
        409,
        "The same key is in flight",
        "A request with the same Idempotency-Key is being worked on. Send it again in a moment.",
        retry_after_s=1,
    ),
    Kind("SETTLED", 409, "Already settled", "What belongs to this order was released. Order again, with a new key."),
    # What the state of things does not allow.
    Kind("UNKNOWN_ORDER", 404, "Unknown order", "There is no order with this id."),
    Kind("WRONG_STATUS", 409, "Not in this status", "The order's status does not allow it; `current_status` names it."),
    Kind("ON_HAND_BELOW_HELD", 409, "Pieces are held", "As many pieces must stay on hand as are held for orders."),
    Kind("POINTS_BELOW_HELD", 409, "Points are held", "As many points must stay as are held for orders."),
    Kind("UNKNOWN_RESERVATION", 404, "Unknown reservation", "Nothing is reserved under this order id."),
    Kind("UNKNOWN_HOLD", 404, "Unknown hold", "Nothing is held under this order id."),
    # What passes.
    Kind("UNAVAILABLE", 503, "A service does not answer", _AGAIN, retry_after_s=1),
    Kind("STORAGE_UNAVAILABLE", 503, "A database does not answer", _AGAIN, retry_after_s=1),
    Kind("HOLD_EXPIRING", 503, "It took too long", _AGAIN, retry_after_s=1),
    # What should never be.
    Kind("INTERNAL", 500, "Internal error", "The gateway failed in a way that it does not know; its log says more."),
)

TABLE: Mapping[str, Kind] = {kind.reason: kind for kind in _KINDS}
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}

# For the reasons of services that are newer than this gateway, by the gRPC status that came with them.
_STATUS_BY_CATEGORY = {"INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 422}

_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})
_NUMBERS = frozenset({"requested", "available", "held", "payable"})


def kind_of(reason: str, category: str = "") -> Kind:
    """The row of a reason; where the table has none, a row that follows from the gRPC status `category`."""
    known = TABLE.get(reason)
    if known is not None:
        return known
    return Kind(
        reason,
        _STATUS_BY_CATEGORY.get(category, 409),
        reason.replace("_", " ").capitalize(),
        "",
        retry_after_s=1 if category == "ABORTED" else None,
        status_in_path=404 if category == "NOT_FOUND" else None,
    )


def problem(
    kind: Kind,
    detail: str,
    *,
    instance: str,
    metadata: Mapping[str, str] | None = None,
    in_path: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer. `instance` is the path of the request; `in_path` says that it names the thing in question."""
    status = kind.status_in_path if in_path and kind.status_in_path is not None else kind.status
    members: dict[str, str | int] = {
        "type": kind.type,
        "title": kind.title,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    for key, value in (metadata or {}).items():
        name = f"current_{key}" if key in _STANDARD_MEMBERS else key
        members[name] = int(value) if key in _NUMBERS and value.isdecimal() else value
    answer = Response(_encode(members), status, headers, MEDIA_TYPE)
    if kind.retry_after_s is not None:
        answer.headers["Retry-After"] = str(kind.retry_after_s)
    return answer
