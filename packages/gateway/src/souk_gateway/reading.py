"""Reads a REST request: its path, its query and its whole body, exactly as the contract describes them.

Every function here raises `Rejected` with a sentence that says what to correct.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope

from souk_gateway.errors import Rejected, invalid, quoted
from souk_gateway.models import ID, ID_WANTED

T = TypeVar("T")

MAX_BODY_BYTES = 64 * 1024
BODY = "souk.body"
"""Where a request's scope holds its whole body."""
MAX_PAGE_SIZE = 500

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UNRESERVED = re.compile(r"%(?:2[DE]|3[0-9]|[46][1-9A-F]|[57][0-9A]|5F|7E)", re.IGNORECASE)
"""A letter, a digit, or one of -._~ that is percent-encoded without need: RFC 3986, 2.3."""
_PAGE_TOKEN = re.compile(r"[!-~]{1,1024}")
_DIGITS = re.compile(r"[0-9]{1,9}")


def path_of(scope: Scope) -> str:
    """The path as it was sent, percent-encoded: safe to log, and a URI reference."""
    raw_path: bytes = scope["raw_path"]
    return raw_path.decode("ascii", "backslashreplace")


def routed_path(scope: Scope) -> str:
    """The path to find a request's route by: what need not be encoded is decoded, and all else is as it was sent.

    So an encoded slash is a part of its segment, and no encoded line break is lost behind the path. Source: RFC 3986,
    6.2.2.2: `/v1/%6Frders` is `/v1/orders`.
    """
    path = path_of(scope)
    return _UNRESERVED.sub(lambda encoded: chr(int(encoded[0][1:], 16)), path) if "%" in path else path


async def received(scope: Scope, receive: Receive) -> bytes:
    """A request's whole body. One that is too large is not read to its end: the connection ends with the answer.

    Where the client waits for 100 Continue, the first `receive` sends it.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise _too_large()
    data, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise invalid("", "the connection closed before the whole body arrived")
        data += message.get("body", b"")
        if len(data) > MAX_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return bytes(data)


def _too_large() -> Rejected:
    return Rejected("BODY_TOO_LARGE", f"the body has more than {MAX_BODY_BYTES} bytes; send a smaller one")


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
