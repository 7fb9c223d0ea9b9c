"""What all scripts have in common: they answer --help, refuse what they do not know, and Ctrl-C ends them quietly."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deployments import free_port

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK))
TAKES_ANY = {"test"}
"""Whose arguments are pytest's."""
NEEDS = {
    "demo": ["http://127.0.0.1:1"],
    "images": ["sbom", "orders"],
    "launch": ["--data=/no/such"],
    "release": ["verify"],
}
"""What each lacks otherwise, and says so first."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOUK_VENV": sys.prefix}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_scripts_are_found() -> None:
    assert {"up", "launch", "demo", "test", "check", "lock", "images", "audit", "mixed"} <= {*SCRIPTS}


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_is_for(script: str, option: str) -> None:
    done = run(f"scripts/{script}", option)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 50


@pytest.mark.parametrize("script", [each for each in SCRIPTS if each not in TAKES_ANY])
def test_a_script_refuses_what_it_does_not_know(script: str) -> None:
    done = run(f"scripts/{script}", *NEEDS.get(script, ()), "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


# What Python says of each module that it has loaded tells how far a script is.
EARLY = [
    ("audit", "site"), ("audit", "argparse"), ("audit", "sqlalchemy"),
    ("audit", "auditor.audit"),
    ("skew", "site"), ("skew", "yaml"), ("skew", "skewing.matrix"),
    ("growth", "growing.findings"), ("release", "releasing.build"), ("bench", "conftest"),
    ("mutants", "mutating.trial"),
    ("up", "asyncio.events"), ("up", "asyncio"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "module"), EARLY)
def test_ctrl_c_ends_a_script_quietly_while_it_is_loaded(script: str, module: str, tmp_path: Path) -> None:
    environment = {"SOUK_PORT": str(free_port()), "SOUK_DATA": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1"}
    process = subprocess.Popen(
        [f"scripts/{script}"],
        cwd=ROOT,
        env={**os.environ, "SOUK_VENV": sys.prefix, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.rpartition("|")[2].strip() == module:
            os.killpg(process.pid, signal.SIGINT)
            break
    said += process.stderr.read()
    process.stderr.close()
    told_to_stop = [0] if script == "up" else []  # as at any later moment
    assert process.wait() in (-signal.SIGINT, 128 + signal.SIGINT, *told_to_stop), said
    assert "Traceback" not in said, said
    assert "KeyboardInterrupt" not in said, said


@pytest.mark.parametrize("moment", ["listens on", "Souk answers at", "PUT /v1/items/mug", "Loaded 12 items", "/docs"])
def test_ctrl_c_ends_souk_quietly_whatever_it_does(moment: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["scripts/up"],
        cwd=ROOT,
        env={**os.environ, "SOUK_VENV": sys.prefix, "SOUK_PORT": str(free_port()), "SOUK_DATA": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if moment in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    for line in process.stdout:
        said += line
        if "| stopping" in line:  # once more, by somebody impatient
            os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    assert process.wait() == 0, said
    assert "Traceback" not in said, said
    assert "ended with" not in said, said
    assert said.endswith("all have stopped\n")


@pytest.mark.parametrize("service", ["gateway", "orders", "reservations", "loyalty"])
def test_what_has_no_effect_is_said_when_a_service_starts(service: str, tmp_path: Path) -> None:
    own = {
        f"SOUK_{service.upper()}_ADDRESS": "127.0.0.1:0",
        f"SOUK_{service.upper()}_DATABASE_URL": f"sqlite:///{tmp_path}/{service}.db",
        "SOUK_LOG_LEVLE": "debug",
        "TZ": "Pacific/Kiritimati",
    }
    if service == "gateway":  # which has no database
        del own["SOUK_GATEWAY_DATABASE_URL"]
    command = [sys.executable, "-m", f"souk_{service}", "serve"]
    with subprocess.Popen(command, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said: list[str] = []
        while not said or " listens on " not in said[-1]:
            said.append(running.stderr.readline())
            assert said[-1], said
        running.terminate()
        running.stderr.read()
    now = datetime.now(UTC)
    assert all(
        now - datetime.strptime(f"{line[:20]}+0000", "%Y-%m-%d %H:%M:%SZ%z") < timedelta(hours=1) for line in said
    )
    warned = [line.partition(": ")[2] for line in said if "WARNING" in line]
    assert warned == [
        "TZ=Pacific/Kiritimati has no effect: the times in this log are UTC\n",
        f"SOUK_LOG_LEVLE has no effect: {service} has no setting of that name; did you mean SOUK_LOG_LEVEL?\n",
    ]
