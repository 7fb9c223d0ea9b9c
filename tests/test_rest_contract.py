"""The REST interface keeps its contract, whatever it is sent."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

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


def test_the_examples_on_the_docs_page_exist_in_the_demo_and_change_none_of_its_things() -> None:
    contract = yaml.safe_load((ROOT / "contracts/openapi/gateway.v1.yaml").read_text())
    demo = runpy.run_path(str(ROOT / "scripts/demo"))
    there = {"sku": {*demo["ITEMS"]}, "id": {*demo["CUSTOMERS"]}}

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        name = node.get("$ref", "").rpartition("/")[2]
        found: dict[str, Any] = contract["components"]["parameters"][name] if name else node
        return found

    for path, methods in contract["paths"].items():
        for method, entry in methods.items():
            if method == "parameters":
                continue
            every = [*methods.get("parameters", ()), *entry.get("parameters", ())]
            parameters = {(each["name"], each["in"]): each for each in map(resolved, every)}  # the later ones hold
            for (name, place), parameter in parameters.items():
                if place == "path" and name in there and path.startswith(("/v1/items", "/v1/customers")):
                    assert (parameter["example"] in there[name]) is (method == "get"), f"{method} {path}"
    order = contract["components"]["schemas"]["OrderRequest"]["example"]
    assert order["customer_id"] in there["id"]
    assert {line["sku"] for line in order["lines"]} <= there["sku"]
