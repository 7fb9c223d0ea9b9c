"""Handlers of calls as the generated servicers make them."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

Request = TypeVar("Request")
Response = TypeVar("Response")


def unary(
    method: Callable[[Request], Awaitable[Response]],
    decode: Callable[[bytes], Request],
    encode: Callable[[Response], bytes],
) -> grpc.RpcMethodHandler[Request, Response]:
    """A handler for a method that needs the request only: what else a call carries is the server's business."""

    async def call(request: Request, _context: grpc.aio.ServicerContext[Any, Any]) -> Response:
        return await method(request)

    return grpc.unary_unary_rpc_method_handler(call, decode, encode)
