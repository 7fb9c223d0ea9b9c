"""The server's end of batches: each call goes to its own handler, as if it had come alone."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from souk_contracts.batch.v1 import BatchServicer, CallRequest, CallResponse, Item, Result
from souk_contracts.errors import Refused, plain_status
from souk_contracts.handlers import failure


@dataclass
class _Lookup:
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Batches(BatchServicer):
    """Serves `souk.batch.v1.BatchService` for the unary methods of `handlers`."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers = handlers
        self._methods: dict[str, Any] = {}

    async def call(self, request: CallRequest) -> CallResponse:
        return CallResponse(results=await asyncio.gather(*map(self._result, request.items)))

    async def _result(self, item: Item) -> Result:
        try:
            handler = self._handler(item.method)
            return Result(response=await handler.unary_unary(handler.request_deserializer(item.request), None))
        except DecodeError:
            detail = f"the request of {item.method} cannot be read"
            return Result(status=plain_status(grpc.StatusCode.INVALID_ARGUMENT, detail))
        except Refused as refused:
            return Result(status=refused.status())
        except Exception as error:  # noqa: BLE001 (`failure` logs it)
            return Result(status=plain_status(*failure(item.method, error)))

    def _handler(self, method: str) -> Any:
        """The `grpc.RpcMethodHandler`. Raises NotImplementedError."""
        if method not in self._methods:
            for each in self._handlers:
                handler = each.service(_Lookup(method))
                if handler is not None:
                    self._methods[method] = handler
                    break
            else:
                raise NotImplementedError
        return self._methods[method]
