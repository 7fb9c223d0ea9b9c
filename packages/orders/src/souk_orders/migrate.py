"""Brings the database to the newest migration.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import logging
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config

from . import __version__
from .database import Database, SchemaBehind
from .storage import REVISION

log = logging.getLogger(__name__)

_ALONE = (
    "SET LOCAL statement_timeout = 0",  # neither a migration nor the wait for another's is over soon
    "SELECT pg_advisory_xact_lock(1936684395)",  # "souk" in ASCII; of this database, until the transaction ends
)


def migrate(url: str) -> None:
    """Runs the migrations that the database has not seen; several may try at once.

    A database that a newer version has migrated is left alone. Raises StorageUnavailable, UnusablePlace, and
    SchemaMismatch where that version does not let this one work on it.
    """
    with closing(Database(url)) as database:
        database.check_place()
        with database.begin() as connection:
            for statement in () if database.embedded else _ALONE:
                connection.exec_driver_sql(statement)
            try:
                database.check_schema(REVISION, __version__, connection)
            except SchemaBehind:
                folder = str(Path(__file__).parent / "migrations")
                config = Config()
                config.set_main_option("script_location", folder.replace("%", "%%"))  # % begins a variable there
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    log.info("the database has the schema of version %s, or a newer one that it can work with", __version__)
