"""What the gateway answers without calling orders: health, targets, versions, the contract, and pages for people."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from souk_gateway import __version__
from souk_gateway.backends import Backends
from souk_gateway.clients import health
from souk_gateway.errors import Rejected, quoted
from souk_gateway.headers import names_tag
from souk_gateway.problems import BY_NAME
from souk_gateway.routes import exchange_of, json_answer, route

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


class Status:
    """Health and versions, of the gateway and of the services that it calls."""

    def __init__(self, services: Mapping[str, Backends[Any]]) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        return [
            route("/health/live", get=self.live),
            route("/health/ready", get=self.ready),
            route("/health/targets", get=self.targets),
            route("/v1/versions", get=self.versions),
        ]

    async def live(self, _: Request) -> Response:
        return json_answer({"status": "LIVE"})

    async def ready(self, request: Request) -> Response:
        """Ready whenever it answers: one service's outage must not take the gateway away from the others."""
        services = {
            name: "SERVING" if any(serving for serving, _ in checks) else "NOT_SERVING"
            for name, checks in (await self._check_all(request)).items()
        }
        return json_answer({"status": "READY", "services": services})

    async def targets(self, _: Request) -> Response:
        """The targets in use, with their weights; their addresses are not for clients."""
        services = {
            name: [
                {
                    "version": backend.target.version or None,
                    "weight": backend.target.weight,
                    "status": "SERVING" if backend.is_ready() else "NOT_SERVING",
                }
                for backend in backends.all()
            ]
            for name, backends in self._services.items()
        }
        return json_answer({"services": services})

    async def versions(self, request: Request) -> Response:
        checked = await self._check_all(request)
        versions = {
            name: ", ".join(dict.fromkeys(peer.rpartition("/")[2] for _, peer in checks if peer)) or None
            for name, checks in checked.items()
        }
        return json_answer({"gateway": __version__, **versions})

    async def _check_all(self, request: Request) -> dict[str, list[tuple[bool, str]]]:
        """What each target of each service says."""

        async def check(backends: Backends[Any]) -> list[tuple[bool, str]]:
            return await asyncio.gather(*(health(backend.channel) for backend in backends.all()))

        checked = await asyncio.gather(*map(check, self._services.values()))
        for checks in checked:
            for _, peer in checks:
                exchange_of(request).note(peer)
        return dict(zip(self._services, checked, strict=True))


def static_routes() -> list[Route]:
    """The contract, the page to read it, and a page for each type of problem."""
    contract = (files("souk_contracts") / "openapi" / "gateway.v1.json").read_bytes()
    docs = (files("souk_gateway") / "docs.html").read_bytes()
    return [
        _static("/openapi.json", contract, "application/json"),
        _static("/docs", docs, "text/html; charset=utf-8", {"Content-Security-Policy": _policy(docs)}),
        route("/", get=_to_docs),
        route("/problems/{name}", get=_problem_page),
    ]


def _policy(page: bytes) -> str:
    """What a page may do: run the script and use the style that stand in it, and talk to this gateway alone."""
    inline = {
        kind.decode(): f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
        for kind, text in _INLINE.findall(page)
    }
    return (
        f"default-src 'none'; script-src {inline['script']}; style-src {inline['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _static(path: str, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    # Asked for each time, sent only when it has changed: a new release shows at once.
    caching = {"ETag": tag, "Cache-Control": "no-cache", **(headers or {})}

    async def get(request: Request) -> Response:
        if names_tag(request, tag):
            return Response(None, 304, caching)
        return Response(content, 200, caching, media_type)

    return route(path, get=get)


async def _to_docs(_: Request) -> Response:
    return Response(None, 307, {"Location": "/docs"})


async def _problem_page(request: Request) -> Response:
    kind = BY_NAME.get(request.path_params["name"])
    if kind is None:
        raise Rejected("NOT_FOUND", f"there is no problem type {quoted(request.path_params['name'])}")
    return json_answer({"type": kind.type, "title": kind.title, "status": kind.status, "advice": kind.advice})
