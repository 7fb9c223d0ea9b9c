"""Whose connection or request it is: the peer's address or, behind a trusted proxy, the one that it forwards for."""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from souk_gateway.limits import Network

_MAX_HOPS = 32
"""Of X-Forwarded-For, from its end."""


@lru_cache(maxsize=4096)
def counted(address: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits, since who has one address of it has all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
        parsed = parsed.ipv4_mapped
    return str(parsed)


@lru_cache(maxsize=4096)
def is_trusted(address: str, proxies: tuple[Network, ...]) -> bool:
    """Whether the address is one of the proxies'."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in proxies)


def forwarded_for(headers: Iterable[tuple[bytes, bytes]], proxies: tuple[Network, ...]) -> str | None:
    """The last address in X-Forwarded-For that is no trusted proxy's; what stands before it, a client may have written.

    None where there is none that can be read.
    """
    values = [value for name, value in headers if name == b"x-forwarded-for"]
    hops: Sequence[bytes] = b",".join(values).rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]
    for hop in reversed(hops):
        text = hop.strip().decode("latin-1")
        if text.startswith("["):  # as some write IPv6, with a port
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return None
        if not is_trusted(text, proxies):
            return text
    return None
