"""Whether the database can be written: known by the last write, or else by a row that says nothing.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import os
import time
from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, bindparam, delete, insert, select

from .statements import Session, Statement

_FRESH_S = 1.0
"""For so long a write shows that the next one will do."""
_SHORT, _LONG = 16, 65_536
"""Bytes of a heartbeat. After a failed write it is as long as many orders: on a full disk, a short one may still find
a page that is free for reuse, or room at the end of a block."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 8.0

metadata = MetaData()

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("padding", LargeBinary, nullable=False),
)
"""One row, or one of each process that writes at the same time."""

_INSERT = Statement(
    insert(heartbeat).values(at_us=bindparam("now_us"), padding=bindparam("bytes")).returning(heartbeat.c.id)
)
# Past what another process deletes, so that nobody waits.
_older = select(heartbeat.c.id).where(heartbeat.c.id < bindparam("own")).with_for_update(skip_locked=True)
_DELETE_OLDER = Statement(delete(heartbeat).where(heartbeat.c.id.in_(_older)))


class Heartbeat:
    """What became of the writes so far. `monotonic` gives seconds.

    A heartbeat that succeeds shows less than a real write. So each time that real writes fail again after it, with
    none that succeeds in between, heartbeats count only after a longer pause. Otherwise health would say SERVING every
    other second while no order can be placed.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._is_failing = False
        self._fresh_until_s = -1.0
        self._pause_s = 0.0
        self._paused_until_s = -1.0

    def wrote(self) -> None:
        """Notes that a transaction which changed something is durable."""
        self._is_failing = False
        self._fresh_until_s = self._monotonic() + _FRESH_S
        self._pause_s, self._paused_until_s = 0.0, -1.0

    def failed(self) -> None:
        """Notes that a transaction failed, and that the database was the reason."""
        self._fresh_until_s = -1.0
        if not self._is_failing:
            self._is_failing = True
            self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            self._paused_until_s = self._monotonic() + self._pause_s

    def beat(self, session: Session, now_us: int) -> None:
        """Writes a row. Whoever commits says `was_beaten`, or `failed`."""
        padding = os.urandom(_LONG if self._is_failing else _SHORT)  # random, since PostgreSQL compresses
        ((own,),) = session.rows(_INSERT, now_us=now_us, bytes=padding)
        session.run(_DELETE_OLDER, own=own)

    def was_beaten(self) -> None:
        """Notes that a heartbeat is durable."""
        self._is_failing = False

    def is_fresh(self) -> bool:
        """Whether a real write succeeded so lately that no heartbeat is needed."""
        return self._monotonic() < self._fresh_until_s

    def is_well(self) -> bool:
        """Whether the last write succeeded, and heartbeats count."""
        return not self._is_failing and self._monotonic() >= self._paused_until_s
