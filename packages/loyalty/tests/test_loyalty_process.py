"""`python -m souk_loyalty`, as people and containers run it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from souk_loyalty.app import serve
from souk_loyalty.database import Database
from souk_loyalty.janitor import Janitor
from souk_loyalty.migrate import migrate
from souk_loyalty.settings import Settings


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "SOUK_LOYALTY_DATABASE_URL": f"sqlite:///{tmp_path}/loyalty.db"}


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "souk_loyalty", "serve"],
        env={**environment, "SOUK_LOYALTY_ADDRESS": "127.0.0.1:0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if "listens on port" in line:
                yield process, f"127.0.0.1:{line.split()[-1]}"
                break
        else:
            pytest.fail("the service ended before it listened")
        process.kill()
        process.wait()


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "souk_loyalty", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_serves_until_sigterm_and_its_health_says_so(
    server: tuple[subprocess.Popen[str], str], environment: dict[str, str]
) -> None:
    process, address = server
    probe = {**environment, "SOUK_LOYALTY_ADDRESS": address}
    assert run("health", probe).returncode == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    after = run("health", probe)
    assert (after.returncode, after.stderr) == (1, f"souk_loyalty: no server is SERVING at {address}\n")


def test_migrate_may_be_run_again(environment: dict[str, str]) -> None:
    for _ in range(2):
        assert run("migrate", environment).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SOUK_HOLD_TTL_S", "soon", "SOUK_HOLD_TTL_S is 'soon'; it must be a number"),
        ("SOUK_LOYALTY_HOLD_TTL_S", "0", "is '0.0'; it must be seconds, above 0 and at most 86400"),
        ("SOUK_LOYALTY_ADDRESS", "127.0.0.1:99999", "it must be host:port, such as 127.0.0.1:50051"),
        ("SOUK_LOG_LEVEL", "loud", "it must be debug, info, warning or error"),
    ],
)
def test_a_bad_setting_is_told_in_a_sentence(environment: dict[str, str], name: str, value: str, sentence: str) -> None:
    ended = run("serve", {**environment, name: value})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"souk_loyalty: {name} ")
    assert ended.stderr.endswith(f"{sentence}\n")


def test_a_database_in_a_folder_that_is_not_there_is_told_in_a_sentence(environment: dict[str, str]) -> None:
    ended = run("serve", {**environment, "SOUK_LOYALTY_DATABASE_URL": "sqlite:////no/such/folder/l.db"})
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_health_loads_no_database() -> None:
    code = "import sys, souk_loyalty.__main__; print(sorted({'grpc', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_janitor_that_ends_unexpectedly_stops_the_service_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def end(_: Janitor) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Janitor, "run", end)
    url = f"sqlite:///{tmp_path}/loyalty.db"
    migrate(url)
    with pytest.raises(RuntimeError, match="the janitor has ended"):
        await serve(Settings(address="127.0.0.1:0", database_url=url), Database(url))
    assert "the janitor ended unexpectedly" in caplog.text
    assert "ZeroDivisionError" in caplog.text
