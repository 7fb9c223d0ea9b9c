"""How a request can fail: it is refused for a reason, or a service that it needs does not answer."""

from collections.abc import Mapping


class Rejected(Exception):
    """The gateway or a service refused the request.

    `reason` is a name in capitals from `problems.TABLE`. A service that is newer than this gateway may give another
    one; then `category`, the name of a gRPC status, says what kind of refusal it is. `detail` is for people;
    `metadata` names what the refusal is about, such as the SKU. `replayed`: it is the answer to an earlier request with
    the same idempotency key; services say so in the metadata.
    """

    def __init__(
        self, reason: str, detail: str, metadata: Mapping[str, str] | None = None, *, category: str = "INVALID_ARGUMENT"
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})
        self.replayed = self.metadata.pop("replayed", "") == "true"
        self.category = category

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed in a moment: BUSY, HELD_BY_OTHERS, HOLD_EXPIRING."""
        return self.category == "ABORTED"

    @property
    def is_evidence(self) -> bool:
        """Whether a participant says that it has CONFIRMED the order, so that orders must know it."""
        return self.reason == "SETTLED" and self.metadata.get("state") == "CONFIRMED"


class Unavailable(Exception):
    """A service did not answer, or answered that it cannot work now. The call may have had an effect; repeat it.

    `reason` is UNAVAILABLE, or the reason that the service itself gave, such as STORAGE_UNAVAILABLE; `was_sent` is
    false if it is known that the call had no effect, because nobody was asked. For `pause_ms` the service wants no
    other orders to be begun; 0 where it has not said that. RECORD_DAMAGED does not pass by itself; `metadata` names the
    record. `spread_s`: see `problems.problem`.
    """

    def __init__(
        self,
        detail: str,
        *,
        reason: str = "UNAVAILABLE",
        metadata: Mapping[str, str] | None = None,
        was_sent: bool = True,
        pause_ms: int = 0,
        spread_s: int = 0,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.pause_ms = pause_ms
        self.spread_s = spread_s
        self.detail = detail
        self.was_sent = was_sent


def quoted(value: object, most: int = 80) -> str:
    """A value of a client or an operator in quotes, for a message: cut, as it may be of any length."""
    text = str(value)
    return repr(value) if len(text) <= most else repr(f"{text[:most]}…")


def invalid(field: str, detail: str) -> Rejected:
    """A part of the request that breaks the contract: which field, and what to send instead."""
    return Rejected("INVALID_ARGUMENT", f"{field}: {detail}" if field else detail, {"field": field} if field else None)
