"""Asks a server on this machine for its health, for a container's health check: no shell, no other tool needed."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from souk_contracts.channel import DIRECT


def is_serving(address: str, *, timeout_s: float = 2.0) -> bool:
    """Whether the server that listens on `address` says SERVING. A wildcard address is asked on loopback."""
    target = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    with grpc.insecure_channel(target, options=[DIRECT]) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)
