"""The files of a SQLite database: who may read them, where they may be, and whose turn it is to write."""

import asyncio
import fcntl
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

import souk_orders
from souk_orders import database as database_module
from souk_orders import sqlite_file
from souk_orders.archive import Archive, CannotArchive
from souk_orders.database import Database
from souk_orders.domain import StorageUnavailable
from souk_orders.migrate import migrate
from souk_orders.sqlite_file import UnusablePlace
from souk_orders.statements import Statement
from souk_orders.storage import SqlStorage
from souk_orders.turns import Turns

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_elsewhere(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the lock until its input is closed."""
    arguments = [sys.executable, "-c", HOLDER, f"{database}.lock"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            yield holder
        finally:
            holder.kill()


def version(database: Database) -> None:
    """One write."""
    with database.write() as session:
        session.run(Statement(text("UPDATE alembic_version SET version_num = version_num")))


def test_a_process_that_keeps_the_lock_and_stops_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orders.db"
    migrate(f"sqlite:///{path}")
    with closing(Database(f"sqlite:///{path}")) as database:
        with locked_elsewhere(path) as holder:
            os.kill(holder.pid, signal.SIGSTOP)
            with monkeypatch.context() as patched:
                patched.setattr(database_module, "_TURN_S", 0.05)
                for _ in range(2):
                    with pytest.raises(StorageUnavailable):
                        version(database)
            assert f"another process has kept the lock {path}.lock" in caplog.text
        version(database)
    with closing(Database(f"sqlite:///{path}")) as other:
        version(other)


def test_a_write_waits_as_long_as_a_call_does() -> None:
    assert database_module._TURN_S == 5


def test_a_lock_that_comes_after_all_is_given_back_at_once(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    migrate(f"sqlite:///{path}")
    turns = Turns(f"{path}.lock")
    with locked_elsewhere(path) as holder:
        with pytest.raises(Exception, match="another process has kept the lock"), turns.turn(0.01):
            pass
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()
    with (path.parent / "orders.db.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # or this would wait for ever
    with turns.turn(0):
        pass
    turns.close()


async def test_a_service_stops_while_another_process_keeps_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.db"
    migrate(f"sqlite:///{path}")
    monkeypatch.setattr(database_module, "_TURN_S", 0.05)
    storage = SqlStorage(Database(f"sqlite:///{path}"))
    with locked_elsewhere(path):
        assert not await storage.answers()
        waiting = asyncio.ensure_future(storage.execute([]))
        await asyncio.to_thread(storage.close)
        with pytest.raises(StorageUnavailable):
            await waiting


def test_a_lock_file_that_is_a_link_is_refused_and_nothing_is_emptied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, precious = tmp_path / "orders.db", tmp_path / "precious"
    precious.write_text("precious")
    Path(f"{path}.lock").symlink_to(precious)
    with closing(Database(f"sqlite:///{path}")) as database, pytest.raises(StorageUnavailable), database.write():
        pass
    assert precious.read_text() == "precious"
    assert f"cannot lock {path}.lock: Too many levels of symbolic links" in caplog.text


def test_a_lock_file_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    Path(f"{path}.lock").write_text("by hand")
    migrate(f"sqlite:///{path}")
    assert Path(f"{path}.lock").read_text() == "by hand"


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_new_files_are_for_their_owner_alone_and_old_ones_keep_their_mode(tmp_path: Path) -> None:
    usual = os.umask(0o022)
    try:
        url = f"sqlite:///{tmp_path}/orders.db"
        migrate(url)
        with closing(Database(url)) as database, database.write() as session:
            session.run(Statement(text("UPDATE alembic_version SET version_num = version_num")))
            assert len(list(tmp_path.iterdir())) == 4  # with the log and the file for its readers
            assert modes(tmp_path) == {0o600}
        for file in tmp_path.iterdir():
            file.chmod(0o664)
        with closing(Database(url)) as database:
            version(database)
            assert modes(tmp_path) == {0o664}
    finally:
        os.umask(usual)


@pytest.mark.parametrize(
    ("command", "place", "why"),
    [
        ("serve", "/proc/orders.db", "No such file or directory"),
        ("migrate", "/no/such/folder/orders.db", "No such file or directory"),
        ("prune", "/etc/passwd/orders.db", "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_with_what_to_do(command: str, place: str, why: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "souk_orders", command],
        env={**os.environ, "SOUK_ORDERS_DATABASE_URL": f"sqlite:///{place}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == (
        f"souk_orders: cannot write the database {place} ({why}): the folder {Path(place).parent} must be there, and "
        f"the user with the id {os.geteuid()} must be able to write in it, and to write the files orders.db*; "
        "or set SOUK_ORDERS_DATABASE_URL to another place\n"
    )


def test_a_file_that_this_user_cannot_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "orders.db"
    sqlite_file.check_place(path)
    monkeypatch.setattr(os, "access", lambda place, _how: place != tmp_path)  # for root, all is writable
    with pytest.raises(UnusablePlace, match="Permission denied"):
        sqlite_file.check_place(path)


def test_it_can_be_installed_in_a_path_with_a_percent_sign(tmp_path: Path) -> None:
    installed = tmp_path / "100%s %(here)s"
    shutil.copytree(Path(souk_orders.__file__).parent, installed / "souk_orders")
    ended = subprocess.run(
        [sys.executable, "-m", "souk_orders", "migrate"],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed), "SOUK_ORDERS_DATABASE_URL": "sqlite:///orders.db"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert (installed / "orders.db").stat().st_size > 0


@pytest.mark.parametrize(
    ("blocks", "block_size", "pages"),
    [(10**9, 4096, 16_000), (32_768, 4096, 4096), (262_144, 512, 4096), (0, 4096, 16_000), (7, 4096, 16_000)],
)
def test_the_log_may_have_an_eighth_of_the_disk_and_64_mb(
    blocks: int, block_size: int, pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    fields = [block_size, block_size, blocks, *real[3:]]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    with closing(Database(f"sqlite:///{tmp_path}/orders.db")) as database:
        found = database.read(lambda session: session.rows(Statement(text("PRAGMA wal_autocheckpoint"))))
    assert found == [(pages,)]


def test_the_log_is_written_back_when_it_has_grown_to_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_LOG_PAGES", 20)
    url = f"sqlite:///{tmp_path}/orders.db"
    migrate(url)
    with closing(Database(url)) as database:
        for _ in range(200):
            version(database)
        assert (tmp_path / "orders.db-wal").stat().st_size < 60 * 4200


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may have more bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_an_archive_that_a_full_disk_cut_has_whole_lines_only_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    archive = Archive(path)
    archive.append([{"order_id": "first"}])
    batch = [{"order_id": f"{n}", "note": "x" * 40_000} for n in range(5)]
    whole = path.read_bytes()
    for room in (len(whole) + 1, 50_000, 100_000, 150_000):
        with pytest.raises(CannotArchive, match="File too large"), room_for(room):
            archive.append(batch)
        assert path.read_bytes() == whole
    archive.append(batch[:1])
    archive.close()
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
