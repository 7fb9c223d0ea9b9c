"""The server's end of batches: calls of a method that came together are carried out together."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from souk_contracts.batch_codec import SERVICE_NAME, Call, Result, decode_calls, encode_results
from souk_contracts.errors import Refused, plain_status
from souk_contracts.handlers import Batched, bounded, each_alone, failure, unreadable
from souk_contracts.limits import MAX_BATCHES


class Batches:
    """Serves `souk.batch.v1.BatchService` for methods that are given by their paths.

    `served_by` is the metadata of each stream: who answers.
    """

    def __init__(self, methods: Mapping[str, Batched], served_by: Sequence[tuple[str, str]]) -> None:
        self._methods = methods
        self._served_by = served_by
        self._streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME, {"Call": grpc.stream_stream_rpc_method_handler(self._serve)}
        )

    async def _serve(self, _: object, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
        context.set_trailing_metadata(self._served_by)
        if self._streams >= MAX_BATCHES:
            say = f"{MAX_BATCHES} streams of batches are open; close those that you do not use"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, say)
        self._streams += 1
        try:
            await context.send_initial_metadata(self._served_by)
            while (encoded := await context.read()) is not grpc.aio.EOF:
                try:
                    calls = decode_calls(encoded)
                except DecodeError as error:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, unreadable("the list of calls", error))
                for part in encode_results(await self.call(calls)):
                    await context.write(part)
        except grpc.aio.BaseError:  # gRPC's own: the stream was aborted, or its server has stopped
            raise
        except Exception as error:  # noqa: BLE001 (`failure` logs it)
            await context.abort(*failure("a list of calls", error))
        finally:
            self._streams -= 1

    async def call(self, calls: Sequence[Call]) -> Sequence[Result]:
        """Carries out all calls, those of a method together."""
        places = defaultdict[str, list[int]](list)
        for place, call in enumerate(calls):
            places[call.method].append(place)
        if len(places) == 1:
            return await self._results(calls[0].method, [call.request for call in calls])
        results = [Result(None)] * len(calls)

        async def carry_out(method: str) -> None:
            found = await self._results(method, [calls[place].request for place in places[method]])
            for place, result in zip(places[method], found, strict=True):
                results[place] = result

        await asyncio.gather(*map(carry_out, places))
        return results

    async def _results(self, method: str, encoded: Sequence[bytes]) -> Sequence[Result]:
        batched = self._methods.get(method)
        if batched is None:
            return [_failed(method, NotImplementedError())] * len(encoded)
        requests = [_decoded(method, batched, each) for each in encoded]
        readable = [request for request in requests if not isinstance(request, Result)]
        answers = iter(await _answers(batched, readable))
        return [
            request if isinstance(request, Result) else _result(method, batched, next(answers)) for request in requests
        ]


def _decoded(method: str, batched: Batched, encoded: bytes) -> Any:
    """The request; or its Result, where it cannot be read."""
    try:
        return batched.decode(encoded)
    except DecodeError as error:
        return Result(None, plain_status(grpc.StatusCode.INVALID_ARGUMENT, unreadable(f"a request of {method}", error)))


async def _answers(batched: Batched, requests: Sequence[Any]) -> Sequence[Any]:
    try:
        return await batched.answer_all(requests)
    except Refused as refused:
        return [refused] * len(requests)
    except Exception:  # noqa: BLE001 (whatever it is, it may come from one of them and must not spoil the others)

        async def alone(request: Any) -> Any:
            (answer,) = await batched.answer_all([request])
            return answer

        return await each_alone(alone, requests)


def _result(method: str, batched: Batched, answer: Any) -> Result:
    if isinstance(answer, Refused):
        return Result(None, answer.status())
    if isinstance(answer, Exception):
        return _failed(method, answer)
    try:
        return Result(bounded(batched.encode(answer)))
    except Exception as error:  # noqa: BLE001 (`failure` logs it)
        return _failed(method, error)


def _failed(method: str, error: Exception) -> Result:
    return Result(None, plain_status(*failure(method, error)))
