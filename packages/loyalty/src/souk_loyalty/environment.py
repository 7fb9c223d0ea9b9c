"""Reads settings from the environment.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import os
from collections.abc import Mapping
from typing import Any, TypeVar

Settings = TypeVar("Settings")


class BadSetting(Exception):
    """A setting has a value that cannot be used; the text names the setting, its value and what it must be."""


def read(settings: type[Settings], service: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Fills a dataclass of text, numbers and switches: `hold_ttl_s` from SOUK_<SERVICE>_HOLD_TTL_S or SOUK_HOLD_TTL_S.

    An empty value counts as none. Raises BadSetting, also where the dataclass itself raises ValueError with a text
    that begins with a field's name.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, field in settings.__dataclass_fields__.items():  # type: ignore[attr-defined]  # a dataclass has them
        candidates = _names(name, service)
        sources[name] = next((each for each in candidates if environment.get(each)), candidates[0])
        if text := environment.get(sources[name]):
            try:
                values[name] = _PARSERS[field.type](text)
            except (KeyError, ValueError):
                wanted = "true or false" if field.type is bool else "a number"
                raise BadSetting(f"{sources[name]} is '{text[:300]}'; it must be {wanted}") from None
    try:
        return settings(**values)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise BadSetting(f"{sources[name]} {rest}") from None


def names(settings: type[Any], service: str) -> list[str]:
    """The variables that `read` looks at."""
    return [each for name in settings.__dataclass_fields__ for each in _names(name, service)]


def _names(field: str, service: str) -> list[str]:
    return [f"SOUK_{service.upper()}_{field.upper()}", f"SOUK_{field.upper()}"]


def require(condition: bool, name: str, value: object, wanted: str) -> None:
    """For a dataclass's own checks. Raises ValueError in the form that `read` understands."""
    if not condition:
        raise ValueError(f"{name} is '{str(value)[:300]}'; it must be {wanted}")


def is_address(text: str) -> bool:
    """Whether a text is `host:port`, with a port below 65536."""
    host, _, port = text.rpartition(":")
    return bool(host) and " " not in text and port.isascii() and port.isdigit() and int(port) < 2**16


_PARSERS: dict[object, Any] = {
    str: str,
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
}
