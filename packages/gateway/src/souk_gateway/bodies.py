"""Reads the JSON of a request's body, exactly as the contract describes it."""

import json
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from souk_gateway.errors import Rejected, invalid, quoted
from souk_gateway.headers import values
from souk_gateway.models import (
    ID_PATTERN,
    ID_WANTED,
    NAME_PATTERN,
    NAME_WANTED,
    TEXT_PATTERN,
    TEXT_WANTED,
    TIERS,
)
from souk_gateway.reading import BODY

T = TypeVar("T")

_UNKNOWN = "Object contains unknown field"
_PLACE = re.compile(r"(?P<text>.*) - at `\$\.?(?P<place>.*)`", re.DOTALL)
_OWN_PLACE = re.compile(r"(?P<place>[a-z_]+): (?P<text>.*)")
"""As the models say it themselves."""
# What msgspec says in Python's words, in JSON's.
_WORDS = {
    f"`str` matching regex {ID_PATTERN!r}": ID_WANTED,
    f"`str` matching regex {NAME_PATTERN!r}": NAME_WANTED,
    f"`str` matching regex {TEXT_PATTERN!r}": TEXT_WANTED,
    "Invalid enum value": f"expected one of {', '.join(TIERS)}, got",  # `tier` is the only enum
    _UNKNOWN: "unknown field",
    "Object missing required field": "missing required field",
    "`str | null`": "a time or null",  # `tier_expires_at` is the only one that may be null
    "`object`": "an object",
    "`array`": "an array",
    "`str`": "a string",
    "`int`": "an integer",
    "`float`": "a decimal number",
    "`bool`": "a boolean",
    "`null`": "null",
}
_MAX_MESSAGE = 200
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def body(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body, which `reading.received` has read, as the decoder's type. Raises `Rejected`."""
    _check_headers(request)
    data: bytes = request.scope[BODY]
    try:
        wanted = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _explained(str(error), data, decoder.type) from None
    except msgspec.DecodeError as error:
        raise invalid("", f"the body is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise invalid("", "the body is not UTF-8; send JSON in UTF-8") from None
    _once_each.decode(data.decode())
    return wanted


def _check_headers(request: Request) -> None:
    content_types = values(request, b"content-type")
    if [each.partition(";")[0].strip().lower() for each in content_types] != ["application/json"]:
        found = quoted(", ".join(content_types)) if content_types else "missing"
        raise Rejected(
            "UNSUPPORTED_MEDIA_TYPE", f"Content-Type is {found}; send JSON, with Content-Type: application/json"
        )
    codings = ",".join(values(request, b"content-encoding"))
    if codings and any(coding.strip().lower() not in ("", "identity") for coding in codings.split(",")):
        raise Rejected(
            "UNSUPPORTED_MEDIA_TYPE", f"Content-Encoding is {quoted(codings)}; send the JSON as it is, without encoding"
        )


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    """Readers of JSON do not agree which of two members with the same name counts: RFC 8259, 4."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise invalid(name, "the member came more than once in the same object; send it once")
        seen.add(name)


# msgspec lets the last one count, and says nothing.
_once_each = json.JSONDecoder(object_pairs_hook=_refuse_repeated)


def _explained(message: str, data: bytes, wanted: Any) -> Rejected:
    """A message of msgspec's, in the words of JSON."""
    place = ""
    # The name of a member that is unknown is the client's, and may read like a place.
    if message.startswith(_UNKNOWN) and _knows_not(wanted, data):
        message = message.replace(_UNKNOWN, _WORDS[_UNKNOWN], 1)
    else:
        if match := _PLACE.fullmatch(message) or _OWN_PLACE.fullmatch(message):
            message, place = match["text"], match["place"]
        for theirs, ours in _WORDS.items():
            message = message.replace(theirs, ours)
    if len(message) > _MAX_MESSAGE:  # it quotes a name or a value of the client's
        message = f"{message[:_MAX_MESSAGE]}…"
    return invalid(place, message[0].lower() + message[1:])


def _knows_not(wanted: Any, data: bytes) -> bool:
    """Whether a member of the body itself, not of something in it, may be one that its type does not have."""
    try:
        members = _members.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # behind what msgspec has complained of
        return True
    return any(name not in wanted.__struct_fields__ for name in members)
