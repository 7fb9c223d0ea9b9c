"""The REST interface keeps its contract, whatever it is sent."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.deployments import Processes

CONFIG = ROOT / "contracts" / "openapi" / "schemathesis.toml"


@pytest.fixture
def souk(tmp_path: Path) -> object:
    processes = Processes(ROOT, tmp_path)
    processes.start()
    yield processes
    processes.destroy()


def test_schemathesis_finds_no_server_error_and_no_answer_outside_the_contract(souk: Processes, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "scripts/demo", souk.url], cwd=ROOT, check=True)
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run(
        [program, "--config-file", CONFIG, "run", f"{souk.url}/openapi.json", "--seed", "20", "--max-examples", "30"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert httpx.get(f"{souk.url}/health/ready").status_code == 200
