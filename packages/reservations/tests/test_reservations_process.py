"""`python -m souk_reservations`, as people and containers run it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from souk_reservations.app import serve
from souk_reservations.database import Database
from souk_reservations.janitor import Janitor
from souk_reservations.migrate import migrate
from souk_reservations.settings import Settings


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "SOUK_RESERVATIONS_DATABASE_URL": f"sqlite:///{tmp_path}/reservations.db"}


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "souk_reservations", "serve"],
        env={**environment, "SOUK_RESERVATIONS_ADDRESS": "127.0.0.1:0"},
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
        [sys.executable, "-m", "souk_reservations", command],
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
    probe = {**environment, "SOUK_RESERVATIONS_ADDRESS": address}
    assert run("health", probe).returncode == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    after = run("health", probe)
    assert (after.returncode, after.stderr) == (1, f"souk_reservations: no server is SERVING at {address}\n")


def test_a_database_with_prices_in_another_currency_is_told_in_a_sentence(
    server: tuple[subprocess.Popen[str], str], environment: dict[str, str]
) -> None:
    process, _ = server
    process.terminate()
    assert process.wait(30) == 0
    ended = run("serve", {**environment, "SOUK_CURRENCY": "USD"})
    assert ended.returncode == 2
    assert ended.stderr == (
        "souk_reservations: SOUK_CURRENCY is 'USD', but the prices in the database are in EUR; "
        "set it to EUR, or SOUK_RESERVATIONS_DATABASE_URL to another database\n"
    )


def test_migrate_may_be_run_again(environment: dict[str, str]) -> None:
    for _ in range(2):
        assert run("migrate", environment).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SOUK_CURRENCY", "euro", "SOUK_CURRENCY is 'euro'; it must be an ISO 4217 currency code, such as EUR"),
        ("SOUK_HOLD_TTL_S", "soon", "SOUK_HOLD_TTL_S is 'soon'; it must be a number"),
        ("SOUK_RESERVATIONS_HOLD_TTL_S", "0", "is '0.0'; it must be seconds, above 0 and at most 86400"),
        ("SOUK_RESERVATIONS_ADDRESS", "127.0.0.1:99999", "it must be host:port, such as 127.0.0.1:50051"),
        ("SOUK_LOG_LEVEL", "loud", "it must be debug, info, warning or error"),
    ],
)
def test_a_bad_setting_is_told_in_a_sentence(environment: dict[str, str], name: str, value: str, sentence: str) -> None:
    ended = run("serve", {**environment, name: value})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"souk_reservations: {name} ")
    assert ended.stderr.endswith(f"{sentence}\n")


def test_a_database_in_a_folder_that_is_not_there_is_told_in_a_sentence(environment: dict[str, str]) -> None:
    ended = run("serve", {**environment, "SOUK_RESERVATIONS_DATABASE_URL": "sqlite:////no/such/folder/r.db"})
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


def test_health_loads_no_database() -> None:
    code = "import sys, souk_reservations.__main__; print(sorted({'grpc', 'sqlalchemy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_janitor_that_ends_unexpectedly_stops_the_service_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def end(_: Janitor) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Janitor, "run", end)
    url = f"sqlite:///{tmp_path}/reservations.db"
    migrate(url)
    with pytest.raises(RuntimeError, match="the janitor has ended"):
        await serve(Settings(address="127.0.0.1:0", database_url=url), Database(url))
    assert "the janitor ended unexpectedly" in caplog.text
    assert "ZeroDivisionError" in caplog.text
