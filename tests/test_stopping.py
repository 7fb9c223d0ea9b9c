"""A process that is told to stop while it starts stops, also as the first process of a container."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deployments import wait_until

SLOW = 'import time\nprint("loading", flush=True)\ntime.sleep(600)\n'
"""A module that takes its time to load."""


def alone() -> list[str]:
    """What runs a command as the first process of a namespace of its own, where this user may have one."""
    options = ["--pid", "--fork"] if os.geteuid() == 0 else ["--user", "--pid", "--fork"]
    command = ["unshare", *options]
    return command if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0 else []


@contextmanager
def loading(module: str, command: list[str], folder: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A command that is loading a module and will not be done with that; and the id of its process."""
    (folder / f"{module}.py").write_text(SLOW)
    unshared = alone()
    outer = subprocess.Popen(
        [*unshared, sys.executable, *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("SOUK_")}
        | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with outer:
        assert outer.stdout is not None
        pid = outer.pid
        try:
            if unshared:
                children = Path(f"/proc/{pid}/task/{pid}/children")
                wait_until(lambda: bool(children.read_text()), "the process to start")
                pid = int(children.read_text())
            assert outer.stdout.readline() == "loading\n"
            yield outer, pid
        finally:
            if outer.poll() is None:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("service", "command", "module"),
    [
        ("gateway", "serve", "uvloop"),
        ("orders", "serve", "uvloop"),
        ("reservations", "serve", "sqlalchemy"),
        ("loyalty", "serve", "grpc"),
        ("orders", "migrate", "alembic"),
        ("reservations", "migrate", "sqlalchemy"),
        ("loyalty", "prune", "sqlalchemy"),
        ("orders", "prune", "grpc"),
    ],
)
def test_a_process_that_is_still_starting_stops_at_once_and_without_a_traceback(
    service: str, command: str, module: str, number: signal.Signals, tmp_path: Path
) -> None:
    with loading(module, ["-m", f"souk_{service}", command], tmp_path) as (process, pid):
        os.kill(pid, number)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launcher_that_is_still_starting_stops_at_once(number: signal.Signals, tmp_path: Path) -> None:
    with loading("argparse", [str(ROOT / "scripts/launch")], tmp_path) as (process, pid):
        os.kill(pid, number)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
