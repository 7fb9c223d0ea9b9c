"""What an empty request costs on hypercorn, as it comes and with Souk's connections and HTTP/1.1.

    PYTHONPATH=scripts .venv/bin/python tests/benchmarks/empty.py

Each variant serves an application that says 204 and no more, and takes turns with the others under wrk at 64
connections. Prints the median requests a second, and the processor time of a request.
"""

import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from benching.usage import cpu_s
from hypercorn.asyncio import serve
from hypercorn.config import Config

from souk_gateway.serving import serve_http

VARIANTS = ("hypercorn", "hypercorn, uvloop", "hypercorn, uvloop, 2 workers", "Souk's HTTP/1.1, uvloop")
ROUNDS, SECONDS = 5, 3


async def empty(scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers everything with nothing."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def run(variant: str, port: int) -> None:
    """Serves until it is killed."""
    config = Config()
    config.errorlog = None
    if variant == VARIANTS[3]:
        listener = socket.create_server(("127.0.0.1", port))
        uvloop.run(serve_http(empty, config, listener, asyncio.Event().wait))
        return
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config.bind = [f"fd://{listener.fileno()}"]
    if variant == VARIANTS[2]:
        os.fork()
    (asyncio.run if variant == VARIANTS[0] else uvloop.run)(serve(empty, config))


def main() -> None:
    """Starts all variants, lets them take turns, and prints a table."""
    servers = {}
    for variant in VARIANTS:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, __file__, variant, str(port)]
        servers[variant] = subprocess.Popen(command, start_new_session=True), port
    time.sleep(3)
    turns: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    try:
        for _ in range(ROUNDS):
            for variant, (process, port) in servers.items():
                before = cpu_s(process.pid)
                wrk = ["wrk", "--threads=1", "--connections=64", f"--duration={SECONDS}s", f"http://127.0.0.1:{port}/"]
                done = subprocess.run(wrk, capture_output=True, text=True, check=True)
                found = re.search(r"(\d+) requests in", done.stdout)
                assert found is not None, done.stdout
                requests = int(found[1])
                turns[variant].append((requests / SECONDS, (cpu_s(process.pid) - before) / requests * 1e6))
    finally:
        for process, _ in servers.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print("| | requests/s | CPU of a request |\n| --- | --- | --- |")
    for variant, seen in turns.items():
        rate, cost = (statistics.median(each[n] for each in seen) for n in (0, 1))
        print(f"| {variant} | {rate:.0f} | {cost:.0f} µs |")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
