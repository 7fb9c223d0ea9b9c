"""What happens around every request: its body is taken in, and whatever goes wrong becomes a problem.

One layer in place of starlette's stack of them, since a request passes through each of those on its way in, and its
answer on its way out.
"""

import logging
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.problems import TABLE, kind_of, problem
from souk_gateway.reading import BODY, path_of, received
from souk_gateway.routes import exchange_of

log = logging.getLogger(__name__)
access_log = logging.getLogger("souk_gateway.access")


class Edge:
    """Opens each request's exchange, names in the answer who served it, and writes its line in the log.

    Pages of `cors_origins` may read the answers. `deadline_s` is how many seconds a request may take.
    """

    def __init__(self, routes: Sequence[BaseRoute], *, deadline_s: float, cors_origins: Sequence[str] = ()) -> None:
        self._router = Router(routes, redirect_slashes=False)  # /v1/orders/ is no resource
        self._deadline_s = deadline_s
        self._inside: ASGIApp = self._answer
        if cors_origins:
            self._inside = CORSMiddleware(
                self._answer,
                allow_origins=cors_origins,
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

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._router(scope, receive, send)
        exchange = scope["souk.exchange"] = Exchange(self._deadline_s)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], (b"souk-served-by", exchange.served_by().encode())]
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
        scope["app"] = self  # then the router raises what it cannot route, in place of answering by itself
        try:
            # Before anything else, also where nobody asks for it: none is left unread.
            scope[BODY] = await received(receive)
            await self._router(scope, receive, send)
        except Exception as error:
            if scope["souk.exchange"].status:
                raise
            response = _problem_of(Request(scope), error)
            await response(scope, receive, send)


def _problem_of(request: Request, error: Exception) -> Response:
    """What nobody foresaw says nothing of the inside, which goes to the log."""
    if isinstance(error, Rejected):
        return _problem(request, error.reason, error.detail, metadata=error.metadata, category=error.category)
    if isinstance(error, Unavailable):
        return _problem(request, error.reason if error.reason in TABLE else "UNAVAILABLE", error.detail)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        detail = f"{request.method} is not served here; {allowed} are"
        return _problem(request, "METHOD_NOT_ALLOWED", detail, headers={"Allow": allowed})
    if isinstance(error, HTTPException):
        return _problem(request, "NOT_FOUND", "nothing is served under this path; /docs shows what is")
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return _problem(request, "INTERNAL", "the gateway failed; nothing that you can mend")


def _problem(request: Request, reason: str, detail: str, *, category: str = "", **more: Any) -> Response:
    kind = kind_of(reason, category)
    exchange_of(request).about = kind.type
    in_path = bool(request.scope.get("path_params"))
    return problem(kind, detail, instance=path_of(request.scope), in_path=in_path, **more)
