"""What gRPC is told of how to wait, in processes of their own: it listens once, when it is loaded."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

CALL = """
import asyncio, os
from souk_contracts.polling import prefer_pollers
prefer_pollers()
import grpc

async def call():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await channel.unary_unary("/nobody/Call")(b"")
        except grpc.aio.AioRpcError as error:
            print(error.code().name, os.environ["GRPC_EXPERIMENTS"])
    await server.stop(None)

asyncio.run(call())
"""


def call(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Prints the status that a call gets, and what gRPC was told."""
    kept = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    return subprocess.run(
        [sys.executable, "-c", CALL], env={**kept, **environment}, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("given", "told"), [({}, "-event_engine_client"), ({"GRPC_EXPERIMENTS": "-tcp_rcv_lowat"}, "-tcp_rcv_lowat")]
)
def test_the_event_engine_is_off_unless_the_environment_says_otherwise(given: Mapping[str, str], told: str) -> None:
    done = call(given)
    status, experiments = done.stdout.split()
    assert status == "UNIMPLEMENTED"
    assert experiments.split(",")[0] == told


def test_grpc_still_knows_the_experiments_that_it_is_told_of() -> None:
    assert "nknown experiment" in call({"GRPC_EXPERIMENTS": "-no_such_thing"}).stderr
    assert "nknown experiment" not in call({}).stderr, "gRPC has no pollers any more: polling.py is to go"
