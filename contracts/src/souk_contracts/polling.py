"""How gRPC waits for its sockets, which has to be said before it is loaded."""

import os


def prefer_pollers() -> None:
    """Has the thread that tells the event loop of what came read it from the sockets, too.

    gRPC's EventEngine, the default since grpcio 1.80, hands each message from thread to thread before it reaches that
    one. What GRPC_EXPERIMENTS says already stands. See docs/adr/0012-grpc-pollers.md.
    """
    off = ("event_engine_client", "event_engine_listener", "event_engine_for_all_other_endpoints")
    os.environ.setdefault("GRPC_EXPERIMENTS", ",".join(f"-{name}" for name in off))
