"""The head of a request in HTTP/2, checked as one in HTTP/1.1 is. Source: RFC 9113, 8.2 and 8.3."""

import re
from collections.abc import Iterable

from souk_gateway.parsing import Head, Malformed, is_host, is_target

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_METHOD = re.compile(rb"[A-Z-]{1,32}")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_CONNECTIONS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


def head_of(fields: Iterable[tuple[bytes, bytes]], max_bytes: int, *, ends: bool) -> tuple[Head, int | None]:
    """The head, and its Content-Length; `ends` says that there is no body.

    Raises `Malformed` with the status that the request is answered with.
    """
    pseudo, headers = _split(fields, max_bytes)
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise Malformed(400)
    authority = _authority(pseudo, headers)
    if method == b"CONNECT":
        raise Malformed(501 if pseudo.keys() == {b":method", b":authority"} else 400)  # there are no tunnels here
    target = pseudo.get(b":path", b"")
    if b":scheme" not in pseudo or not target.startswith((b"/", b"*")) or not is_target(method.decode(), target):
        raise Malformed(400)
    lengths = {value for name, value in headers if name == b"content-length"}
    if len(lengths) > 1 or not all(_DIGITS.fullmatch(value) for value in lengths):
        raise Malformed(400)
    length = int(lengths.pop()) if lengths else None
    if ends and length:
        raise Malformed(400)
    expectations = {value.lower() for name, value in headers if name == b"expect"}
    if expectations - {b"100-continue"}:
        raise Malformed(417)
    rest = [(name, value) for name, value in headers if name != b"host"]
    head = Head(
        method=method.decode(),
        target=target,
        version="2",
        headers=[(b"host", authority), *rest],
        keep_alive=True,
        expects_continue=bool(expectations),
        upgrade=b"",
    )
    return head, length


def _split(
    fields: Iterable[tuple[bytes, bytes]], max_bytes: int
) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The pseudo-headers, which come first, and the headers."""
    pseudo: dict[bytes, bytes] = {}
    headers: list[tuple[bytes, bytes]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 4
        if name.startswith(b":"):
            if headers or name in pseudo or name not in _PSEUDO or not _VALUE.fullmatch(value):
                raise Malformed(400)
            pseudo[name] = value
        else:
            if not is_field(name, value) or name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
                raise Malformed(400)
            headers.append((name, value))
    if size > max_bytes:
        raise Malformed(431)
    return pseudo, headers


def is_field(name: bytes, value: bytes) -> bool:
    """Whether it is a header or a trailer as HTTP/2 has it."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def _authority(pseudo: dict[bytes, bytes], headers: list[tuple[bytes, bytes]]) -> bytes:
    hosts = [value for name, value in headers if name == b"host"]
    if b":authority" in pseudo:
        hosts.insert(0, pseudo[b":authority"])
    if not hosts or len(hosts) > 2 or hosts[0] != hosts[-1] or not is_host(hosts[0]):
        raise Malformed(400)
    return hosts[0]
