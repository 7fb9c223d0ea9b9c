"""The modules of which mutants are tried, and the tests that should notice them."""

from dataclasses import dataclass

_FIRST = {
    "contracts": {
        "batch_codec": "batching limits lists",
        "batch_servicer": "lanes lists batching limits",
        "batching": "batching limits",
        "carrier": "lists batching limits",
        "channel": "runtime lanes",
        "errors": "runtime lists",
        "handlers": "limits runtime",
        "lanes": "lanes batching",
        "limits": "limits lists",
        "server": "runtime limits",
        "stopping": "runtime",
        "targets": "runtime",
        "tasks": "lanes batching",
    },
    "gateway": {
        "admission": "admission",
        "backends": "targets retries",
        "breakers": "breakers retries",
        "clients": "retries targets routes puts",
        "connections": "limits http1 drain",
        "http1": "http1 limits drain",
        "limits": "limits http1 http2",
        "parsing": "parsing http1",
        "retries": "retries targets",
        "saga": "saga routes",
        "streams": "http1 limits drain",
        "targets": "targets settings",
        "targets_file": "settings targets",
    },
    "orders": {
        "admission": "admission",
        "book": "domain storage relay",
        "database": "storage health files postgresql locked migrations",
        "domain": "domain storage rpc",
        "due": "relay relay_running damage storage postgresql",
        "heartbeat": "health",
        "lobby": "waiting",
        "prune": "prune retention",
        "pruner": "retention prune",
        "relay": "relay relay_running postgresql",
        "retention": "retention prune locked postgresql",
        "service": "storage rpc waiting relay",
        "statements": "storage plans postgresql",
        "storage": "storage damage locked pages relay",
        "turns": "files storage",
        "writer": "health storage locked postgresql",
    },
    "reservations": {
        "domain": "domain limits restocks",
        "janitor": "storage process",
        "prune": "prune",
        "revisions": "puts",
        "service": "storage rpc restocks puts",
        "storage": "storage damage restocks locked prune",
    },
    "loyalty": {
        "domain": "domain limits puts",
        "janitor": "storage process",
        "rules": "rules domain",
        "service": "storage rpc puts",
        "storage": "storage damage locked prune",
    },
}  # fmt: skip
"""By package: each module, and the tests that are most likely to notice a mutant of it. They run first.

Of files that stand in several services (scripts/rules), those of one service only.
"""

_REST = {
    "contracts": "batching lanes lists limits",
    "gateway": "saga breakers headers problems retries",
    "orders": "domain storage waiting",
    "reservations": "domain storage rpc",
    "loyalty": "domain rules storage rpc",
}
"""Of each package, the tests that run after that: those that are quick."""


@dataclass(frozen=True)
class Module:
    """A module, and what it is tested with; both below the root."""

    path: str
    tests: tuple[str, ...]


def _module(package: str, name: str, first: str) -> Module:
    folder = package if package == "contracts" else f"packages/{package}"
    tests = dict.fromkeys([*first.split(), *_REST[package].split()])
    return Module(
        f"{folder}/src/souk_{package}/{name}.py",
        tuple(f"{folder}/tests/test_{package}_{test}.py" for test in tests),
    )


CORE = {
    f"{package}/{name}": _module(package, name, first)
    for package, modules in _FIRST.items()
    for name, first in modules.items()
}
"""By package and name."""
