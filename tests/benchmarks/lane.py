"""What a message on an open stream costs, and what a call of its own does.

    PYTHONPATH=scripts .venv/bin/python tests/benchmarks/lane.py

A server of grpc.aio gives 8 KB back, which is a batch of some 25 orders, and a client sends them one after another;
both as Souk runs them, with uvloop and gRPC's pollers. Prints the median time of an exchange, and the processor time of
both ends.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from souk_contracts.polling import prefer_pollers

prefer_pollers()

import grpc  # noqa: E402 (the pollers have to be preferred first)
import uvloop  # noqa: E402
from benching.usage import cpu_s  # noqa: E402

from souk_contracts.channel import DIRECT  # noqa: E402

MESSAGE = b"x" * 8000
ROUNDS, EXCHANGES = 5, 2000
CALL, LANE = "/benchmark.Echo/Call", "/benchmark.Echo/Lane"


async def call(request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Gives it back."""
    return request


async def lane(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Gives each back."""
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request)


async def serve(port: int) -> None:
    """Serves until it is killed."""
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(call),
        "Lane": grpc.stream_stream_rpc_method_handler(lane),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.Echo", handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def calls(channel: Any) -> None:
    """Makes them one after another."""
    ask = channel.unary_unary(CALL)
    for _ in range(EXCHANGES):
        await ask(MESSAGE, timeout=5)


async def messages(channel: Any) -> None:
    """Sends them one after another, on one stream."""
    stream = channel.stream_stream(LANE)()
    for _ in range(EXCHANGES):
        await stream.write(MESSAGE)
        await stream.read()
    stream.cancel()


async def measure(port: int) -> None:
    """Lets both take turns, and prints a table."""
    ways: dict[str, Callable[[Any], Awaitable[None]]] = {"a call of its own": calls, "a message on a stream": messages}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[DIRECT]) as channel:
        await channel.channel_ready()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                began, used = time.perf_counter(), cpu_s(os.getpid())  # the server is a child, and counts
                await way(channel)
                taken[name].append((time.perf_counter() - began, cpu_s(os.getpid()) - used))
    print("|  | µs | processor time, µs |\n| --- | --- | --- |")
    for name, turns in taken.items():
        took, used = (statistics.median(each) / EXCHANGES * 1e6 for each in zip(*turns, strict=True))
        print(f"| {name} | {took:.0f} | {used:.0f} |")


def main() -> None:
    """Starts the server, measures, and ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        uvloop.run(measure(port))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(serve(int(sys.argv[1])))
    else:
        main()
