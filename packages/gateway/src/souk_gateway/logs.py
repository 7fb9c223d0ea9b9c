"""Logging for people: a line for each request, and lines with a level for everything else."""

import logging

_TIME = "%Y-%m-%d %H:%M:%S"


def configure(level: str) -> None:
    """Writes to standard error, from `level` on: debug, info, warning or error."""
    everything = logging.StreamHandler()
    everything.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", _TIME))
    logging.basicConfig(level=level.upper(), handlers=[everything])
    requests = logging.StreamHandler()
    requests.setFormatter(logging.Formatter("%(asctime)s %(message)s", _TIME))
    access = logging.getLogger("souk_gateway.access")
    access.addHandler(requests)
    access.propagate = False
    # It tells what the gateway's own lines tell.
    logging.getLogger("hypercorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
