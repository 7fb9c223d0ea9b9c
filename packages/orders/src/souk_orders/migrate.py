"""Brings the database to the newest migration.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config

from .database import Database

log = logging.getLogger(__name__)


def migrate(url: str) -> None:
    """Runs the migrations that the database has not seen; several may try at once. Raises StorageUnavailable."""
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    database.close()
    log.info("the database is up to date")
