"""What a service's process runs in the fault tests: `python -m souk_<name> serve`, without the wait for imports.

The fork server has imported everything before; so a service that is killed is there again in a tenth of a second, and
one can be killed every few hundred milliseconds. Nothing but the standard library is imported here.
"""

import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing import get_context

PRELOADED = [
    "tests.faults.forked",
    "uvloop",
    "psycopg",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.postgresql.psycopg",
    *(f"souk_{name}.{module}" for name in ("orders", "reservations", "loyalty", "gateway") for module in ("app",)),
]

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


def serve(name: str, environment: Mapping[str, str], folder: str, log: str) -> None:
    """Becomes the service."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [f"souk_{name}", "serve"]
    runpy.run_module(f"souk_{name}", run_name="__main__", alter_sys=True)
