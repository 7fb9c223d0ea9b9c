"""Handlers of calls as the generated servicers make them, and what becomes of their mistakes."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError

from souk_contracts.limits import MAX_RESPONSE_BYTES

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")


def unary(
    method: Callable[[Request], Awaitable[Response]],
    decode: Callable[[bytes], Request],
    encode: Callable[[Response], bytes],
) -> grpc.RpcMethodHandler[Request, bytes]:
    """A handler for a method that needs the request only: what else a call carries is the server's business.

    It decodes the request itself, so that one which cannot be read is refused as such, and encodes the answer itself,
    so that one which cannot be encoded fails as any other mistake does.
    """

    async def call(encoded: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            request = decode(encoded)
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, unreadable("the request", error))
        return bounded(encode(await method(request)))

    return grpc.unary_unary_rpc_method_handler(call)


class AnswerTooLong(Exception):
    """An answer that no client takes."""


def bounded(response: bytes) -> bytes:
    """An encoded response as it is. Raises AnswerTooLong, so that its call fails here and the log says why."""
    if len(response) > MAX_RESPONSE_BYTES:
        raise AnswerTooLong(f"it has {len(response)} bytes; clients take {MAX_RESPONSE_BYTES}")
    return response


def unreadable(what: str, error: DecodeError) -> str:
    """What to say of a message that cannot be read."""
    return f"{what} cannot be decoded: {error}"


class Batched(NamedTuple):
    """How calls of one method that came together are carried out."""

    decode: Callable[[bytes], Any]
    answer_all: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
    """Gives for each request its response, or the exception that it would raise alone."""
    encode: Callable[[Any], bytes]


async def each_alone(
    method: Callable[[Request], Awaitable[Response]], requests: Sequence[Request]
) -> Sequence[Response | Exception]:
    """Answers several requests as if each had come alone."""

    async def answer(request: Request) -> Response | Exception:
        try:
            return await method(request)
        except Exception as error:  # noqa: BLE001 (it is this call's result)
            return error

    return await asyncio.gather(*map(answer, requests))


def failure(method: str, error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status of a call that failed with what no contract names; what that was stays in the log."""
    if isinstance(error, NotImplementedError):
        return grpc.StatusCode.UNIMPLEMENTED, f"this version does not serve {method}"
    log.error("%s failed", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal error; the service's log has the details"
