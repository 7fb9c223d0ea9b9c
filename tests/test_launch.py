"""The launcher, with real processes that pretend to be the services."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "scripts" / "launch"
SERVICES = ("orders", "reservations", "loyalty", "gateway")

BACKEND = """
import os, signal, sys, time
if os.environ.get("SOUK_BROKEN") == "{name}":
    print("SOUK_BROKEN is no setting")
    sys.exit(2)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("{name} ends")))
print("{name} runs as", os.getpid(), "at", os.environ["SOUK_{upper}_ADDRESS"], flush=True)
while True:
    time.sleep(60)
"""

GATEWAY = """
import http.server, json, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        broken = os.environ.get("SOUK_BROKEN")
        states = {{name: "UNKNOWN" if name == broken else "SERVING" for name in ("orders", "reservations", "loyalty")}}
        self.wfile.write(json.dumps({{"services": states}}).encode())
    def log_message(self, *_):
        pass
host, port = os.environ["SOUK_GATEWAY_ADDRESS"].split(":")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("{name} ends")))
print("{name} runs as", os.getpid(), flush=True)
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


class Launched:
    """A launcher and what it has said so far."""

    def __init__(self, folder: Path, port: int, environment: dict[str, str]) -> None:
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCH, "--data", folder / "data", "--port", str(port)],
                env={**os.environ, "PYTHONPATH": str(folder), **environment}, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text()

    def pids(self, service: str) -> list[int]:
        """The service's processes, in the order in which they were started."""
        return [int(pid) for pid in re.findall(rf"{service} runs as (\d+)", self.said)]

    def waits_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def comes_up(self) -> None:
        self.waits_for(lambda: "Souk answers at" in self.said)
        self.waits_for(lambda: all(self.pids(service) for service in SERVICES))


@pytest.fixture
def port() -> int:
    """A free port with three free ports above it."""
    for candidate in range(21000, 30000, 4):
        try:
            for offset in range(4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate + offset))
        except OSError:
            continue
        return candidate
    raise AssertionError("no four free ports")


@pytest.fixture
def launch(tmp_path: Path, port: int) -> Iterator[Callable[..., Launched]]:
    for name in SERVICES:
        package = tmp_path / f"souk_{name}"
        package.mkdir()
        (package / "__init__.py").touch()  # a package of this name that is installed must not come first
        source = GATEWAY if name == "gateway" else BACKEND
        (package / "__main__.py").write_text(source.format(name=name, upper=name.upper()))
    started: list[Launched] = []

    def start(**environment: str) -> Launched:
        started.append(Launched(tmp_path, port, environment))
        return started[-1]

    yield start
    for launched in started:
        launched.process.terminate()
        launched.process.wait(60)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_gateway_first_and_leaves_no_process(launch: Callable[..., Launched], number: int) -> None:
    launched = launch()
    launched.comes_up()
    launched.process.send_signal(number)
    assert launched.process.wait(60) == 0
    ends = re.findall(r"(\w+) ends", launched.said)
    assert ends[0] == "gateway"
    assert sorted(ends) == sorted(SERVICES)
    assert not any(is_alive(pid) for service in SERVICES for pid in launched.pids(service))


def test_a_service_that_is_killed_is_started_again(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.comes_up()
    os.kill(launched.pids("loyalty")[0], signal.SIGKILL)
    launched.waits_for(lambda: len(launched.pids("loyalty")) == 2)
    assert "loyalty was killed by SIGKILL; starting it again in 1 s" in launched.said
    assert len(launched.pids("orders")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_no_service_outlives_a_launcher_that_is_killed(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.comes_up()
    launched.process.kill()
    launched.waits_for(lambda: not any(is_alive(pid) for service in SERVICES for pid in launched.pids(service)))


def test_a_service_that_does_not_come_up_stops_all(launch: Callable[..., Launched]) -> None:
    launched = launch(SOUK_BROKEN="loyalty")
    assert launched.process.wait(60) == 2
    assert "loyalty      | SOUK_BROKEN is no setting" in launched.said
    assert "loyalty ended with code 2 before all had come up" in launched.said


@pytest.mark.parametrize("port", ["0", "-1", "65533", "abc", "8080.5", "²"])
def test_a_port_that_is_none_is_told_in_one_sentence(tmp_path: Path, port: str) -> None:
    command = [sys.executable, str(LAUNCH), f"--data={tmp_path}", f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"--port (SOUK_PORT) is {port}; choose one from 1 to 65532.\n")


def test_a_port_in_use_is_told_before_anything_starts(launch: Callable[..., Launched], port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 2))
        other.listen()
        launched = launch()
        assert launched.process.wait(60) == 2
    assert launched.said.startswith(f"Cannot listen on port {port + 2} of 127.0.0.1 (Address already in use).")
    assert launched.said.count("\n") == 1
