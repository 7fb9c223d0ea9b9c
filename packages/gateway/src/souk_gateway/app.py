"""Puts the gateway together, and runs it: the only place that knows everything."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from souk_contracts.loyalty.v1 import LoyaltyStub
from souk_contracts.orders.v1 import OrdersStub
from souk_contracts.reservations.v1 import ReservationsStub
from souk_contracts.server import termination
from souk_gateway import __version__
from souk_gateway.backends import Backends
from souk_gateway.clients import LoyaltyClient, OrdersClient, ReservationsClient
from souk_gateway.connections import serve_http
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.pages import Status, static_routes
from souk_gateway.problems import TABLE, kind_of, problem
from souk_gateway.reading import BODY, path_of, received
from souk_gateway.routes import Resources, exchange_of
from souk_gateway.saga import Saga
from souk_gateway.settings import Settings
from souk_gateway.targets import Targets
from souk_gateway.targets_file import TargetsFile

log = logging.getLogger(__name__)
access_log = logging.getLogger("souk_gateway.access")

_GRACE_S = 10.0


class CannotListen(Exception):
    """The address cannot be had; the message is one sentence."""


class AccessLog:
    """Opens each request's exchange, names in the answer who served it, and writes its line in the log."""

    def __init__(self, app: ASGIApp, deadline_s: float) -> None:
        self._app = app
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = scope["souk.exchange"] = Exchange(self._deadline_s)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                served_by = (b"souk-served-by", exchange.served_by().encode())
                message = {**message, "headers": [*message["headers"], served_by]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            access_log.log(
                logging.DEBUG if scope["path"].startswith("/health/") else logging.INFO,
                "%s %s %d %.0f ms %s %s",
                scope["method"],
                path_of(scope),
                exchange.status,
                exchange.elapsed_s() * 1000,
                exchange.about or "-",
                exchange.served_by(),
            )


class UnexpectedErrors:
    """Answers what nobody foresaw with a problem that says nothing of the inside, which goes to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http" or scope["souk.exchange"].status:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            response = _problem(Request(scope), "INTERNAL", "the gateway failed; nothing that you can mend")
            await response(scope, receive, send)


class WholeBody:
    """Takes in a request's body before anything else does, also where nobody asks for it: none is left unread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope[BODY] = await received(receive)
            except Rejected as error:
                answer = await _rejected(Request(scope), error)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def application(services: Mapping[str, Backends[Any]], settings: Settings) -> Starlette:
    """The REST application over the services."""
    orders = OrdersClient(services["orders"])
    reservations = ReservationsClient(services["reservations"])
    loyalty = LoyaltyClient(services["loyalty"])
    saga = Saga(reservations, loyalty, orders, loyalty_required=settings.loyalty_required)
    middleware = [Middleware(AccessLog, deadline_s=settings.deadline_s)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST", "PUT"),
                allow_headers=("Content-Type", "Idempotency-Key", "Prefer", "Souk-Prefer"),
                expose_headers=(
                    "Location",
                    "Idempotency-Replayed",
                    "Preference-Applied",
                    "Retry-After",
                    "Souk-Served-By",
                ),
            )
        )
    middleware += [Middleware(UnexpectedErrors), Middleware(WholeBody)]
    app = Starlette(
        routes=[
            *Resources(saga, orders, reservations, loyalty, services).routes(),
            *Status(services).routes(),
            *static_routes(),
        ],
        middleware=middleware,
        exception_handlers={Rejected: _rejected, Unavailable: _unavailable, HTTPException: _not_routed},
    )
    app.router.redirect_slashes = False  # /v1/orders/ is no resource
    return app


async def _rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    return _problem(request, error.reason, error.detail, metadata=error.metadata, category=error.category)


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    reason = error.reason if error.reason in TABLE else "UNAVAILABLE"
    return _problem(request, reason, error.detail)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        detail = f"{request.method} is not served here; {allowed} are"
        return _problem(request, "METHOD_NOT_ALLOWED", detail, headers={"Allow": allowed})
    return _problem(request, "NOT_FOUND", "nothing is served under this path; /docs shows what is")


def _problem(
    request: Request,
    reason: str,
    detail: str,
    *,
    metadata: dict[str, str] | None = None,
    category: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    kind = kind_of(reason, category)
    exchange_of(request).about = kind.type
    return problem(
        kind,
        detail,
        instance=path_of(request.scope),
        metadata=metadata,
        in_path=bool(request.scope.get("path_params")),
        headers=headers,
    )


async def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, and lets the requests that run finish.

    Raises `CannotListen`, and `BadSetting` where the file of targets is wrong.
    """
    await serve(settings, listen(settings), termination().wait)


def listen(settings: Settings) -> socket.socket:
    """A listening socket at the settings' address. Raises `CannotListen`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        # The error's own text repeats the address; a name that is not known has no number that `os` knows.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotListen(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); "
            "SOUK_GATEWAY_ADDRESS chooses another address."
        ) from error


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
            stack.callback(asyncio.create_task(file.run()).cancel)
        app = application(services, settings)
        log.info("gateway %s listens on http://%s:%d", __version__, f"[{host}]" if ":" in host else host, port)
        await serve_http(app, config, listener, shutdown)
    log.info("gateway %s has stopped", __version__)
