"""The databases, opened so that nothing can be written: one snapshot at a time, of one moment each."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    ColumnClause,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    NullPool,
    String,
    case,
    column,
    create_engine,
    event,
    func,
    inspect,
    literal_column,
    make_url,
    select,
    table,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.types import TypeEngine

from auditor.findings import Code, Finding
from auditor.rows import KEYS, TABLES, TIERS

NAMES = ("orders", "reservations", "loyalty")


class Unreadable(Exception):
    """A database cannot be read; the text is a sentence that says which and why."""


def urls(data: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where the databases are: in the folder `data`; where none is given, as the services and `up` would say."""
    folder = (data or Path(environment.get("SOUK_DATA") or "data")).absolute()
    found = {}
    for name in NAMES:
        set_url = environment.get(f"SOUK_{name.upper()}_DATABASE_URL")
        found[name] = set_url if set_url and data is None else f"sqlite:///{folder / name}.db"
    return found


class Database:
    """One of the three, by URL. Raises Unreadable."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        try:
            self._engine = _engine(make_url(url))
        except ArgumentError:
            # Not the URL itself, which may hold a password.
            raise Unreadable(f"SOUK_{name.upper()}_DATABASE_URL is not a database URL.") from None
        except ImportError as error:
            raise Unreadable(f"The {name} database needs the module '{error.name}', which is not installed.") from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees the database as it is now, however long it reads. Raises Unreadable."""
        try:
            with self._engine.connect() as connection, connection.begin():
                first = next(iter(TABLES[self.name]))
                # Databases take a snapshot at the first read, not when a transaction begins.
                connection.execute(select(literal_column("1")).select_from(table(first)).limit(1)).all()
                yield connection
        except SQLAlchemyError as error:
            why = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".?")
            raise Unreadable(f"The {self.name} database ({self._place()}) cannot be read: {why}.") from error

    def lacks_log(self) -> bool:
        """Whether it is a SQLite file that needs a write-ahead log beside it while it is in use, and has none.

        It is whole if it was closed. If it was copied while it was open, what the log had is missing.
        """
        url = self._engine.url
        if url.get_backend_name() != "sqlite" or Path(f"{url.database}-wal").exists():
            return False
        try:
            with Path(str(url.database)).open("rb") as file:
                return file.read(20)[18:] == b"\2\2"
        except OSError:  # which will be told when it is read
            return False

    def check_tables(self) -> None:
        """Raises Unreadable where a table or a column is missing."""
        with self.snapshot() as connection:
            inspector = inspect(connection)
            for name, wanted in TABLES[self.name].items():
                if not inspector.has_table(name):
                    raise Unreadable(
                        f"The {self.name} database ({self._place()}) has no table {name}; run `migrate` on it first."
                    )
                missing = {*wanted} - {found["name"] for found in inspector.get_columns(name)}
                if missing:
                    columns = ", ".join(f"{name}.{each}" for each in sorted(missing))
                    raise Unreadable(
                        f"The {self.name} database has no {columns}; use the audit of the version that migrated it."
                    )

    def _place(self) -> str:
        url = self._engine.url
        return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def key_findings(name: str, connection: Connection) -> Iterator[Finding]:
    """Keys that the schema does not have, and what stands there twice because of it."""
    inspector = inspect(connection)
    for table_name, key in KEYS[name].items():
        keys = [inspector.get_pk_constraint(table_name)["constrained_columns"]]
        keys += [each["column_names"] for each in inspector.get_unique_constraints(table_name)]
        keys += [
            [each or "" for each in index["column_names"]]
            for index in inspector.get_indexes(table_name)
            if index["unique"] and not any(option.endswith("_where") for option in index.get("dialect_options", {}))
        ]
        if any(each and {*each} <= {*key} for each in keys):
            continue
        yield Finding(Code.KEY_MISSING, f"{name}.{table_name}", f"no key makes ({', '.join(key)}) unique")
        columns: list[ColumnClause[Any]] = [column(each) for each in key]
        repeated = select(*columns, func.count()).select_from(table(table_name)).group_by(*columns)
        for *found, count in connection.execute(repeated.having(func.count() > 1).order_by(*columns)):
            yield Finding(Code.DUPLICATE_ID, found[0], f"{count} rows of {name}.{table_name} are {_text(found)}")


_STORAGES: dict[type[TypeEngine[Any]], str] = {
    Integer: "integer",
    Boolean: "integer",
    LargeBinary: "blob",
    String: "text",
    JSON: "text",
}
"""How SQLite stores the values of a column."""


def damaged_rows(name: str, connection: Connection) -> Iterator[tuple[str, Finding]]:
    """Tables, and their rows with a value that its column is not made for.

    PostgreSQL keeps no such value. SQLite keeps any, so that a file that was edited by hand may have some.
    """
    if connection.dialect.name != "sqlite":
        return
    for table_name, key in KEYS[name].items():
        first: ColumnClause[Any] = column(key[0])
        wrong: list[tuple[ColumnElement[bool], str]] = []
        for each in inspect(connection).get_columns(table_name):
            value: ColumnClause[Any] = column(each["name"])
            if each["name"] == "lines":  # which is read anyway
                continue
            sound = next((storage for types, storage in _STORAGES.items() if isinstance(each["type"], types)), None)
            if sound:  # a table that somebody made anew may have other types
                wrong.append((func.typeof(value).not_in([sound, "null"]), each["name"]))
            if isinstance(each["type"], JSON):
                wrong.append((value.is_not(None) & (func.json_valid(value) == 0), each["name"]))
        found = select(first, case(*wrong, else_=None).label("field")).select_from(table(table_name)).subquery()
        for row in connection.execute(select(found).where(found.c.field.is_not(None)).order_by(found.c[0])):
            figures = f"{row[1]} of its row in {name}.{table_name} cannot be read"
            yield table_name, Finding(Code.ROW_DAMAGED, str(row[0]), figures)


def unknown_tiers(loyalty: Connection) -> Iterator[Finding]:
    """Accounts of a tier that this audit does not know."""
    accounts = table("accounts", column("customer_id"), column("tier"))
    for row in loyalty.execute(select(accounts).where(accounts.c.tier.not_in(TIERS)).order_by(accounts.c.customer_id)):
        yield Finding(Code.STATE_UNKNOWN, row[0], f"the account's tier is '{row[1]}'")


def _text(key: Sequence[Any]) -> str:
    return ", ".join(map(str, key))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        if url.get_backend_name() in ("postgresql", "postgres"):
            # As the services do; two of their settings are not libpq's.
            url = url.set(drivername="postgresql+psycopg").difference_update_query(["prepare_threshold", "pooler"])
        engine = create_engine(url, isolation_level="REPEATABLE READ", poolclass=NullPool)
        return engine.execution_options(postgresql_readonly=True)
    path = Path(url.database or "").absolute()
    engine = create_engine(f"sqlite:///{path}", creator=lambda: _open_file(path), poolclass=NullPool)
    # sqlite3 would begin no transaction for a SELECT.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _open_file(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").close()
    except sqlite3.OperationalError:
        connection.close()
        # On read-only storage the files beside a database cannot be made. Where there is no log, nothing writes.
        if not path.is_file() or Path(f"{path}-wal").exists():
            raise
        connection = _connect(path, "mode=ro&immutable=1")
    # Rows are read in the order of a key, not of the file: let the system's cache serve that without copies.
    connection.execute("PRAGMA mmap_size=8589934592").close()
    connection.execute("PRAGMA busy_timeout=5000").close()
    return connection


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?{options}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
