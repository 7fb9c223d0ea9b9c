"""`./scripts/up`, as the README says it."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.deployments import free_port, is_serving, wait_until


@contextmanager
def up(port: int, data: Path) -> Iterator[tuple[str, int]]:
    """Runs it until a person would press Ctrl-C; gives the curl line that it prints, and its session."""
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
    found = re.search(r"(curl .*\\\n.*-d '.*')", printed)
    assert found, printed
    try:
        yield found[1], process.pid
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        process.stdout.read()
        process.stdout.close()
        assert process.wait(60) == 0


def processes(session: int) -> list[str]:
    found = subprocess.run(["pgrep", "-s", str(session), "-a"], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def test_it_starts_takes_the_order_that_it_shows_and_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with up(port, tmp_path / "data") as (curl, session):
        wait_until(lambda: len(processes(session)) == 5, "the launcher and its four services, and nothing else")
        before = httpx.get(f"{url}/v1/customers/c-1").json()["points"]
        order = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
        body = httpx.Response(200, text=order).json()
        assert (body["subtotal"], body["discount"], body["total"]) == (900, 90, 810)
        wait_until(lambda: httpx.get(f"{url}/v1/items/tea").json()["sold"] == 2, "the tea to be sold")
        wait_until(lambda: httpx.get(f"{url}/v1/customers/c-1").json()["points"] == before + 8, "points to be earned")
        assert len(httpx.get(f"{url}/v1/items").json()["items"]) == 12
    assert processes(session) == []
    assert not is_serving(url)
    with up(port, tmp_path / "data"):
        assert httpx.get(f"{url}/v1/orders/{body['id']}").json()["total"] == 810
        assert httpx.get(f"{url}/v1/items/tea").json()["on_hand"] == 998
