"""`python -m souk_… serve | migrate | health | prune`. Exit codes: 1 failed, 2 bad usage or settings, 143 SIGTERM.

`serve` exits with 0 if SIGTERM comes when it listens.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

from souk_contracts.stopping import stop_at_once

if __name__ == "__main__":
    stop_at_once()  # before all that takes time to load

import argparse
import gc
import logging
import os
import subprocess
import sys
import time

from . import SERVICE, __version__
from .domain import StorageUnavailable
from .environment import BadSetting, names, read
from .settings import Settings


def main() -> None:
    """Runs the command that the arguments name; imports what it needs, and no more."""
    parser = argparse.ArgumentParser(prog=f"souk_{SERVICE}")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="answer gRPC calls until SIGTERM").set_defaults(run=_serve)
    commands.add_parser("migrate", help="bring the database to this version's schema").set_defaults(run=_migrate)
    commands.add_parser("health", help="exit with 0 if the server is SERVING, else with 1").set_defaults(run=_health)
    old = "refused and cancelled orders" if SERVICE == "orders" else "expired holds"
    pruning = commands.add_parser("prune", help=f"delete old {old}; see docs/retention.md")
    pruning.set_defaults(run=_prune)
    pruning.add_argument(
        "--days", type=_days, default=30, metavar="N", help="delete what is at least N days old (%(default)s)"
    )
    pruning.add_argument("--dry-run", action="store_true", help="print how many would be deleted, and delete nothing")
    if SERVICE == "orders":  # nobody asks for what expired unused
        pruning.add_argument(
            "--archive", metavar="FILE", help="append each order to FILE as a line of JSON before deleting it"
        )
    arguments = parser.parse_args()
    try:
        settings = read(Settings, SERVICE)
        logging.Formatter.converter = time.gmtime  # images know no other time zone
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            datefmt="%Y-%m-%d %H:%M:%SZ",
        )
        arguments.run(settings, arguments)
    except BadSetting as error:
        parser.exit(2, f"souk_{SERVICE}: {error}\n")
    except StorageUnavailable as error:
        parser.exit(1, f"souk_{SERVICE}: the database cannot be used: {_reason(error)}\n")
    except RuntimeError as error:
        parser.exit(1, f"souk_{SERVICE}: {error}\n")


def _reason(error: BaseException) -> str:
    """What the driver says, which is at the end of the causes; in one line."""
    return " ".join(str(error).split())[:1000] if error.__cause__ is None else _reason(error.__cause__)


def _serve(settings: Settings, _: argparse.Namespace) -> None:
    gc.disable()  # all that is loaded now stays: to look through it again and again took up to a tenth of the start
    from souk_contracts.polling import prefer_pollers

    prefer_pollers()  # before anything loads gRPC
    import uvloop

    from souk_contracts.settings import without_effect

    from .app import serve
    from .database import Database, SchemaBehind
    from .storage import REVISION

    for sentence in without_effect(os.environ, SERVICE, names(Settings, SERVICE)):
        logging.getLogger(__package__).warning("%s", sentence)
    database = Database(settings.database_url)
    try:
        database.check_schema(REVISION, __version__)
    except SchemaBehind:
        if not database.embedded:
            raise
        # In a process of its own, so that this one never holds what migrations need.
        migrating = subprocess.run([sys.executable, "-m", f"souk_{SERVICE}", "migrate"], check=False)
        if migrating.returncode:
            sys.exit(migrating.returncode)  # it has said why
        database.check_schema(REVISION, __version__)
    gc.freeze()  # nor is it looked through later
    gc.set_threshold(50_000)
    gc.enable()
    uvloop.run(serve(settings, database))


def _migrate(settings: Settings, _: argparse.Namespace) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every plugin as soon as it is imported
    from .migrate import migrate

    migrate(settings.database_url)


def _health(settings: Settings, _: argparse.Namespace) -> None:
    from souk_contracts.probe import is_serving

    if not is_serving(settings.address):
        raise RuntimeError(f"no server is SERVING at {settings.address}")


def _prune(settings: Settings, options: argparse.Namespace) -> None:
    from .prune import prune

    prune(settings, options)


def _days(text: str) -> int:
    # Less than a day would not be safe; the upper limit keeps times in range.
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 36_500):
        raise argparse.ArgumentTypeError(f"'{text[:80]}' is not a whole number from 1 to 36500")
    return int(text)


if __name__ == "__main__":
    main()
