"""Reads the headers of a REST request, exactly as the contract describes them.

A client chooses what is in them, so what reads them takes a time that grows with their length and no faster: a pattern
with two ways to match the same text would try them all.
"""

import re
from collections.abc import Iterator

from starlette.requests import Request

from souk_gateway.errors import invalid, quoted
from souk_gateway.targets import VERSION

MAX_WAIT_S = 5
"""Less than the time that a gateway gives running requests when it shuts down."""
_MAX_KEY = 255
_MAX_QUOTED_KEY = 2 * _MAX_KEY + 2
"""With a backslash before each character, and the quotes."""
_MAX_PREFERENCES = 1000
"""Characters, of all Prefer headers. Longer ones are ignored, as is all that cannot be understood in them."""

# In quotes as the draft has it, or bare as many clients send it.
_QUOTED_KEY = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')
_BARE_KEY = re.compile(r"[!#-~](?:[ -~]{0,253}[!-~])?")
# A comma, or what is between two commas. A quote that is not closed goes on to the end, so that it matches, too:
# otherwise each quote would be looked for an end of its own.
_PREFERENCES = re.compile(r'(,)|[^",]+|"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_WAIT = re.compile(r"\s*wait\s*=\s*(\"?)([0-9]{1,9})\1\s*(?:;.*)?", re.IGNORECASE)
_TAG = re.compile(r'[ \t]*(?:(?:W/)?("[!#-~\x80-\xff]*"))?[ \t]*(?:,|\Z)')
_VERSION_WANTED = re.compile(rf"[ \t]*([a-z]+)=({VERSION})[ \t]*")
_ESCAPED = re.compile(r"\\(.)")


def values(request: Request, name: bytes) -> list[str]:
    """Every value of a header; what `Headers.getlist` gives, in a third of the time."""
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key header, or None without one.

    Source: draft-ietf-httpapi-idempotency-key-header, by which it is a string in quotes (RFC 9651). The quotes are not
    part of the key: `"abc"` and `abc` are the same one.
    """
    keys = values(request, b"idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise invalid("Idempotency-Key", f"the header came {len(keys)} times; send it once")
    key = keys[0]
    if len(key) <= _MAX_QUOTED_KEY and _QUOTED_KEY.fullmatch(key):
        key = _ESCAPED.sub(r"\1", key[1:-1])
        if 1 <= len(key) <= _MAX_KEY:
            return key
    elif _BARE_KEY.fullmatch(key):
        return key
    raise invalid(
        "Idempotency-Key",
        f"{quoted(keys[0])} is not valid; expected 1 to {_MAX_KEY} printable ASCII characters, with or without quotes",
    )


def preferred_wait_s(request: Request) -> int | None:
    """How many seconds the client would wait for the order to be settled, from `Prefer: wait=N`; None without one.

    Source: RFC 7240. The first `wait` counts. One that cannot be read is ignored; one above the limit is cut to it.
    """
    for preference in _preferences(",".join(values(request, b"prefer"))):
        if preference.partition("=")[0].partition(";")[0].strip().lower() == "wait":
            match = _WAIT.fullmatch(preference)
            return min(int(match[2]), MAX_WAIT_S) if match else None
    return None


def _preferences(text: str) -> Iterator[str]:
    """What stands between the commas of a Prefer header that are not in quotes."""
    if len(text) > _MAX_PREFERENCES:
        return
    begin = 0
    for part in _PREFERENCES.finditer(text):
        if part[1]:
            yield text[begin : part.start()]
            begin = part.end()
    yield text[begin:]


def preferred_versions(request: Request) -> dict[str, str]:
    """The versions that the request asks for, by service, as in `Souk-Prefer: orders=1.1.0, loyalty=1.0.0`."""
    found: dict[str, str] = {}
    for part in ",".join(values(request, b"souk-prefer")).split(","):
        if not part.strip():  # a list may have empty members: RFC 9110, 5.6.1
            continue
        match = _VERSION_WANTED.fullmatch(part)
        if match is None:
            detail = f"{quoted(part.strip())} is not valid; expected a service and its version, such as orders=1.1.0"
            raise invalid("Souk-Prefer", detail)
        if match[1] in found:
            raise invalid("Souk-Prefer", f"{quoted(match[1])} appears twice; name each service once")
        found[match[1]] = match[2]
    return found


def names_tag(request: Request, tag: str) -> bool:
    """Whether If-None-Match names an entity tag, which is in its quotes; one that cannot be read names none.

    Source: RFC 9110, 13.1.2.
    """
    text = ",".join(values(request, b"if-none-match"))
    if text.strip() == "*":
        return True
    position = 0
    found = False
    while position < len(text):
        match = _TAG.match(text, position)
        if match is None:
            return False
        found = found or match[1] == tag
        position = match.end()
    return found
