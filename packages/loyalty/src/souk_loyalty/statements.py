"""Statements that SQLAlchemy writes once for each kind of database, and the driver carries out.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    ClauseElement,
    Column,
    ColumnElement,
    Dialect,
    Select,
    String,
    Table,
    Text,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles

Row = Sequence[Any]


class Statement:
    """A statement with named parameters. Those that it gives values itself stay as they are."""

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause
        self._compiled: dict[str, tuple[str, dict[str, Any]]] = {}

    def compiled(self, dialect: Dialect) -> tuple[str, dict[str, Any]]:
        """Its text for a database, and the parameters that it gives values itself."""
        if dialect.name not in self._compiled:
            compiled = self._clause.compile(dialect=dialect)
            values = {name: value for name, value in compiled.params.items() if value is not None}
            self._compiled[dialect.name] = str(compiled), values
        return self._compiled[dialect.name]


class Change:
    """A change of any number of rows, each given by its columns: made by `inserting`, `updating` or `deleting`."""

    def __init__(self, columns: Sequence[Column[Any]], one: ClauseElement, many: ClauseElement) -> None:
        self.names = tuple(each.name for each in columns)
        self._one = one
        """Of one row, with a parameter for each column."""
        self.many = Statement(many)
        """Of all of them, with an array for each column."""
        self._by_position: tuple[str, Callable[[Mapping[str, object]], Row]] | None = None

    def by_position(self, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, object]], Row]]:
        """SQLite's text for a row, and what makes parameters of one: those with names take it twice as long."""
        if self._by_position is None:
            kind: Any = type(dialect)
            compiled: Any = self._one.compile(dialect=kind(paramstyle="qmark"))
            names = compiled.positiontup
            self._by_position = str(compiled), itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        return self._by_position


def inserting(table: Table, *, without: Collection[str] = ()) -> Change:
    """New rows, `without` the columns that the database fills in."""
    columns = [each for each in table.c if each.name not in without]
    one = insert(table).inline().values({each.name: bindparam(each.name) for each in columns})
    many = insert(table).inline().from_select([each.name for each in columns], select(*_given(columns).c))
    return Change(columns, one, many)


def updating(table: Table, names: Collection[str] = (), *, behind: Collection[str] = ()) -> Change:
    """Other values in rows that are found by their primary key: in the columns that are named, or else in all.

    What is given for the columns `behind` is put behind the text that is there.
    """
    keys = list(table.primary_key)
    values = [each for each in table.c if not each.primary_key and (not names or each.name in names)]
    given = _given([*keys, *values])

    def new(each: Column[Any], value: Any) -> Any:
        return each + value if each.name in behind else value

    one = update(table).values({each.name: new(each, bindparam(each.name)) for each in values})
    many = update(table).values({each.name: new(each, given.c[each.name]) for each in values})
    one, many = _found(one, many, keys, given)
    return Change([*keys, *values], one, many)


def deleting(table: Table) -> Change:
    """Rows that are to go, by their primary key."""
    keys = list(table.primary_key)
    given = _given(keys)
    one, many = _found(delete(table), delete(table), keys, given)
    return Change(keys, one, many)


def _found(one: Any, many: Any, keys: Sequence[Column[Any]], given: Any) -> tuple[Any, Any]:
    """Both for the rows with these keys."""
    first, *others = keys
    many = many.where(first == given.c[first.name])
    for key in others:
        # No index serves this comparison, so one that begins with this column is not taken for the key's.
        many = many.where(key.is_not_distinct_from(given.c[key.name]))
    for key in keys:
        one = one.where(key == bindparam(key.name))
    return one, many


def _given(columns: Sequence[Column[Any]]) -> Any:
    """The rows that a change is given, as a table."""
    # Text without its length: a cast would cut what is too long, and nobody would hear of it.
    types = [Text() if isinstance(each.type, String) else each.type for each in columns]
    arrays = [bindparam(each.name, type_=ARRAY(kind)) for each, kind in zip(columns, types, strict=True)]
    return func.unnest(*arrays).table_valued(*(column(each.name) for each in columns)).render_derived("given")


class Among(ColumnElement[Any]):
    """Whether a column of text is one of the parameter `keys`: in one statement, however many there are."""

    inherit_cache = True

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(Among)
def _any_of_an_array(element: Among, compiler: Any, **kw: Any) -> str:
    keys = compiler.process(bindparam("keys"), **kw)
    return f"{compiler.process(element.column, **kw)} = ANY(CAST({keys} AS TEXT[]))"


@compiles(Among, "sqlite")
def _in_a_json_array(element: Among, compiler: Any, **kw: Any) -> str:
    keys = compiler.process(bindparam("keys"), **kw)
    return f"{compiler.process(element.column, **kw)} IN (SELECT value FROM json_each({keys}))"  # noqa: S608 (names of columns)


class Lock:
    """Locks the rows of a query that have one of many keys. The key is a column of text, the first of the query.

    In the order of their keys, so that two processes never wait for each other.
    """

    def __init__(self, query: Select[Any], key: Column[Any]) -> None:
        among = query.where(Among(key)).order_by(key)
        self.waiting = Statement(among.with_for_update())
        self.passing = Statement(among.with_for_update(skip_locked=True))
        self.present = Statement(select(key).where(Among(key)))
        """Which of the keys there are rows for, locked or not."""


class Undecodable(str):
    """What stands in a column of text, and is none."""

    __slots__ = ()


def _text(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return Undecodable(stored.decode(errors="replace"))


class Session:
    """A transaction. What it gives and takes are the driver's values: JSON is text.

    A server plans each statement once for a connection, or `anew` each time. A session that `passes` over rows which
    others have locked does not wait for them.
    """

    def __init__(self, connection: Any, dialect: Dialect, *, anew: bool = False, passes: bool = False) -> None:
        self._passes = passes
        self._cursor = connection.cursor()
        self._dialect = dialect
        self._embedded = dialect.name == "sqlite"
        self._options = {"prepare": False} if anew and not self._embedded else {}
        self.has_changed = False
        """Whether it has carried out anything that changes rows."""

    def rows(self, statement: Statement, **parameters: object) -> list[Row]:
        """All rows of a query, or those that a change returns."""
        cursor = self._execute(statement, parameters)
        try:
            found: list[Row] = cursor.fetchall()
        except Exception as error:
            if not self._embedded or "decode" not in str(error):
                raise
            # SQLite keeps what is no text in columns of text, and its driver then reads no row of the query.
            cursor.connection.text_factory = _text
            found = self._execute(statement, parameters).fetchall()
            cursor.connection.text_factory = str
        return found

    def rows_among(self, statement: Statement, keys: Collection[str]) -> list[Row]:
        """All rows of a query with an Among."""
        if not keys:
            return []
        listed = list(keys)
        return self.rows(statement, keys=json.dumps(listed) if self._embedded else _array(listed))

    def lock(self, lock: Lock, keys: Collection[str]) -> tuple[list[Row], set[str]]:
        """The rows, locked; and the keys of those that were passed over, since another transaction has locked them."""
        if not self._passes:
            return self.rows_among(lock.waiting, keys), set()
        rows = self.rows_among(lock.passing, keys)
        lacking = set(keys).difference(row[0] for row in rows)
        return rows, {key for (key,) in self.rows_among(lock.present, lacking)}

    def run(self, statement: Statement, **parameters: object) -> None:
        """Carries out a change that gives no rows."""
        self.has_changed = True
        self._execute(statement, parameters)

    def change(self, change: Change, rows: Sequence[Mapping[str, object]]) -> None:
        """Carries out a change of these rows, which may hold more than it needs; nothing where there are none.

        A server gets all of them in one statement: a message to it, and its answer, cost more than a row. SQLite has
        no such way to go, and does best with a statement for each.
        """
        if not rows:
            return
        self.has_changed = True
        if self._embedded:
            text, parameters = change.by_position(self._dialect)
            self._cursor.executemany(text, map(parameters, rows))
        else:
            self._execute(change.many, {name: _array([row[name] for row in rows]) for name in change.names})

    def _execute(self, statement: Statement, parameters: Mapping[str, object]) -> Any:
        text, values = statement.compiled(self._dialect)
        return self._cursor.execute(text, {**values, **parameters} if values else parameters, **self._options)


def _array(values: Sequence[Any]) -> str:
    """As PostgreSQL reads an array of values of one type. Why not by psycopg: docs/adr/0004-postgresql.md."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Any) -> str:
    if isinstance(value, int):  # or a boolean
        return str(value)
    if value is None:
        return "NULL"
    text = rf"\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
