"""Whose turn it is to write a SQLite file that several processes share: an flock on a file beside it.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NotMyTurn(Exception):
    """The lock was not to be had; the text says why, for the log."""


class Turns:
    """The turns of a process. Its threads take turns, too, since an flock does not tell them apart."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._file = -1
        self._news = threading.Condition()
        self._is_waiting = False
        """Whether a thread waits for the lock."""
        self._is_wanted = False
        """Whether somebody waits for that thread."""
        self._failure: OSError | None = None

    @contextmanager
    def turn(self, wait_s: float) -> Iterator[None]:
        """Alone among all processes. Waits at most `wait_s`, since the process that has the lock may have stopped.

        Raises NotMyTurn.
        """
        if not self._writing.acquire(timeout=wait_s):
            raise NotMyTurn(f"another thread has been writing for more than {wait_s:g} s")
        try:
            try:
                self._lock(wait_s)
            except OSError as error:
                raise NotMyTurn(f"cannot lock {self._path}: {error.strerror}") from error
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._writing.release()

    def close(self) -> None:
        """For when nobody writes any more."""
        with self._news:
            if self._file >= 0 and not self._is_waiting:  # the thread that waits needs it
                os.close(self._file)
                self._file = -1

    def _lock(self, wait_s: float) -> None:
        with self._news:
            if not self._is_waiting:
                if self._file < 0:
                    # Others may be able to write in this folder: never through a link, and nothing is emptied.
                    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                    self._file = os.open(self._path, flags, 0o600)
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._is_waiting, self._failure = True, None
                    threading.Thread(target=self._wait, name="turn", daemon=True).start()
                else:
                    return
            self._is_wanted = True
            try:
                if not self._news.wait_for(lambda: not self._is_waiting, wait_s):
                    raise NotMyTurn(f"another process has kept the lock {self._path} for more than {wait_s:g} s")
            finally:
                self._is_wanted = False
            if self._failure is not None:
                raise self._failure

    def _wait(self) -> None:
        """Waits in line with other processes: by asking again and again, a process may never get its turn.

        Nothing can end this wait. So it goes on when whoever asked has given up, and the next one to ask joins it.
        """
        failure = None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            failure = error
        with self._news:
            if failure is None and not self._is_wanted:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._is_waiting, self._failure = False, failure
            self._news.notify()
