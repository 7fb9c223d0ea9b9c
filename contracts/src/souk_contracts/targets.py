"""What can be the address of a gRPC server in a setting."""

import re

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/=,;]+):(?P<port>[0-9]{1,5})")
# With commas: ipv4:///10.0.0.1:50051,10.0.0.2:50051 is one name.
_GRPC_NAME = re.compile(r"(?:[a-z][a-z0-9+.-]*://|unix:)[^\s=;]+")
# Not what follows another colon, as in an IPv6 address without brackets.
_PORT = re.compile(r"(?<=[^:/,]):([0-9]+)(?=[,/]|$)")


def is_target(text: str) -> bool:
    """Whether it is `host:port`, or a gRPC name such as `dns:///orders:50051`; with ports up to 65535."""
    match = _ADDRESS.fullmatch(text)
    if match:
        return _is_port(match["port"])
    return _GRPC_NAME.fullmatch(text) is not None and all(map(_is_port, _ports(text)))


def _ports(text: str) -> list[str]:
    """Those in a gRPC name; other schemes have none, or numbers of their own."""
    return _PORT.findall(text) if text.startswith(("dns:", "ipv4:", "ipv6:")) else []


def _is_port(digits: str) -> bool:
    return len(digits) <= 5 and int(digits) <= 65535
