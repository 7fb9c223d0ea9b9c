"""Where orders are written to before they are deleted: a file with a line of JSON for each."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path


class CannotArchive(RuntimeError):
    """The file cannot be written; the text is a sentence that says why."""


class Archive:
    """Appends to a file, and keeps others from appending meanwhile.

    If an earlier run was killed amid a line, that line is cut off: its order was not deleted, and comes again.
    Every method raises CannotArchive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Unbuffered: of what could not be written, nothing stays behind to be written later.
            self._file = FileIO(path, "a+", opener=_open_private)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file.truncate(self._end_of_last_line())
                _sync(path.absolute().parent)  # the file may be new
            except BaseException:
                self._file.close()
                raise
        except BlockingIOError:
            raise CannotArchive(
                f"another prune is writing to {path}; wait until it ends, or name another file"
            ) from None
        except OSError as error:
            raise self._cannot(error) from error

    def append(self, records: Sequence[Mapping[str, object]]) -> None:
        """Returns once they are on the disk; where it raises, none of them is in the file."""
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        try:
            end = self._file.seek(0, os.SEEK_END)
            try:
                left = memoryview(lines.encode())
                while left:  # a full disk takes a part of it before it refuses the rest
                    left = left[self._file.write(left) :]
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file.fileno(), end)
                raise
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Lets others write to it."""
        self._file.close()

    def _end_of_last_line(self) -> int:
        with self._path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65_536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                end = start
        return 0

    def _cannot(self, error: OSError) -> CannotArchive:
        return CannotArchive(
            f"cannot write to {self._path}: {error.strerror or error}; no order was deleted that is not in it"
        )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # orders name their customers


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
