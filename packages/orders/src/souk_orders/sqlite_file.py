"""A SQLite file: where it may be, who may read it, and what its connections are told.

The same file stands in every service that has a database; see docs/adr/0003-one-writer.md.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import SERVICE

_SQLITE = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "cache_size=-8000",  # in KiB, for a connection
    "foreign_keys=ON",
    "busy_timeout=5000",
)

_PAGE = 4096
_LOG_PAGES = 16000
"""At which SQLite's log is written back into the file. All wait meanwhile, but a page that is in it many times is
written once, and pages that lie apart are written the faster the more of them there are."""
_LOG_SHARE = 8
"""The log may have one part in so many of the disk: it must not fill a small one."""


class UnusablePlace(RuntimeError):
    """A SQLite file cannot be made, or written, where it is to be; the text says what to do."""


def check_place(path: Path) -> None:
    """Makes the file where there is none. Raises UnusablePlace."""
    folder = path.absolute().parent
    if str(path).startswith("file:"):  # a URI, which SQLite understands
        return
    try:
        _make(path)
        for place in (path, folder):
            if not os.access(place, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UnusablePlace(
            f"cannot write the database {path} ({error.strerror}): the folder {folder} must be there, and the user "
            f"with the id {os.geteuid()} must be able to write in it, and to write the files {path.name}*; "
            f"or set SOUK_{SERVICE.upper()}_DATABASE_URL to another place"
        ) from error


def make(path: Path) -> None:
    """Before a connection would make the file: it is for nobody but its owner, as are those that SQLite puts beside it.

    A file that is there keeps its mode. What is wrong with the place, SQLite will say.
    """
    with suppress(OSError):
        _make(path)


def _make(path: Path) -> None:
    if str(path).startswith("file:"):  # a URI, which SQLite understands
        return
    # A file that is there is not opened: to close it would drop the locks that SQLite has on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def configure(connection: Any, _record: object) -> None:
    """What a new connection is told."""
    connection.isolation_level = None  # sqlite3 begins no transactions of its own; `Database` does
    for pragma in _SQLITE:
        connection.execute(f"PRAGMA {pragma}").close()
    ((_, _, path),) = connection.execute("PRAGMA database_list")
    connection.execute(f"PRAGMA wal_autocheckpoint={_log_pages(path)}").close()


def _log_pages(path: str) -> int:
    try:
        disk = os.statvfs(path)
    except OSError:  # what is wrong, SQLite will say
        return _LOG_PAGES
    share = disk.f_blocks * disk.f_frsize // _LOG_SHARE // _PAGE
    return min(_LOG_PAGES, share or _LOG_PAGES)  # where there is no limit, a file system may say 0
