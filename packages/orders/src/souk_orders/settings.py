"""The service's settings."""

from dataclasses import dataclass, field

from souk_contracts.targets import is_target
from souk_orders.environment import is_address, require

RECORDING_S = 5.0
"""A lease outlives its call by this, for the answer to be recorded."""


@dataclass(frozen=True)
class Settings:
    """Read once, from SOUK_ORDERS_<NAME> or SOUK_<NAME>."""

    address: str = "127.0.0.1:50051"
    """Where to listen, `host:port`."""
    database_url: str = field(default="sqlite:///orders.db", repr=False)  # it may hold a password
    reservations_target: str = "localhost:50052"
    """Where reservations listens, `host:port` or a gRPC name such as `dns:///reservations:50052`."""
    loyalty_target: str = "localhost:50053"
    """The same for loyalty."""
    hold_margin_s: float = 10.0
    """An order whose holds expire sooner than this is refused (HOLD_EXPIRING)."""
    hold_ttl_s: float = 60.0
    """How long holds live, as reservations and loyalty have it. No order is taken while Confirm messages have waited
    for a quarter of it."""
    relay_period_s: float = 0.5
    """How often the relay reads the outbox when nothing wakes it."""
    relay_timeout_s: float = 2.0
    """The deadline of a call to reservations or loyalty."""
    max_rpcs: int = 4000
    """Calls at a time, those that wait for something included; others get RESOURCE_EXHAUSTED."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        require(is_address(self.address), "address", self.address, "host:port, such as 127.0.0.1:50051")
        for name in ("reservations_target", "loyalty_target"):
            target = getattr(self, name)
            require(is_target(target), name, target, "host:port, or a gRPC name such as dns:///host:port")
        margin = self.hold_margin_s
        require(0 <= margin <= 3600, "hold_margin_s", margin, "0 to 3600 seconds")
        require(0 < self.hold_ttl_s <= 86_400, "hold_ttl_s", self.hold_ttl_s, "seconds, above 0 and at most 86400")
        require(
            margin < self.hold_ttl_s,
            "hold_margin_s",
            margin,
            f"less than SOUK_HOLD_TTL_S={self.hold_ttl_s:g}, or every order would be refused (HOLD_EXPIRING)",
        )
        period = self.relay_period_s
        require(0 < period <= 3600, "relay_period_s", period, "seconds, above 0 and at most 3600")
        timeout = self.relay_timeout_s
        require(0 < timeout <= 60, "relay_timeout_s", timeout, "seconds, above 0 and at most 60")
        # What a process leased and did not deliver, another must deliver while the hold still lives.
        lease = timeout + RECORDING_S
        require(
            margin == 0 or lease < margin,
            "relay_timeout_s",
            timeout,
            f"less than {max(margin - RECORDING_S, 0):g} seconds with SOUK_ORDERS_HOLD_MARGIN_S={margin:g}: a message "
            f"is leased for {RECORDING_S:g} s longer than a call may take, and a lease must end before the hold does",
        )
        require(64 <= self.max_rpcs <= 1_000_000, "max_rpcs", self.max_rpcs, "64 to 1000000 calls")
        levels = ("debug", "info", "warning", "error")
        require(self.log_level.lower() in levels, "log_level", self.log_level, "debug, info, warning or error")
