"""The settings: environment variables, read once when the process starts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from souk_gateway.errors import quoted
from souk_gateway.targets import SERVICES, WANTED, Target, Targets, targets_of

T = TypeVar("T")

_LOG_LEVELS = ("debug", "info", "warning", "error")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(?P<port>[0-9]{1,5})")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/,]+", re.ASCII)


class BadSetting(Exception):
    """A setting that cannot be used; the message is one sentence for the operator."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        super().__init__(f"{name} is {quoted(value, 300)}; it must be {wanted}.")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this gateway runs. The package's README lists the variables that `from_environment` reads."""

    host: str = "127.0.0.1"
    """Without brackets, also for IPv6."""
    port: int = 8080
    """0 chooses a free port."""
    targets: Mapping[str, Targets] = field(
        default_factory=lambda: {
            service: (Target(f"localhost:{50051 + place}"),) for place, service in enumerate(SERVICES)
        }
    )
    """By service. A targets file replaces them."""
    targets_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    loyalty_required: bool = True
    """Whether an order fails while loyalty is away, or is placed without a discount."""
    deadline_s: float = 5.0
    """How long a request may take, all its calls together."""
    max_orders_under_way: int = 512
    """How many orders are placed at the same time; the others are told to come back."""
    log_level: str = "info"

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "Settings":
        """Raises `BadSetting`. A variable that is empty counts as not set."""
        default = Settings()

        def read(name: str, parse: Callable[[str], T | None], wanted: str, otherwise: T) -> T:
            text = environment.get(name, "").strip()
            if not text:
                return otherwise
            value = parse(text)
            if value is None:
                raise BadSetting(name, text, wanted)
            return value

        host, port = read(
            "SOUK_GATEWAY_ADDRESS", _address, "host:port, such as 0.0.0.0:8080", (default.host, default.port)
        )
        return Settings(
            host=host,
            port=port,
            targets={
                service: read(f"SOUK_{service.upper()}_TARGET", targets_of, WANTED, default.targets[service])
                for service in SERVICES
            },
            targets_file=read("SOUK_TARGETS_FILE", Path, "a path", None),
            cors_origins=read(
                "SOUK_CORS_ORIGINS", _origins, "origins separated by commas, such as https://shop.example", ()
            ),
            loyalty_required=read("SOUK_LOYALTY_REQUIRED", _boolean, "true or false", default.loyalty_required),
            deadline_s=read("SOUK_DEADLINE_S", _seconds, "seconds, above 0 and at most 60", default.deadline_s),
            max_orders_under_way=read(
                "SOUK_MAX_ORDERS_UNDER_WAY",
                _orders,
                "a whole number from 1 to 100000",
                default.max_orders_under_way,
            ),
            log_level=read("SOUK_LOG_LEVEL", _log_level, f"one of {', '.join(_LOG_LEVELS)}", default.log_level),
        )


def _address(text: str) -> tuple[str, int] | None:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        return None
    return match["host"].strip("[]"), int(match["port"])


def _origins(text: str) -> tuple[str, ...] | None:
    origins = tuple(origin for each in text.split(",") if (origin := each.strip()))
    return origins if all(_ORIGIN.fullmatch(origin) for origin in origins) else None


def _boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= 60 else None


def _orders(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) and 1 <= int(text) <= 100_000 else None


def _log_level(text: str) -> str | None:
    return text.lower() if text.lower() in _LOG_LEVELS else None
