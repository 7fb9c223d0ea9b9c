"""The service's database: how it is opened, locked and checked before it is used.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL, Connection, NullPool, PoolProxiedConnection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from . import SERVICE, sqlite_file
from .domain import DomainError, StorageUnavailable
from .environment import BadSetting
from .statements import Session
from .turns import NotMyTurn, Turns

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_TURN_S = 5.0
"""For so long a write waits for other processes: as long as a statement may take on PostgreSQL."""
_MIGRATION_TURN_S = 60.0

_POSTGRESQL: dict[str, object] = {
    "application_name": f"souk-{SERVICE}",
    "client_encoding": "utf8",  # also where the server was set up without an encoding
    "target_session_attrs": "read-write",  # of several hosts, the one that is the primary
    # A host that is gone says nothing. These are seconds, and for the second milliseconds.
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
"""What libpq is told, unless the URL says otherwise."""

_POSTGRESQL_SESSION = (
    "SET statement_timeout = '5s'",  # as long as the gateway waits for anyone
    "SET lock_timeout = '50ms'",  # longer than another process's transaction takes; see writer.py
    "SET idle_in_transaction_session_timeout = '5s'",  # a process that has stopped lets go of the rows it has locked
    # What writes is planned once for a connection, and every statement has an index to go by. So no plan may rest on
    # how few rows there were when it was made: on an empty table, reading all of it or joining by a hash looks best.
    # What reads is planned each time, since several indexes may serve a page.
    "SET plan_cache_mode = force_generic_plan",
    *(f"SET enable_{way} = off" for way in ("seqscan", "hashjoin", "mergejoin")),
)

_CONFLICTS = frozenset({"23505", "40001", "40P01"})
"""PostgreSQL's unique_violation, serialization_failure and deadlock_detected."""

_MOVED = ("08", "25006", "57P")
"""How the SQLSTATEs begin that end a session, without a change: connection_exception, read_only_sql_transaction (the
server is no longer the primary), and admin_shutdown and its like. A new session may find a server that can write."""

_HARMLESS = ("22", "23", "40", "42", "53", "54", "55", "57014")
"""How those begin that a statement has to itself: the session is as good as before. After any other it is given up."""

_NO_RIGHTS = "42501"
"""Its insufficient_privilege: whoever runs the database has to grant something, such as after a restore."""

_LOCKED = "55P03"
"""Its lock_not_available: the lock's time-out is over."""


class Conflict(StorageUnavailable):
    """Another process changed the same rows at the same time, or the connection was lost before the commit.

    Nothing was changed here. Another attempt sees the other process's changes.
    """


class Locked(Conflict):
    """Another process keeps something locked that the transaction needs. Nothing was changed here."""


class SchemaMismatch(RuntimeError):
    """This version of the service cannot work on this database; the text says what to do."""


class SchemaBehind(SchemaMismatch):
    """The database lacks migrations that this version of the service needs."""


class Pooled(RuntimeError):
    """There is a pooler between this process and PostgreSQL; the text says what to do."""


class Database:
    """A database by URL: `sqlite:////data/orders.db`, or `postgresql://user:password@host/orders`. Raises BadSetting.

    Several processes may share a SQLite file (WAL, synchronous=FULL). Their writers take turns by an flock on a file
    beside it, since SQLite's own busy handler lets one of them starve. On PostgreSQL they lock the rows that they are
    about (READ COMMITTED; what only reads, REPEATABLE READ). Connections are kept from one transaction to the next.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.embedded = parsed.get_backend_name() == "sqlite"
        if self.embedded:
            self.engine = create_engine(parsed, poolclass=NullPool, paramstyle="named")
            self._path = Path(parsed.database or "")
            self._turns = Turns(f"{parsed.database}.lock")
            event.listen(self.engine, "do_connect", lambda *_: sqlite_file.make(self._path))
            event.listen(self.engine, "connect", sqlite_file.configure)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            connect = {name: value for name, value in _POSTGRESQL.items() if name not in parsed.query}
            connect["prepare_threshold"] = _prepare_threshold(parsed)
            pools_sessions = parsed.query.get("pooler") == "session"
            parsed = parsed.difference_update_query(["prepare_threshold", "pooler"])  # which are not libpq's
            self.engine = create_engine(
                parsed, connect_args=connect, isolation_level="READ COMMITTED", poolclass=NullPool
            )
            if not pools_sessions:
                event.listen(self.engine, "connect", _refuse_pooler)
            event.listen(self.engine, "connect", _configure_postgresql)
            logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what it raises as well
        self._driver = self.engine.dialect.loaded_dbapi
        self._kept: list[PoolProxiedConnection] = []

    @contextmanager
    def write(self, *, passes: bool = False) -> Iterator[Session]:
        """One transaction; committed at the end, rolled back if anything is raised.

        On SQLite it is alone among all processes; on PostgreSQL it has to lock what it is about to change. Its session
        waits for rows that others have locked, or passes over them. Raises StorageUnavailable; where that is no
        Conflict, the commit may have been carried out, its answer lost.
        """
        with self._turn(_TURN_S), self._transaction(passes=passes) as session:
            yield session

    def read(self, query: Callable[[Session], Result]) -> Result:
        """What the query gives; all of its statements see the same state of the database. Raises StorageUnavailable."""
        try:
            with self._transaction(reads=True) as session:
                return query(session)
        except Conflict:  # the server was restarted, and took the connections that were kept with it
            with self._transaction(reads=True) as session:
                return query(session)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction as `write` makes it, on SQLAlchemy's own connection: for migrations."""
        with self._turn(_MIGRATION_TURN_S), self._translated():
            connection = self.engine.connect().execution_options(souk_writes=True)
            with connection, connection.begin():
                if not self.embedded:
                    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                yield connection

    def check_place(self) -> None:
        """Raises UnusablePlace where a SQLite file cannot be made or written."""
        if self.embedded:
            sqlite_file.check_place(self._path)

    def check_schema(self, revision: str, version: str, connection: Connection | None = None) -> None:
        """Raises SchemaMismatch unless a service of `version`, made for `revision`, can work on this database.

        A migration writes down the oldest version that still works with what it makes, so a schema that is newer
        than the service is no obstacle by itself. A `connection` is used where there is one, and what it has locked.
        Raises UnusablePlace.
        """
        if connection is None:
            self.check_place()
        with self._translated(), self.engine.connect() if connection is None else nullcontext(connection) as connection:
            if not self.engine.dialect.has_table(connection, "schema_support"):
                raise SchemaBehind("the database is empty; run the `migrate` command first")
            query = text("SELECT service, revision, oldest_version FROM schema_support")
            found = connection.execute(query).one_or_none()
        if found is None or found.service != SERVICE:
            whose = (
                f"belongs to {found.service}" if found else "belongs to no service (its table schema_support is empty)"
            )
            raise SchemaMismatch(
                f"the database {whose}; set SOUK_{SERVICE.upper()}_DATABASE_URL to one for {SERVICE} alone"
            )
        if found.revision < revision:
            raise SchemaBehind(
                f"the database is at migration {found.revision}, but version {version} needs {revision}; "
                "run the `migrate` command of this version first"
            )
        if _numbers(version) < _numbers(found.oldest_version):
            raise SchemaMismatch(
                f"the database is at migration {found.revision}, which version {version} is too old for; "
                f"run version {found.oldest_version} or later"
            )

    def close(self) -> None:
        """Closes all connections."""
        self._close_kept()
        if self.embedded:
            self._turns.close()

    def _close_kept(self) -> None:
        while self._kept:
            self._kept.pop().invalidate()

    @contextmanager
    def _transaction(self, *, reads: bool = False, passes: bool = False) -> Iterator[Session]:
        """On a connection that was kept, or a new one. Raises StorageUnavailable."""
        with self._translated():
            try:
                proxy = self._kept.pop()
            except IndexError:
                proxy = self.engine.raw_connection()
        connection: Any = proxy.driver_connection
        committing = False
        try:
            if self.embedded:
                connection.execute("BEGIN" if reads else "BEGIN IMMEDIATE")
            else:
                self._set_isolation(connection, reads=reads)
            yield Session(connection, self.engine.dialect, anew=reads, passes=passes)
            committing = True
            connection.commit()
        except DomainError:
            self._roll_back(proxy, keep=True)
            raise
        except self._driver.Error as error:
            state = getattr(error, "sqlstate", None) or ""
            is_lost = not self.embedded and (connection.closed or state.startswith(_MOVED))
            # Another try opens the file anew.
            self._roll_back(proxy, keep=not self.embedded and not is_lost and state.startswith(_HARMLESS))
            if is_lost:
                self._close_kept()  # they are as old
                if not committing:
                    raise Conflict from error
            self._raise(error)
        except BaseException:  # what nobody foresaw
            self._roll_back(proxy, keep=False)
            raise
        else:
            self._kept.append(proxy)

    def _set_isolation(self, connection: Any, *, reads: bool) -> None:
        # What psycopg will begin its next transaction with.
        levels = self._driver.IsolationLevel
        level = levels.REPEATABLE_READ if reads else levels.READ_COMMITTED
        if connection.isolation_level != level:
            connection.isolation_level = level

    def _roll_back(self, proxy: PoolProxiedConnection, *, keep: bool) -> None:
        # Also where it is closed next: as long as anyone knows a cursor of it, SQLite would keep its lock.
        connection: Any = proxy.driver_connection
        try:
            connection.rollback()
        except self._driver.Error:
            keep = False
        if keep:
            self._kept.append(proxy)
        else:
            proxy.invalidate()

    @contextmanager
    def _turn(self, wait_s: float) -> Iterator[None]:
        if not self.embedded:
            yield
            return
        try:
            with self._turns.turn(wait_s):
                yield
        except NotMyTurn as error:
            log.warning("the database cannot be written: %s", error)
            raise StorageUnavailable from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """For connecting, and for what goes by SQLAlchemy's own connections."""
        try:
            yield
        except DBAPIError as error:
            self._raise(error.orig or error)
        except self._driver.Error as error:
            self._raise(error)

    def _raise(self, error: BaseException) -> NoReturn:
        state = getattr(error, "sqlstate", None)
        if state == _LOCKED:
            raise Locked from error
        if state in _CONFLICTS:
            raise Conflict from error
        if state == _NO_RIGHTS:
            log.warning("the database refuses: %s", " ".join(str(error).split())[:1000])
            raise StorageUnavailable from error
        driver = self._driver
        ours = (driver.IntegrityError, driver.DataError, driver.ProgrammingError, driver.NotSupportedError)
        if isinstance(error, ours):  # a defect of ours, not an outage
            raise error
        # A full disk, a lost connection, a file that is not a database, a wrong password: only the log says which.
        log.warning("the database does not answer: %s", " ".join(str(error).split())[:1000])
        raise StorageUnavailable from error


def _parsed(url: str) -> URL:
    """The URL with the name of its driver; only the named driver is loaded."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # of which the latter is for a port
        backend = ""
    else:
        backend = parsed.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    # Not one in memory, which no other connection would see.
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    # Not the URL itself: it may hold a password.
    raise BadSetting(
        f"SOUK_{SERVICE.upper()}_DATABASE_URL must be sqlite:///path or postgresql://user:password@host/database"
    )


def _prepare_threshold(url: URL) -> int | None:
    """After how many times a statement is prepared, None for never. Raises BadSetting."""
    text = url.query.get("prepare_threshold", "0")  # the first time
    if text == "none":
        return None
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10):
        raise BadSetting(
            f"prepare_threshold in SOUK_{SERVICE.upper()}_DATABASE_URL must be a whole number, or none for never"
        )
    return int(text)


def _refuse_pooler(connection: Any, _record: object) -> None:
    # One that pools by transaction mixes the sessions of its clients: their settings, prepared statements and locks.
    ((backend,),) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchall()
    connection.rollback()
    if backend != connection.info.backend_pid:
        raise Pooled(
            f"SOUK_{SERVICE.upper()}_DATABASE_URL names a pooler, such as pgbouncer, not PostgreSQL itself. A process "
            "needs three connections at most, so connect it directly; or, if the pooler pools by session (not by "
            "transaction or statement), say so by adding pooler=session to the URL"
        )


def _configure_postgresql(connection: Any, _record: object) -> None:
    from psycopg.types.numeric import Int8Dumper

    connection.adapters.register_dumper(int, Int8Dumper)  # by size, a statement would be another one for larger numbers
    for statement in _POSTGRESQL_SESSION:
        connection.execute(statement)
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that writes takes the lock at once: upgraded later it could find its snapshot outdated.
    writes = connection.get_execution_options().get("souk_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
