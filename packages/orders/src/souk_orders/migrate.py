"""Brings the database to the newest migration.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config

from .database import Database

log = logging.getLogger(__name__)

_ALONE = (
    "SET LOCAL statement_timeout = 0",  # neither a migration nor the wait for another's is over soon
    "SELECT pg_advisory_xact_lock(1936684395)",  # "souk" in ASCII; of this database, until the transaction ends
)


def migrate(url: str) -> None:
    """Runs the migrations that the database has not seen; several may try at once. Raises StorageUnavailable."""
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.write() as connection:
        for statement in () if database.embedded else _ALONE:
            connection.exec_driver_sql(statement)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    database.close()
    log.info("the database is up to date")
