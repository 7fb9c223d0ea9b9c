"""The server's end: what every Souk service does alike, whatever it serves."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

import souk_contracts.batch.v1.codec  # noqa: F401 (so that reflection can describe it)
from souk_contracts import batch_codec, stopping
from souk_contracts.batch_servicer import Batches
from souk_contracts.errors import Refused
from souk_contracts.handlers import Batched, failure
from souk_contracts.limits import MAX_REQUEST_BYTES, MAX_STREAMS

log = logging.getLogger(__name__)

_HEALTH_PERIOD_S = 1.0


class Servicer(Protocol):
    """A generated servicer's base class, as far as the server cares."""

    SERVICE_NAME: str

    def handler(self) -> grpc.GenericRpcHandler: ...

    def batched(self) -> Mapping[str, Batched]: ...


_OTHER_RPCS = 1000
"""Streams, health checks, and calls that are being refused, beside the calls of `max_rpcs`."""


@dataclass(frozen=True)
class ServerSettings:
    """How a server shows itself, and how it lets go."""

    service: str
    version: str
    address: str
    """`host:port`; port 0 takes a free one."""
    drain_s: float = 10.0
    """How long calls may go on after SIGTERM."""
    max_connection_age_s: float = 20.0
    """When clients are asked to connect anew. Without a maximum, replicas that are added later get no calls."""
    max_rpcs: int = 4000
    """Calls at a time, those that wait for something included; others get RESOURCE_EXHAUSTED, but for health checks."""


class GrpcServer:
    """A grpc.aio server with health, reflection, batches, its version in the trailing metadata, and a graceful drain.

    `is_ready` says whether the service can answer, its database included; health follows it, within a second, and
    also when it does not return in time. It is asked once more before `start` returns.
    """

    def __init__(
        self, settings: ServerSettings, servicers: Sequence[Servicer], is_ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._settings = settings
        self._is_ready = is_ready
        self._names = ["", *(servicer.SERVICE_NAME for servicer in servicers)]
        self._serving = False
        self._health = health.aio.HealthServicer()
        self._watch: asyncio.Task[None] | None = None
        served_by = (("souk-service", settings.service), ("souk-version", settings.version))
        age_ms = int(settings.max_connection_age_s * 1000)
        self._server = grpc.aio.server(
            interceptors=[_Conventions(served_by, settings.max_rpcs)],
            options=[
                # Two servers on one port would share its connections by chance.
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_age_ms", age_ms),
                ("grpc.max_connection_age_grace_ms", int(settings.drain_s * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
            ],
            maximum_concurrent_rpcs=settings.max_rpcs + _OTHER_RPCS,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        methods = {path: method for each in servicers for path, method in each.batched().items()}
        batches = Batches(methods, served_by)
        self._server.add_generic_rpc_handlers([*(servicer.handler() for servicer in servicers), batches.handler()])
        reflection.enable_server_reflection(
            [*self._names[1:], batch_codec.SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )

    async def start(self) -> int:
        """Listens; returns the port. Raises `RuntimeError` if the address cannot be listened on."""
        try:
            port = self._server.add_insecure_port(self._settings.address)
        except RuntimeError as error:
            await self._server.stop(None)
            raise RuntimeError(
                f"cannot listen on {self._settings.address}; stop what listens there, or set another address"
            ) from error
        await self._follow_readiness()
        await self._server.start()
        self._watch = asyncio.create_task(self._follow_readiness_for_ever())
        log.info("%s %s listens on port %d", self._settings.service, self._settings.version, port)
        return port

    async def drain(self) -> None:
        """Says NOT_SERVING, takes no new calls, and lets those that run finish."""
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.drain_s)
        log.info("%s %s has stopped", self._settings.service, self._settings.version)

    async def _follow_readiness_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_PERIOD_S)
            try:
                await self._follow_readiness()
            except Exception:  # health must go on being told, whatever it was
                log.exception("%s could not tell whether it is ready; trying again", self._settings.service)

    async def _follow_readiness(self) -> None:
        try:
            async with asyncio.timeout(_HEALTH_PERIOD_S):
                serving = await self._is_ready()
        except TimeoutError:
            serving = False
        except Exception:  # whatever it is, a service that cannot tell is not serving
            if self._serving or self._watch is None:  # once for an outage
                log.exception("%s cannot check whether it is ready, so it says NOT_SERVING", self._settings.service)
            serving = False
        if serving != self._serving or self._watch is None:
            self._serving = serving
            status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
            log.info("%s is %s", self._settings.service, HealthCheckResponse.ServingStatus.Name(status))
            for name in self._names:
                await self._health.set(name, status)


def termination() -> asyncio.Event:
    """An event of the running loop that SIGTERM and SIGINT set; one that has come before is not lost."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    if stopping.has_come():
        event.set()
    return event


class _Conventions(grpc.aio.ServerInterceptor):
    """Names the version in every answer, and turns refusals into statuses; what is unexpected stays in the log.

    It refuses a call while `max_calls` others run. A health check is none of them: who is busy is not away.
    """

    def __init__(self, served_by: tuple[tuple[str, str], ...], max_calls: int) -> None:
        self._served_by = served_by
        self._max_calls = max_calls
        self._calls = 0
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None or handler.unary_unary is None:  # unknown, or a stream, which says so itself
                return handler
            self._handlers[method] = grpc.unary_unary_rpc_method_handler(
                self._call(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        return self._handlers[method]

    def _call(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        counts = not method.startswith(f"/{health.SERVICE_NAME}/")

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            context.set_trailing_metadata(self._served_by)
            if counts and self._calls >= self._max_calls:
                say = f"{self._max_calls} calls are running; try again in a moment"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, say)
            self._calls += counts
            try:
                return await behavior(request, context)
            except Refused as refused:
                details: tuple[tuple[str, str | bytes], ...] = (*self._served_by, refused.trailing_metadata())
                await context.abort(refused.code, refused.detail, details)
            except grpc.aio.BaseError:  # gRPC's own: the health service aborted the call, or the server has stopped
                raise
            except Exception as error:  # noqa: BLE001 (`failure` logs it)
                await context.abort(*failure(method, error))
            finally:
                self._calls -= counts

        return call
