"""Wires the gateway together and runs it: the only module that knows all the others."""

import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from hypercorn.config import Config

from souk_contracts.loyalty.v1 import LoyaltyStub
from souk_contracts.orders.v1 import OrdersStub
from souk_contracts.reservations.v1 import ReservationsStub
from souk_contracts.server import termination
from souk_contracts.tasks import spawn
from souk_gateway import __version__
from souk_gateway.admission import Admission
from souk_gateway.backends import Backends
from souk_gateway.clients import LoyaltyClient, OrdersClient, ReservationsClient
from souk_gateway.edge import Edge
from souk_gateway.limits import Limits
from souk_gateway.pages import Status, static_routes
from souk_gateway.routes import Resources
from souk_gateway.saga import Saga
from souk_gateway.serving import serve_http
from souk_gateway.settings import Settings
from souk_gateway.targets import Targets
from souk_gateway.targets_file import TargetsFile

log = logging.getLogger(__name__)

_GRACE_S = 10.0
_BUFFER_BYTES = 128 * 1024
"""The kernel's, of each connection, for what comes and for what goes. It doubles that, and would grow it to megabytes:
memory that a client who does not read could fill, and that counts as the container's."""
_OTHER_DESCRIPTORS = 128
"""What the process needs beside its connections: channels to the services, files, and those that are turned away."""


class CannotListen(Exception):
    """The address cannot be listened on; the message is one sentence."""


def application(services: Mapping[str, Backends[Any]], settings: Settings) -> Edge:
    """The REST application over the services."""
    orders = OrdersClient(services["orders"])
    reservations = ReservationsClient(services["reservations"])
    loyalty = LoyaltyClient(services["loyalty"])
    saga = Saga(reservations, loyalty, orders, loyalty_required=settings.loyalty_required)
    placing = Admission(saga, max_under_way=settings.max_orders_under_way)
    routes = [
        *Resources(placing, orders, reservations, loyalty, services).routes(),
        *Status(services).routes(),
        *static_routes(),
    ]
    return Edge(routes, deadline_s=settings.deadline_s, cors_origins=settings.cors_origins)


async def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, and lets the requests that run finish.

    Raises `CannotListen`, and `BadSetting` where the file of targets is wrong.
    """
    await serve(settings, listen(settings), termination().wait)


def listen(settings: Settings) -> socket.socket:
    """A listening socket at the settings' address. Raises `CannotListen`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # its connections have them from the listener
            listener.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        return listener
    except OSError as error:
        # The error's own text repeats the address; a name that is not known has no number that `os` knows.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotListen(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); set SOUK_GATEWAY_ADDRESS to another address."
        ) from error


def within_descriptors(limits: Limits) -> Limits:
    """The limits, with no more connections than the process may have descriptors for. Raises that number if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + _OTHER_DESCRIPTORS
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            connections = max(1, soft - _OTHER_DESCRIPTORS)
            log.warning(
                "%d descriptors are enough for %d connections, not for SOUK_MAX_CONNECTIONS=%d: set `ulimit -n %d`",
                *(soft, connections, limits.max_connections, wanted),
            )
            return replace(limits, max_connections=connections)
    return limits


async def serve(settings: Settings, listener: socket.socket, shutdown: Callable[[], Awaitable[object]]) -> None:
    """Serves on the listener, which it closes in the end, until `shutdown` returns.

    Raises `BadSetting` where the file of targets is wrong.
    """
    host, port = listener.getsockname()[:2]
    config = Config()
    config.graceful_timeout = _GRACE_S
    config.include_server_header = False
    config.keep_alive_timeout = 75
    config.read_timeout = 90  # longer than any request may take: only a peer that went silent meets it
    config.keep_alive_max_requests = 100_000
    config.errorlog = logging.getLogger("hypercorn.error")
    services: dict[str, Backends[Any]] = {
        "orders": Backends("orders", OrdersStub),
        "reservations": Backends("reservations", ReservationsStub),
        "loyalty": Backends("loyalty", LoyaltyStub),
    }

    def use(targets: Mapping[str, Targets]) -> None:
        for name, backends in services.items():
            backends.use(targets[name])

    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        for backends in services.values():
            stack.push_async_callback(backends.close)
        if settings.targets_file is None:
            use(settings.targets)
        else:
            file = TargetsFile(settings.targets_file, use)
            file.load()
            stack.callback(spawn(file.run(), "reading the targets file again").cancel)
        app = application(services, settings)
        log.info("gateway %s listens on http://%s:%d", __version__, f"[{host}]" if ":" in host else host, port)
        await serve_http(app, config, listener, shutdown, within_descriptors(settings.limits))
    log.info("gateway %s has stopped", __version__)
