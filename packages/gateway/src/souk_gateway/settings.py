"""The settings: environment variables, read once when the process starts."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from souk_gateway.errors import quoted
from souk_gateway.limits import Limits, Network
from souk_gateway.targets import SERVICES, WANTED, Target, Targets, targets_of

T = TypeVar("T")

_LOG_LEVELS = ("debug", "info", "warning", "error")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(?P<port>[0-9]{1,5})")
_WHOLE = re.compile(r"[0-9]{1,16}")
_COUNT = re.compile(r"[0-9]{1,6}")
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
    max_orders_under_way: int = 256
    """How many orders are placed at the same time; the others are told to come back."""
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)
    """What clients may take of this gateway."""

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
            limits=_limits(read, default.limits),
        )


def names() -> frozenset[str]:
    """The variables that `Settings.from_environment` reads."""
    read = set()

    class Environment(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.add(name)
            return default

    Settings.from_environment(Environment())
    return frozenset(read)


def _limits(read: Callable[..., Any], default: Limits) -> Limits:
    def number(name: str, otherwise: int, most: int) -> int:
        value: int = read(name, _up_to(1, most), f"a whole number from 1 to {most}", otherwise)
        return value

    def seconds(name: str, otherwise: float) -> float:
        value: float = read(name, _up_to(1, 3600), "whole seconds, from 1 to 3600", otherwise)
        return value

    return Limits(
        http2=read("SOUK_HTTP2", _boolean, "true or false", default.http2),
        trusted_proxies=read(
            "SOUK_TRUSTED_PROXIES",
            _networks,
            "addresses or networks separated by commas, such as 10.0.0.1, 172.16.0.0/12",
            default.trusted_proxies,
        ),
        max_connections=number("SOUK_MAX_CONNECTIONS", default.max_connections, 1_000_000),
        max_connections_per_address=number(
            "SOUK_MAX_CONNECTIONS_PER_ADDRESS", default.max_connections_per_address, 1_000_000
        ),
        head_timeout_s=seconds("SOUK_HEAD_TIMEOUT_S", default.head_timeout_s),
        body_timeout_s=seconds("SOUK_BODY_TIMEOUT_S", default.body_timeout_s),
        body_bytes_per_s=number("SOUK_BODY_BYTES_PER_S", default.body_bytes_per_s, 1_000_000),
        answer_timeout_s=seconds("SOUK_ANSWER_TIMEOUT_S", default.answer_timeout_s),
        max_buffered_bytes=number("SOUK_MAX_BUFFERED_BYTES", default.max_buffered_bytes, 2**40),
    )


def _up_to(least: int, most: int) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        if not _WHOLE.fullmatch(text):
            return None
        return int(text) if least <= int(text) <= most else None

    return parse


def _networks(text: str) -> tuple[Network, ...] | None:
    try:
        return tuple(ipaddress.ip_network(network) for each in text.split(",") if (network := each.strip()))
    except ValueError:
        return None


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
    return int(text) if _COUNT.fullmatch(text) and 1 <= int(text) <= 100_000 else None


def _log_level(text: str) -> str | None:
    return text.lower() if text.lower() in _LOG_LEVELS else None
