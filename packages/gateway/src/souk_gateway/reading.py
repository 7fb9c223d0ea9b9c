"""Reads a REST request: its body, its query and its headers, exactly as the contract describes them.

Every function here raises `Rejected` with a sentence that says what to correct.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope

from souk_gateway.errors import Rejected, invalid, quoted
from souk_gateway.models import (
    ID,
    ID_PATTERN,
    ID_WANTED,
    NAME_PATTERN,
    NAME_WANTED,
    TEXT_PATTERN,
    TEXT_WANTED,
    TIERS,
)
from souk_gateway.targets import VERSION

T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024
BODY = "souk.body"
"""Where a request's scope holds its whole body."""
MAX_PAGE_SIZE = 500
MAX_WAIT_S = 5
"""Less than the time that a gateway gives running requests when it shuts down."""
_MAX_KEY = 255

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_QUOTED = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
# In quotes as the draft has it, or bare as many clients send it.
_QUOTED_KEY = re.compile(_QUOTED)
_BARE_KEY = re.compile(r"[!#-~](?:[ -~]{0,253}[!-~])?")
_PREFERENCE = re.compile(rf"(?:[^,\"]|{_QUOTED})+")
_WAIT = re.compile(r"\s*wait\s*=\s*(\"?)([0-9]{1,9})\1\s*(?:;.*)?", re.IGNORECASE)
_VERSION_WANTED = re.compile(rf"[ \t]*([a-z]+)=({VERSION})[ \t]*")
_PAGE_TOKEN = re.compile(r"[!-~]{1,1024}")
_DIGITS = re.compile(r"[0-9]{1,9}")
_PLACE = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
# What msgspec says in Python's words, in JSON's.
_WORDS = {
    f"`str` matching regex {ID_PATTERN!r}": ID_WANTED,
    f"`str` matching regex {NAME_PATTERN!r}": NAME_WANTED,
    f"`str` matching regex {TEXT_PATTERN!r}": TEXT_WANTED,
    "Invalid enum value": f"expected one of {', '.join(TIERS)}, got",  # `tier` is the only enum
    "Object contains unknown field": "unknown field",
    "Object missing required field": "missing required field",
    "`datetime | null`": "a time or null",
    "Expected `datetime` with a timezone component": "expected a time with an offset from UTC",
    "Invalid RFC3339 encoded datetime": "expected a time such as 2027-01-31T12:00:00Z",
    "`object`": "an object",
    "`array`": "an array",
    "`str`": "a string",
    "`int`": "an integer",
    "`float`": "a decimal number",
    "`bool`": "a boolean",
    "`null`": "null",
}
_MAX_MESSAGE = 200


def path_of(scope: Scope) -> str:
    """The path as it was sent, percent-encoded: safe to log, and a URI reference."""
    raw_path: bytes = scope["raw_path"]
    return raw_path.decode("ascii", "backslashreplace")


def _all(request: Request, name: bytes) -> list[str]:
    """Every value of a header; what `Headers.getlist` gives, in a third of the time."""
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def body(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body, which `received` has read, as the decoder's type."""
    content_type = next(iter(_all(request, b"content-type")), "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        found = quoted(content_type) if content_type else "missing"
        raise Rejected(
            "UNSUPPORTED_MEDIA_TYPE", f"Content-Type is {found}; send JSON, with Content-Type: application/json"
        )
    try:
        return decoder.decode(request.scope[BODY])
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from None
    except msgspec.DecodeError as error:
        raise invalid("", f"the body is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise invalid("", "the body is not UTF-8; send JSON in UTF-8") from None


async def received(receive: Receive) -> bytes:
    """A request's whole body. A body that is too large is read to its end all the same: many clients read the answer
    only after they have sent everything, and an unread rest would block the connection."""
    data, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise invalid("", "the connection closed before the whole body arrived")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            data += chunk
        more = message.get("more_body", False)
    if size > MAX_BODY_BYTES:
        raise Rejected("BODY_TOO_LARGE", f"the body has more than {MAX_BODY_BYTES} bytes; send a smaller one")
    return bytes(data)


def _explained(message: str) -> Rejected:
    place = ""
    if match := _PLACE.fullmatch(message):
        message, place = match.groups()
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if len(message) > _MAX_MESSAGE:  # it quotes a name or a value of the client's
        message = f"{message[:_MAX_MESSAGE]}…"
    return invalid(place, message[0].lower() + message[1:])


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key header, or None without one.

    Source: draft-ietf-httpapi-idempotency-key-header, by which it is a string in quotes (RFC 9651). The quotes are not
    part of the key: `"abc"` and `abc` are the same one.
    """
    keys = _all(request, b"idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise invalid("Idempotency-Key", f"the header came {len(keys)} times; send it once")
    key = keys[0]
    if _QUOTED_KEY.fullmatch(key):
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
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
    for preference in _PREFERENCE.findall(",".join(_all(request, b"prefer"))):
        if preference.partition("=")[0].partition(";")[0].strip().lower() == "wait":
            match = _WAIT.fullmatch(preference)
            return min(int(match[2]), MAX_WAIT_S) if match else None
    return None


def preferred_versions(request: Request) -> dict[str, str]:
    """The versions that the request asks for, by service, as in `Souk-Prefer: orders=1.1.0, loyalty=1.0.0`."""
    found: dict[str, str] = {}
    for part in ",".join(_all(request, b"souk-prefer")).split(","):
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


def order_id(request: Request) -> str:
    """The order id in the path."""
    text: str = request.path_params["id"]
    if not _UUID.fullmatch(text):
        raise invalid("id", f"{quoted(text)} is not an order id; expected a UUID, as POST /v1/orders returns it")
    return text.lower()


def identifier(request: Request, name: str) -> str:
    """An item's SKU or a customer's id in the path."""
    text: str = request.path_params[name]
    if not ID.fullmatch(text):
        raise invalid(name, f"{quoted(text)} is not valid; expected {ID_WANTED}")
    return text


def query(request: Request, *known: str) -> Mapping[str, str]:
    """The query's parameters. Each must be one of `known`, and may come once."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise invalid(name[:80], f"unknown query parameter; this request takes {', '.join(known)}")
        if name in found:
            raise invalid(name, "the parameter came more than once; send it once")
        found[name] = value
    return found


def page(parameters: Mapping[str, str]) -> tuple[int, str]:
    """The page size (0 for the service's default) and the page token (empty for the first page)."""
    size, token = parameters.get("page_size"), parameters.get("page_token")
    if size is not None and not (_DIGITS.fullmatch(size) and 1 <= int(size) <= MAX_PAGE_SIZE):
        detail = f"{quoted(size)} is not valid; expected a whole number from 1 to {MAX_PAGE_SIZE}"
        raise invalid("page_size", detail)
    if token is not None and not _PAGE_TOKEN.fullmatch(token):
        detail = "this is not a page token; send the next_page_token of the previous page, or omit it for the first"
        raise invalid("page_token", detail)
    return int(size or 0), token or ""


def one_of(parameters: Mapping[str, str], name: str, values: Mapping[str, T], otherwise: T) -> T:
    """A parameter that is one of a few words."""
    text = parameters.get(name)
    if text is None:
        return otherwise
    if text not in values:
        raise invalid(name, f"{quoted(text)} is not valid; expected one of {', '.join(values)}")
    return values[text]


def matching(parameters: Mapping[str, str], name: str, pattern: re.Pattern[str], wanted: str) -> str:
    """A parameter that follows a pattern; empty without one."""
    text = parameters.get(name)
    if text is None:
        return ""
    if not pattern.fullmatch(text):
        raise invalid(name, f"{quoted(text)} is not valid; expected {wanted}")
    return text
