"""The gateway as a process: how it starts, tells that it lives, and stops."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest


def run(command: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "souk_gateway", command],
        env={**os.environ, "SOUK_GATEWAY_ADDRESS": address},
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(address: str) -> tuple[int, str]:
    """What `health` says of a gateway: its exit code, and its line."""
    asked = run("health", address)
    _, said = asked.communicate(timeout=30)
    return asked.returncode, said


@contextmanager
def listening() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A gateway process on a free port, whose first line in the log says that it listens."""
    process = run("serve", "127.0.0.1:0")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listens on http://127.0.0.1:" in line
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_also_while_connections_are_open(number: signal.Signals) -> None:
    with listening() as (process, port), ExitStack() as stack:
        connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)))
        # It may not accept yet: the socket queues the connection until it does.
        connection.request("GET", "/health/live")
        answer = stack.enter_context(connection.getresponse())
        assert answer.read() == b'{"status":"LIVE"}'
        process.send_signal(number)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert log.splitlines()[-1].endswith("has stopped")
        assert "Traceback" not in log


def test_health_tells_whether_it_lives() -> None:
    with listening() as (process, port):
        assert ask(f"0.0.0.0:{port}") == (0, "")
        process.terminate()
        process.wait(timeout=30)
        code, said = ask(f"127.0.0.1:{port}")
        assert code == 1
        assert said.startswith(f"the gateway at 127.0.0.1:{port} does not answer: ")


def test_an_address_in_use_is_told_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = run("serve", f"127.0.0.1:{port}")
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == (
        f"cannot listen on 127.0.0.1:{port} (Address already in use); set SOUK_GATEWAY_ADDRESS to another address.\n"
    )


def test_health_loads_neither_grpc_nor_the_server() -> None:
    code = "import sys, souk_gateway.__main__; print(sorted({'grpc', 'hypercorn', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
