"""The service's database: how it is opened, locked and checked before it is used.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from .domain import StorageUnavailable


class SchemaMismatch(Exception):
    """This version of the service cannot work on this database; the text says what to do."""


class SchemaBehind(SchemaMismatch):
    """The database lacks migrations that this version of the service needs."""


class Database:
    """A database by URL: `sqlite:////data/orders.db` (WAL, synchronous=FULL).

    Several processes may share a SQLite file. Their writers take turns by an flock on a file beside it, since
    SQLite's own busy handler lets one of them starve.
    """

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.embedded = self.engine.dialect.name == "sqlite"
        if self.embedded:
            self._lock_path = Path(f"{self.engine.url.database}.lock")
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, alone among all processes; committed at the end, rolled back if anything is raised.

        Raises StorageUnavailable.
        """
        with _translated(), self._turn():
            connection = self.engine.connect().execution_options(souk_writes=True)
            with connection, connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database. Raises StorageUnavailable."""
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    def check_schema(self, revision: str, version: str) -> None:
        """Raises SchemaMismatch unless a service of `version`, made for `revision`, can work on this database.

        A migration writes down the oldest version that still works with what it makes, so a schema that is newer
        than the service is no obstacle by itself.
        """
        with self.read() as connection:
            if not self.engine.dialect.has_table(connection, "schema_support"):
                raise SchemaBehind("the database is empty; run the `migrate` command first")
            found = connection.execute(text("SELECT revision, oldest_version FROM schema_support")).one()
        if found.revision < revision:
            raise SchemaBehind(
                f"the database is at migration {found.revision} and version {version} needs {revision}; "
                "run the `migrate` command of this version first"
            )
        if _numbers(version) < _numbers(found.oldest_version):
            raise SchemaMismatch(
                f"the database is at migration {found.revision}, which version {version} cannot work with; "
                f"run version {found.oldest_version} or later"
            )

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.embedded:
            yield
            return
        try:
            file = self._lock_path.open("w")
        except OSError as error:
            raise StorageUnavailable from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file lets go of it
            yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, DataError, ProgrammingError, NotSupportedError):  # our own mistake
        raise
    except DBAPIError as error:  # a full disk, a lost connection, a file that is no database
        raise StorageUnavailable from error


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 begins no transactions of its own; _begin_sqlite does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that writes takes the lock at once: upgraded later it could find its snapshot outdated.
    writes = connection.get_execution_options().get("souk_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
