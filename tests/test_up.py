"""`./scripts/up`, as the README says it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT
from tests.deployments import free_port, is_serving, wait_until


@contextmanager
def up(port: int, data: Path) -> Iterator[tuple[list[str], int]]:
    """Runs it until a person would press Ctrl-C; gives the commands that it prints, and its session."""
    process = subprocess.Popen(
        ["./scripts/up"],
        cwd=ROOT,
        env={**os.environ, "SOUK_PORT": str(port), "SOUK_DATA": str(data)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "/docs" in line:
            break
    assert f"orders 127.0.0.1:{port + 1}, reservations 127.0.0.1:{port + 2}, loyalty 127.0.0.1:{port + 3}" in printed
    try:
        yield re.findall(r"^  (curl (?:.*\\\n)*.*)$", printed, re.MULTILINE), process.pid
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        process.stdout.read()
        process.stdout.close()
        assert process.wait(60) == 0


def processes(session: int) -> list[str]:
    found = subprocess.run(["pgrep", "-s", str(session), "-a"], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def answer(command: str) -> Any:
    """What a command gives, as JSON."""
    return json.loads(subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout)


def run_example(page: str, address: str, port: int) -> str:
    """What a page's Python example prints, where the service that it calls has another port."""
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert address in code
    code = code.replace(address, f"127.0.0.1:{port}")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_it_starts_takes_the_order_that_it_shows_and_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with up(port, tmp_path / "data") as ((order, look), session):
        wait_until(lambda: len(processes(session)) == 5, "the launcher and its four services, and nothing else")
        before = httpx.get(f"{url}/v1/customers/c-1").json()["points"]
        body = answer(order)
        assert (body["subtotal"], body["discount"], body["total"]) == (900, 90, 810)
        assert answer(order)["id"] == body["id"]  # by its key
        wait_until(lambda: answer(look)["orders"][0]["status"] == "CONFIRMED", "the order to be shown as CONFIRMED")
        assert answer(look)["orders"][0]["id"] == body["id"]
        assert "Darjeeling" in run_example((ROOT / "docs/grpc.md").read_text(), "127.0.0.1:8082", port + 2)
        wait_until(lambda: httpx.get(f"{url}/v1/items/tea").json()["sold"] == 2, "the tea to be sold")
        wait_until(lambda: httpx.get(f"{url}/v1/customers/c-1").json()["points"] == before + 8, "points to be earned")
        assert len(httpx.get(f"{url}/v1/items").json()["items"]) == 12
    assert processes(session) == []
    assert not is_serving(url)
    with up(port, tmp_path / "data"):
        assert httpx.get(f"{url}/v1/orders/{body['id']}").json()["total"] == 810
        assert httpx.get(f"{url}/v1/items/tea").json()["on_hand"] == 998
