"""`prune` as all three services have it: what it asks for, what it refuses, and that serving pays nothing for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.faults.souk import BACKENDS, migrate

pytestmark = pytest.mark.parametrize("service", BACKENDS)


def prune(service: str, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"souk_{service}", "prune", *arguments],
        env={**os.environ, f"SOUK_{service.upper()}_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "a week", "36501"])
def test_an_age_that_cannot_be_meant_is_refused(service: str, days: str, tmp_path: Path) -> None:
    done = prune(service, f"sqlite:///{tmp_path}/never.db", f"--days={days}")
    assert done.returncode == 2
    assert done.stderr.endswith(f"--days: '{days}' is not a whole number from 1 to 36500\n")
    assert not (tmp_path / "never.db").exists()


def test_an_empty_database_is_refused(service: str, tmp_path: Path) -> None:
    done = prune(service, f"sqlite:///{tmp_path}/empty.db")
    sentence = f"souk_{service}: the database is empty; run the `migrate` command first\n"
    assert (done.returncode, done.stderr) == (1, sentence)


def test_a_database_that_lacks_a_migration_is_left_alone(service: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{service}.db"
    migrate(service, url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_support SET revision = '0002'"))
    engine.dispose()
    done = prune(service, url)
    assert done.returncode == 1
    assert done.stderr.endswith("run the `migrate` command of this version first\n")


def test_serving_loads_nothing_of_it(service: str) -> None:
    modules = [f"souk_{service}.{name}" for name in ("prune", "pruner", "retention", "archive")]
    code = f"import sys, souk_{service}.__main__, souk_{service}.app; sys.exit(bool({{*{modules}}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
