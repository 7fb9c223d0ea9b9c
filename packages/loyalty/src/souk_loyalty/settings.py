"""The service's settings."""

from dataclasses import dataclass, field

from souk_loyalty.environment import is_address, require


@dataclass(frozen=True)
class Settings:
    """Read once, from SOUK_LOYALTY_<NAME> or SOUK_<NAME>."""

    address: str = "127.0.0.1:50053"
    """Where to listen, `host:port`."""
    database_url: str = field(default="sqlite:///loyalty.db", repr=False)  # it may hold a password
    hold_ttl_s: float = 60.0
    """How long a hold lives."""
    janitor_period_s: float = 1.0
    """How often holds are looked through for those whose time has passed."""
    max_rpcs: int = 4000
    """Calls at a time, those that wait for something included; others get RESOURCE_EXHAUSTED."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        require(is_address(self.address), "address", self.address, "host:port, such as 127.0.0.1:50051")
        require(0 < self.hold_ttl_s <= 86_400, "hold_ttl_s", self.hold_ttl_s, "seconds, above 0 and at most 86400")
        period = self.janitor_period_s
        require(0 < period <= 3600, "janitor_period_s", period, "seconds, above 0 and at most 3600")
        require(64 <= self.max_rpcs <= 1_000_000, "max_rpcs", self.max_rpcs, "64 to 1000000 calls")
        levels = ("debug", "info", "warning", "error")
        require(self.log_level.lower() in levels, "log_level", self.log_level, "debug, info, warning or error")
