"""The targets of a service, as a setting names them: one address, or several versions with weights."""

import re
from dataclasses import dataclass

SERVICES = ("orders", "reservations", "loyalty")
WANTED = (
    "host:port (orders:50051), a gRPC name (dns:///orders:50051), or versions with weights "
    "(1.0.0=orders-1-0:50051;90,1.1.0=orders-1-1:50051;10), each version once and at least one weight above 0"
)
VERSION = r"[0-9A-Za-z][0-9A-Za-z.+_-]*"
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/=,;]+):(?P<port>[0-9]{1,5})")
# With commas: ipv4:///10.0.0.1:50051,10.0.0.2:50051 is one name.
_GRPC_NAME = re.compile(r"(?:[a-z][a-z0-9+.-]*://|unix:)[^\s=;]+")
# Not what follows another colon, as in an IPv6 address without brackets.
_PORT = re.compile(r"(?<=[^:/,]):([0-9]+)(?=[,/]|$)")
_WEIGHTED = re.compile(rf"(?P<version>{VERSION})=(?P<address>[^=,;]+);(?P<weight>[0-9]{{1,9}})")


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a service."""

    address: str
    """`host:port`, or a gRPC name."""
    version: str = ""
    """The version that requests can ask for; empty where the service has only one target."""
    weight: int = 1
    """Its share of the requests, relative to the other weights; with 0 it gets only requests that ask for it."""


Targets = tuple[Target, ...]


def targets_of(text: str) -> Targets | None:
    """The targets that a text names; None if it cannot be read."""
    if _is_address(text):
        return (Target(text),)
    targets = []
    for part in text.split(","):
        match = _WEIGHTED.fullmatch(part.strip())
        if match is None or not _is_address(match["address"]):
            return None
        targets.append(Target(match["address"], match["version"], int(match["weight"])))
    has_each_once = len({target.version for target in targets}) == len(targets)
    return tuple(targets) if has_each_once and any(target.weight for target in targets) else None


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    if match:
        return _is_port(match["port"])
    return _GRPC_NAME.fullmatch(text) is not None and all(map(_is_port, _ports(text)))


def _ports(text: str) -> list[str]:
    """Those in a gRPC name; other schemes have none, or numbers of their own."""
    return _PORT.findall(text) if text.startswith(("dns:", "ipv4:", "ipv6:")) else []


def _is_port(digits: str) -> bool:
    return len(digits) <= 5 and int(digits) <= 65535
