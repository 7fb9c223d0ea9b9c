"""How a request can fail: it was rejected for a reason, or somebody who is needed did not answer."""

from collections.abc import Mapping


class Rejected(Exception):
    """Somebody looked at the request and said no.

    `reason` is a name in capitals that `problems.TABLE` knows, unless the service that gave it is newer than this
    gateway; then `category`, the name of a gRPC status, tells what sort of no it is. `detail` is for people;
    `metadata` holds what it is about, such as the SKU.
    """

    def __init__(
        self, reason: str, detail: str, metadata: Mapping[str, str] | None = None, *, category: str = "INVALID_ARGUMENT"
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})
        self.category = category

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well succeed in a moment: BUSY, HOLD_EXPIRING."""
        return self.category == "ABORTED"


class Unavailable(Exception):
    """A service did not answer, or could not: what it did is unknown, and worth trying again.

    `reason` is UNAVAILABLE, or the reason that the service itself gave, such as STORAGE_UNAVAILABLE.
    """

    def __init__(self, detail: str, *, reason: str = "UNAVAILABLE") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def invalid(field: str, detail: str) -> Rejected:
    """A part of the request that is not as the contract says: where it is, and what to mend."""
    return Rejected("INVALID_ARGUMENT", f"{field}: {detail}" if field else detail, {"field": field} if field else None)
