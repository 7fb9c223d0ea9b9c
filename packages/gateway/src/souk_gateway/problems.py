"""The one table from reasons to REST answers, and the answers: problem+json.

Source: RFC 9457. `type` is a path of this gateway that explains the reason, and `detail` is for people. Further
members name what the problem is about, such as the SKU.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the answer for one reason looks like."""

    reason: str
    status: int
    title: str
    advice: str
    """What the page at `type` says: when it happens, and what to do."""
    retry_after_s: int | None = None
    spread_s: int = 0
    """How much later than that clients are told to come, at random, so that they do not all come at once."""
    status_in_path: int | None = None
    """The status to use instead when the request's path, not its body, names what is unknown."""
    headers: Mapping[str, str] | None = None
    """What every such answer has."""

    @property
    def name(self) -> str:
        return self.reason.lower().replace("_", "-")

    @property
    def type(self) -> str:
        return f"/problems/{self.name}"


_AGAIN = "Send the same request again in a moment. If it had an Idempotency-Key, keep that key."

_KINDS = (
    # The client can correct the request.
    Kind(
        "INVALID_ARGUMENT",
        400,
        "Invalid request",
        "The request breaks the contract. `detail` names the field and what is expected; correct it and send it again.",
    ),
    Kind(
        "UNKNOWN_VERSION",
        400,
        "Unknown version",
        "Souk-Prefer asks for a version that does not run here. GET /health/targets lists the versions that do.",
    ),
    Kind("NOT_FOUND", 404, "Not found", "This path does not exist. /docs lists the paths that do."),
    Kind(
        "METHOD_NOT_ALLOWED",
        405,
        "Method not allowed",
        "The path exists, but does not accept this method. The Allow header lists the methods that it accepts.",
    ),
    Kind("BODY_TOO_LARGE", 413, "Body too large", "The body of a request may have at most 64 KiB. Send a smaller one."),
    Kind(
        "UNSUPPORTED_MEDIA_TYPE",
        415,
        "Unsupported media type",
        "Send the body as JSON, with the header Content-Type: application/json and without a Content-Encoding.",
        headers={"Accept-Encoding": "identity"},
    ),
    # The order asks for something that it cannot have.
    Kind(
        "UNKNOWN_SKU",
        422,
        "Unknown item",
        "No item has this SKU. GET /v1/items lists the items; PUT /v1/items/{sku} creates one.",
        status_in_path=404,
    ),
    Kind(
        "UNKNOWN_CUSTOMER",
        422,
        "Unknown customer",
        "No customer has this id. GET /v1/customers lists the customers; PUT /v1/customers/{id} creates one.",
        status_in_path=404,
    ),
    Kind(
        "OUT_OF_STOCK",
        409,
        "Out of stock",
        "Fewer pieces are on hand than the order asks for. Order fewer, or try again later.",
    ),
    Kind(
        "INSUFFICIENT_POINTS",
        409,
        "Not enough points",
        "The customer has fewer points than the order would redeem. Redeem fewer, or try again later.",
    ),
    Kind(
        "HELD_BY_OTHERS",
        409,
        "Held by other orders",
        "There are enough goods (`sku`) or points (`customer_id`), but other orders hold some of them, and may "
        "release them in a moment. This answer is not kept for the Idempotency-Key: send the same request again.",
        retry_after_s=1,
    ),
    Kind(
        "REDEEM_EXCEEDS_TOTAL",
        422,
        "Too many points redeemed",
        "One point pays one minor unit of the currency. Redeem at most `payable`, what is to pay after the discount.",
    ),
    Kind(
        "LIMIT_EXCEEDED",
        409,
        "Number too large",
        "A number would be above 9,007,199,254,740,991, up to which every reader of JSON knows whole numbers: what the "
        "order costs, the customer's points with those that orders will earn, or the pieces of an item.",
    ),
    # Idempotency.
    Kind(
        "KEY_REUSED",
        422,
        "Idempotency-Key already used",
        "This Idempotency-Key belongs to a different request. Send a new request with a new key.",
    ),
    Kind(
        "BUSY",
        409,
        "Key in use",
        "Another request with the same Idempotency-Key is still being processed. Send this one again in a moment.",
        retry_after_s=1,
    ),
    Kind(
        "SETTLED",
        409,
        "Already settled",
        "The goods or points of this order are already sold or released. Place a new order with a new Idempotency-Key.",
    ),
    # The current state does not allow it.
    Kind(
        "UNKNOWN_ORDER", 404, "Unknown order", "No order has this id. It may never have existed, or have been pruned."
    ),
    Kind(
        "WRONG_STATUS",
        409,
        "Not allowed in this status",
        "The order is in a status that does not allow this. `current_status` names the status.",
    ),
    Kind(
        "ON_HAND_BELOW_HELD",
        409,
        "On hand below held",
        "Orders hold more pieces (`held`) than would be on hand. Set `on_hand` to at least `held`, or try again later.",
    ),
    Kind(
        "ON_HAND_ABOVE_LIMIT",
        409,
        "Too many on hand",
        "At most 1,000,000,000 pieces of an item can be on hand, and `on_hand` are. Add fewer.",
    ),
    Kind(
        "POINTS_BELOW_HELD",
        409,
        "Points below held",
        "Orders hold more points (`held`) than would be left. Set `points` to at least `held`, or try again later.",
    ),
    Kind(
        "PRECONDITION_FAILED",
        412,
        "Precondition failed",
        "What the path names is not as If-Match or If-None-Match says. Nothing was changed. Read it, and decide anew.",
    ),
    Kind(
        "CHANGED_MEANWHILE",
        409,
        "Changed meanwhile",
        "A service did not answer the first attempt, and something was changed before the second one. The request may "
        "have taken effect. Read what is there, and decide anew; If-Match makes a PUT safe to repeat.",
    ),
    Kind("UNKNOWN_RESERVATION", 404, "Unknown reservation", "No reservation has this order id."),
    Kind("UNKNOWN_HOLD", 404, "Unknown hold", "No hold of points has this order id."),
    # It passes by itself.
    Kind("UNAVAILABLE", 503, "A service does not answer", _AGAIN, retry_after_s=1),
    Kind("STORAGE_UNAVAILABLE", 503, "A database does not answer", _AGAIN, retry_after_s=1),
    Kind("OVERLOADED", 503, "Too much to do at once", _AGAIN, retry_after_s=1, spread_s=3),
    Kind("HOLD_EXPIRING", 503, "The order took too long", _AGAIN, retry_after_s=1),
    Kind(
        "OUTCOME_UNKNOWN",
        503,
        "Outcome unknown",
        "A service does not answer. The request may have taken effect, and would do harm if it took effect twice. Read "
        "what is there before you send it again.",
    ),
    # A service is older than the gateway.
    Kind(
        "SERVICE_TOO_OLD",
        501,
        "Not supported by this version",
        "The service's version does not support what the request asks for. Nothing was changed. GET /health/targets "
        "lists the versions; Souk-Prefer asks for one.",
    ),
    # It should never happen.
    Kind(
        "ORDER_LOST",
        503,
        "Order lost",
        "This order was accepted and its goods are sold, but the database of orders went back to an earlier time and "
        "does not have it any more. Nothing was changed. Keep the Idempotency-Key, and tell whoever runs the shop, who "
        "must restore the order.",
        retry_after_s=60,
    ),
    Kind(
        "RECORD_DAMAGED",
        500,
        "A stored record is damaged",
        "What is stored of this order, item or customer cannot be read: `record` and `id` name it, `damaged_field` the "
        "part. It stays so until whoever runs Souk has mended it; docs/audit.md says how. Everything else goes on.",
    ),
    Kind(
        "INTERNAL",
        500,
        "Internal error",
        "The gateway failed unexpectedly. Its log has the details; tell whoever runs it.",
    ),
)

TABLE: Mapping[str, Kind] = {kind.reason: kind for kind in _KINDS}
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}

# For the reasons of services that are newer than this gateway, by the gRPC status that came with them.
_STATUS_BY_CATEGORY = {"INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 422}

_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})
_NUMBERS = frozenset({"requested", "available", "held", "on_hand", "payable"})


def kind_of(reason: str, category: str = "") -> Kind:
    """The row of a reason. For a reason that is not in the table, the gRPC status `category` decides."""
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
    spread_s: int = 0,
) -> Response:
    """The answer. `instance` is the path of the request; `in_path`: whether it names what the problem is about.

    `spread_s` counts where it is more than the kind's own.
    """
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
    answer = Response(_encode(members), status, {**(kind.headers or {}), **(headers or {})}, MEDIA_TYPE)
    if kind.retry_after_s is not None:
        later_s = random.randint(0, max(kind.spread_s, spread_s))  # noqa: S311 (no secret)
        answer.headers["Retry-After"] = str(kind.retry_after_s + later_s)
    return answer
