"""The targets of a service, as a setting names them: one address, or several versions with weights."""

import re
from dataclasses import dataclass

from souk_contracts.targets import is_target

SERVICES = ("orders", "reservations", "loyalty")
WANTED = (
    "host:port (orders:50051), a gRPC name (dns:///orders:50051), or versions with weights "
    "(1.0.0=orders-1-0:50051;90,1.1.0=orders-1-1:50051;10), each version once and at least one weight above 0"
)
VERSION = r"[0-9A-Za-z][0-9A-Za-z.+_-]*"
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
    if is_target(text):
        return (Target(text),)
    targets = []
    for part in text.split(","):
        match = _WEIGHTED.fullmatch(part.strip())
        if match is None or not is_target(match["address"]):
            return None
        targets.append(Target(match["address"], match["version"], int(match["weight"])))
    has_each_once = len({target.version for target in targets}) == len(targets)
    return tuple(targets) if has_each_once and any(target.weight for target in targets) else None
