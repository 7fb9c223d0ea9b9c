"""What happens around every request: its body is read, and every error becomes a problem.

One layer replaces starlette's stack of middleware, because each layer costs time in every request and every answer.
"""

import logging
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from souk_gateway.errors import Rejected, Unavailable, quoted
from souk_gateway.exchange import Exchange
from souk_gateway.problems import TABLE, kind_of, problem
from souk_gateway.reading import BODY, path_of, received, routed_path
from souk_gateway.routes import exchange_of

log = logging.getLogger(__name__)
access_log = logging.getLogger("souk_gateway.access")

_COMMON = ((b"x-content-type-options", b"nosniff"),)
# Orders and customers are personal, and nothing else that changes is worth a rule of its own.
_NOT_STORED = (b"cache-control", b"no-store")


class Edge:
    """Opens each request's exchange, names the versions that served it in the answer, and writes its line to the log.

    Pages of `cors_origins` may read the answers. A request may take `deadline_s` seconds.
    """

    def __init__(self, routes: Sequence[BaseRoute], *, deadline_s: float, cors_origins: Sequence[str] = ()) -> None:
        self.routes = routes
        self._deadline_s = deadline_s
        self._inside: ASGIApp = self._answer
        if cors_origins:
            self._inside = CORSMiddleware(
                self._answer,
                allow_origins=cors_origins,
                allow_methods=("GET", "POST", "PUT"),
                allow_headers=("Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Prefer", "Souk-Prefer"),
                expose_headers=(
                    "ETag",
                    "Location",
                    "Idempotency-Replayed",
                    "Preference-Applied",
                    "Retry-After",
                    "Souk-Served-By",
                ),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope["souk.exchange"] = Exchange(self._deadline_s)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *_COMMON, (b"souk-served-by", exchange.served_by().encode())]
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"].append(_NOT_STORED)
            await send(message)

        try:
            await self._inside(scope, receive, answer)
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

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = routed_path(scope)
        scope["app"] = self  # makes a route raise an error for an unknown method, instead of answering by itself
        exchange: Exchange = scope["souk.exchange"]
        try:
            route = self._route_of(scope)
            # Read it first, even where no handler needs it: an unread body would end the connection. But for a path
            # that does not exist, or where it is known to be too large, it is not even asked for.
            scope[BODY] = await received(scope, receive)
            exchange.restart()
            await route.handle(scope, receive, send)
        except Exception as error:
            if scope["souk.exchange"].status:
                raise
            response = _problem_of(Request(scope), error)
            await response(scope, receive, send)

    def _route_of(self, scope: Scope) -> BaseRoute:
        """The route of the request's path and method. Raises HTTPException, 404 or 405, where there is none."""
        others = None
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route
            if match is Match.PARTIAL and others is None:
                others = route
        if others is None:
            raise HTTPException(404)
        raise HTTPException(405, headers={"Allow": ", ".join(getattr(others, "methods", None) or ())})


def _problem_of(request: Request, error: Exception) -> Response:
    """The answer for an error. The details of an unexpected one go to the log, never to the client."""
    if isinstance(error, Rejected):
        replayed = {"Idempotency-Replayed": "true"} if error.replayed else None
        return _problem(
            request, error.reason, error.detail, metadata=error.metadata, category=error.category, headers=replayed
        )
    if isinstance(error, Unavailable):
        reason = error.reason if error.reason in TABLE else "UNAVAILABLE"
        return _problem(request, reason, error.detail, metadata=error.metadata, spread_s=error.spread_s)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        detail = f"this path does not accept {quoted(request.method)}; it accepts {allowed}"
        return _problem(request, "METHOD_NOT_ALLOWED", detail, headers={"Allow": allowed})
    if isinstance(error, HTTPException):
        return _problem(request, "NOT_FOUND", "this path does not exist; /docs lists the paths that do")
    log.error("%s %s failed", request.method, path_of(request.scope), exc_info=error)
    return _problem(request, "INTERNAL", "the gateway failed unexpectedly; its log has the details")


def _problem(request: Request, reason: str, detail: str, *, category: str = "", **more: Any) -> Response:
    kind = kind_of(reason, category)
    exchange_of(request).about = kind.type
    in_path = bool(request.scope.get("path_params"))
    return problem(kind, detail, instance=path_of(request.scope), in_path=in_path, **more)
