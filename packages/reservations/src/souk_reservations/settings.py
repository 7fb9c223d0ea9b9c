"""The service's settings."""

import re
from dataclasses import dataclass, field

from souk_reservations.environment import is_address, require

_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True)
class Settings:
    """Read once, from SOUK_RESERVATIONS_<NAME> or SOUK_<NAME>."""

    address: str = "127.0.0.1:50052"
    """Where to listen, `host:port`."""
    database_url: str = field(default="sqlite:///reservations.db", repr=False)  # it may hold a password
    currency: str = "EUR"
    """ISO 4217 code of all prices."""
    hold_ttl_s: float = 60.0
    """How long a hold lives."""
    janitor_period_s: float = 1.0
    """How often holds are looked through for those whose time has passed."""
    max_rpcs: int = 4000
    """Calls at a time, those that wait for something included; others get RESOURCE_EXHAUSTED."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        require(is_address(self.address), "address", self.address, "host:port, such as 127.0.0.1:50051")
        require(
            _CURRENCY.fullmatch(self.currency) is not None,
            "currency",
            self.currency,
            "an ISO 4217 currency code, such as EUR",
        )
        require(0 < self.hold_ttl_s <= 86_400, "hold_ttl_s", self.hold_ttl_s, "seconds, above 0 and at most 86400")
        period = self.janitor_period_s
        require(0 < period <= 3600, "janitor_period_s", period, "seconds, above 0 and at most 3600")
        require(64 <= self.max_rpcs <= 1_000_000, "max_rpcs", self.max_rpcs, "64 to 1000000 calls")
        levels = ("debug", "info", "warning", "error")
        require(self.log_level.lower() in levels, "log_level", self.log_level, "debug, info, warning or error")
