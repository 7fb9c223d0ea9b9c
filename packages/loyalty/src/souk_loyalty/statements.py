"""Statements that SQLAlchemy writes once for each kind of database, and the driver carries out.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Column, ColumnElement, Dialect, bindparam
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


class Among(ColumnElement[Any]):
    """Whether a column of text is one of the parameter `keys`: in one statement, however many there are."""

    inherit_cache = True

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(Among)
def _any_of_an_array(element: Among, compiler: Any, **kw: Any) -> str:
    return f"{compiler.process(element.column, **kw)} = ANY({compiler.process(bindparam('keys'), **kw)})"


@compiles(Among, "sqlite")
def _in_a_json_array(element: Among, compiler: Any, **kw: Any) -> str:
    keys = compiler.process(bindparam("keys"), **kw)
    return f"{compiler.process(element.column, **kw)} IN (SELECT value FROM json_each({keys}))"  # noqa: S608 (names of columns)


class Session:
    """A transaction. What it gives and takes are the driver's values: JSON is text."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self._cursor = connection.cursor()
        self._dialect = dialect

    def rows(self, statement: Statement, **parameters: object) -> list[Row]:
        """All rows of a query, or those that a change returns."""
        text, values = statement.compiled(self._dialect)
        found: list[Row] = self._cursor.execute(text, {**values, **parameters}).fetchall()
        return found

    def rows_among(self, statement: Statement, keys: Collection[str]) -> list[Row]:
        """All rows of a query with an Among."""
        if not keys:
            return []
        listed = list(keys)
        return self.rows(statement, keys=json.dumps(listed) if self._dialect.name == "sqlite" else listed)

    def change(self, statement: Statement, parameters: Sequence[Mapping[str, object]]) -> None:
        """Carries out a change for each set of parameters; nothing where there is none."""
        if parameters:
            text, values = statement.compiled(self._dialect)
            self._cursor.executemany(text, [{**values, **each} for each in parameters] if values else parameters)
