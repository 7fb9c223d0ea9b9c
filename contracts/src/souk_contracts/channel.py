"""The client's end: one channel a service, for the life of the process."""

import json
from typing import Any, Protocol

import grpc

DEFAULT_TIMEOUT_S = 5.0

DIRECT = ("grpc.enable_http_proxy", 0)
"""The option of a channel that goes to its peer itself: `http_proxy` names the way out, not the one to a neighbour."""

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Replicas that say NOT_SERVING get no calls. The empty name stands for the whole server.
        "healthCheckConfig": {"serviceName": ""},
    }
)


class Caller(Protocol):
    """What stubs make their calls with: a channel, or a `batching.BatchingChannel`."""

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        """A callable that makes calls of a method, given as its path."""

    def stream_stream(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        """A callable that opens streams of a method, given as its path."""


def connect(target: str, *, user_agent: str) -> grpc.aio.Channel:
    """Opens a channel that spreads its calls over all replicas behind a name, and finds new ones by itself.

    `target` is `host:port`, or a gRPC name such as `dns:///orders:50051`; `user_agent` is `souk-gateway/1.0.0` and
    the like. The channel connects in the background; close it when the process ends.
    """
    return grpc.aio.insecure_channel(
        target if "://" in target or target.startswith("unix:") else f"dns:///{target}",
        options=[
            DIRECT,
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.primary_user_agent", user_agent),
            # A peer that vanished without a FIN is noticed within 25 s.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # A server closes connections when they reach its maximum age; the name is then looked up again.
            ("grpc.dns_min_time_between_resolutions_ms", 2_000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1_000),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.client_idle_timeout_ms", 2**31 - 1),
            # Otherwise a new channel to an address waits as long as an earlier channel's failed attempt at it must.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


async def served_by(call: grpc.aio.Call) -> str:
    """Who answered a call, as `orders/1.0.0`; empty where the peer does not say."""
    known: str | None = getattr(call, "served_by", None)  # of a batch, which has asked for all of its calls
    return peer_of(await call.trailing_metadata()) if known is None else known


def peer_of(metadata: grpc.aio.Metadata | None) -> str:
    """Who says this in the metadata of an answer, as `orders/1.0.0`; empty where it does not say."""
    found = dict(metadata or ())
    service, version = found.get("souk-service"), found.get("souk-version")
    return f"{service!s}/{version!s}" if service and version else ""
