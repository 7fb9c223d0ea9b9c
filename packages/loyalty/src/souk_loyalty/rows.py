"""Rows as the database gives them, read so that one that is damaged spoils none of the others.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import JSON, Boolean, Column

from .domain import Damaged
from .statements import Row

Entity = TypeVar("Entity")

log = logging.getLogger(__name__)

_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError)


class Reader(Generic[Entity]):
    """Makes entities of rows by `make(*values)`. `meanings` make of a column's value what it stands for.

    SQLite keeps any value in any column, and no database looks into JSON, so nothing is taken for granted.
    """

    def __init__(
        self,
        record: str,
        columns: Iterable[Column[Any]],
        make: Callable[..., Entity],
        **meanings: Callable[[Any], object],
    ) -> None:
        """`record` is what people call such a row."""
        columns = list(columns)
        self._record = record
        self._names = [column.name for column in columns]
        self._types = [_types(column) for column in columns]
        self._meanings = [(self._names.index(name), meaning) for name, meaning in meanings.items()]
        self._make = make
        self._sound: set[tuple[type, ...]] = set()
        """Types of rows that were looked at before."""

    def __call__(self, row: Row) -> Entity:
        """Raises Damaged, and logs it."""
        field = ""
        try:
            found = tuple(map(type, row))
            if found not in self._sound:
                for field, value, types in zip(self._names, row, self._types, strict=True):  # noqa: B007 (it is named below)
                    check_types([value], types)
                self._sound.add(found)
            values = list(row)
            for place, meaning in self._meanings:
                field = self._names[place]
                values[place] = meaning(values[place])
            field = ""
            return self._make(*values)
        except _UNREADABLE as error:
            raise damaged(self._record, row[0], field, error) from error

    def readable(self, rows: Iterable[Row]) -> list[Entity]:
        """Those that can be read."""
        return list(self.keyed(rows)[0].values())

    def keyed(self, rows: Iterable[Row]) -> tuple[dict[str, Entity], dict[str, Damaged]]:
        """By the first column: those that can be read, and what is wrong with the others."""
        entities, others = {}, {}
        for row in rows:
            try:
                entities[row[0]] = self(row)
            except Damaged as error:
                others[row[0]] = error
        return entities, others


def damaged(record: str, key: object, field: str, error: Exception) -> Damaged:
    """The error for a row, which the log tells with its cause."""
    made = Damaged(record, key if type(key) is str else repr(key), field)
    log.error("%s: %s: %s", made, type(error).__name__, str(error)[:200])
    return made


def check_types(values: Sequence[object], *wanted: type | Sequence[type]) -> None:
    """Raises TypeError, or ValueError where there are more values, or fewer."""
    for value, types in zip(values, wanted, strict=True):
        if type(value) not in (types if isinstance(types, Sequence) else (types,)):
            raise TypeError(f"a value of the type {type(value).__name__}")


def _types(column: Column[Any]) -> Sequence[type]:
    if isinstance(column.type, JSON):
        types: Sequence[type] = [str]  # it is read as text
    elif isinstance(column.type, Boolean):
        types = [bool, int]
    else:
        types = [column.type.python_type]
    return [*types, type(None)] if column.nullable else types
