"""What stands between two services, and lets a test act at an exact point of a call.

`GrpcProxy` knows the methods' names: it runs an action before a call is passed on, after the callee has committed but
before the caller hears of it, or after the answer; and it keeps a message back to deliver it when its sender has long
given up. Calls that travel together in a batch share their fate, which ends the stream that they are on. `TcpProxy`
knows bytes only: it cuts connections, and stalls them, as a bad network does.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import grpc

from souk_contracts.batch_codec import SERVICE_NAME, decode_calls, decode_results
from souk_contracts.channel import DIRECT, peer_of
from souk_contracts.errors import error_of

Context = grpc.aio.ServicerContext[Any, Any]
Action = Callable[[], Awaitable[None]]

_HEALTH = "/grpc.health.v1.Health/"
_BATCH = f"/{SERVICE_NAME}/Call"


class Point(StrEnum):
    """When something happens to a call."""

    BEFORE = "before the call"
    COMMITTED = "after the callee committed, before it answered"
    ANSWERED = "after the answer"


class Lose(Exception):
    """Raised by an action: the message that is under way there is lost."""


async def within(event: Awaitable[object], what: str, seconds: float = 30) -> None:
    """Waits for an event, and says for which one if it does not come."""
    try:
        await asyncio.wait_for(event, seconds)
    except TimeoutError:
        raise TimeoutError(f"waited {seconds:.0f} s for: {what}") from None


@dataclass(frozen=True)
class Message:
    """A call on its way, or several in a batch: methods and requests."""

    path: str
    request: bytes
    calls: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, path: str, request: bytes) -> Message:
        if path != _BATCH:
            return cls(path, request, ((path.rpartition("/")[2], request),))
        calls = decode_calls(request)
        return cls(path, request, tuple((method.rpartition("/")[2], sent) for method, sent in calls))

    def place(self, method: str, order_id: str) -> int | None:
        """Of the first call of a method, for this order, if one is named."""
        calls = enumerate(self.calls)
        return next((n for n, (name, sent) in calls if name == method and order_id.encode() in sent), None)


@dataclass
class Plan:
    """One action, at one point of the next call of a method; of every call, if it stays."""

    method: str
    point: Point
    action: Action
    order_id: str
    stays: bool = False
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    async def act(self) -> None:
        try:
            await self.action()
        finally:
            self._done.set()

    async def done(self) -> None:
        """Returns when the action has run."""
        await within(self._done.wait(), f"{self.method} to be called")


class Kept:
    """A message that was kept back. Its sender waits in vain, until its deadline."""

    def __init__(self, method: str, order_id: str) -> None:
        self.method, self.order_id = method, order_id
        self._there = asyncio.Event()
        self._deliver: Callable[[], Awaitable[bytes]] | None = None
        self._place: int | None = None

    async def there(self) -> None:
        """Returns when the message has come."""
        await within(self._there.wait(), f"{self.method} to be called")

    def take(self, message: Message, deliver: Callable[[], Awaitable[bytes]]) -> None:
        self._place = message.place(self.method, self.order_id) if message.path == _BATCH else None
        self._deliver = deliver
        self._there.set()

    async def deliver(self) -> bytes:
        """Passes it on, as a slow network does: late; gives the answer that nobody waits for any more, or raises it."""
        assert self._deliver is not None
        answer = await self._deliver()
        if self._place is None:
            return answer
        result = decode_results(answer).results[self._place]
        if result.response is None:
            raise error_of(result.status, grpc.aio.Metadata())
        return result.response


class GrpcProxy(grpc.GenericRpcHandler):
    """Passes unary calls on, whatever they are, and batches.

    Health checks of the connection get no answer: it always counts.
    """

    def __init__(self, port: int, upstream: str) -> None:
        self.address = f"127.0.0.1:{port}"
        self._upstream = upstream
        self._plans: list[Plan] = []
        self._kept: list[Kept] = []
        self.calls: list[str] = []

    async def start(self) -> None:
        options = [DIRECT, ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        self._channel = grpc.aio.insecure_channel(
            self._upstream, options=[*options, ("grpc.min_reconnect_backoff_ms", 50)]
        )
        pings = [("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.min_ping_interval_without_data_ms", 10_000)]
        self._server = grpc.aio.server(options=pings)
        self._server.add_generic_rpc_handlers([self])
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def at(self, point: Point, method: str, action: Action, order_id: str = "") -> Plan:
        """Runs the action once, at this point of the next call of the method (for this order, if one is named)."""
        plan = Plan(method, point, action, order_id)
        self._plans.append(plan)
        return plan

    def forget(self) -> None:
        """Drops what is planned."""
        self._plans.clear()
        self._kept.clear()

    def lose_answer(self, method: str, order_id: str = "") -> Plan:
        """Lets the next call through, and cuts off its answer."""
        return self.at(Point.COMMITTED, method, _lose, order_id)

    def lose_call(self, method: str, order_id: str = "") -> Plan:
        """Fails the next call before the callee hears of it."""
        return self.at(Point.BEFORE, method, _lose, order_id)

    def lose_calls(self, method: str, order_id: str = "") -> Plan:
        """Fails every call before the callee hears of it, until `forget`."""
        plan = self.lose_call(method, order_id)
        plan.stays = True
        return plan

    def lose_answers(self, method: str, order_id: str = "") -> Plan:
        """Lets every call through, and cuts off its answer, until `forget`."""
        plan = self.lose_answer(method, order_id)
        plan.stays = True
        return plan

    def keep(self, method: str, order_id: str = "") -> Kept:
        """Keeps the next call back."""
        kept = Kept(method, order_id)
        self._kept.append(kept)
        return kept

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Any method is served, but health, which a client takes for a yes if it is not implemented."""
        method = handler_call_details.method
        if method.startswith(_HEALTH):
            return None

        async def call(request: bytes, context: Context) -> bytes:
            return await self._pass_on(method, request, context)

        if method == _BATCH:
            return grpc.stream_stream_rpc_method_handler(self._pass_batches_on)
        return grpc.unary_unary_rpc_method_handler(call)

    async def _pass_on(self, path: str, request: bytes, context: Context) -> bytes:
        message = Message.of(path, request)
        plans = await self._meet(message)
        try:
            await _run(plans, Point.BEFORE)
            call = self._call(path, request, timeout=context.time_remaining())
            try:
                answer: bytes = await call
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._keep_for_next(plans)
                else:  # a refusal is an answer, too
                    _when_done(context, plans)
                    await _run(plans, Point.COMMITTED)
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            context.set_trailing_metadata(tuple(await call.trailing_metadata() or ()))
            _when_done(context, plans)
            await _run(plans, Point.COMMITTED)
        except Lose:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was cut")
        return answer

    async def _pass_batches_on(self, _: object, context: Context) -> None:
        upstream = self._open()
        try:
            if not peer_of(metadata := await upstream.initial_metadata()):
                await upstream.read()  # why the callee does not take it
            await context.send_initial_metadata(tuple(metadata or ()))
            while (request := await context.read()) is not grpc.aio.EOF:
                plans = await self._meet(Message.of(_BATCH, request))
                await _run(plans, Point.BEFORE)
                try:
                    answer = await _answer(upstream, request)
                except (Lose, grpc.aio.AioRpcError):
                    self._keep_for_next(plans)
                    raise
                await _run(plans, Point.COMMITTED)
                for part in answer:
                    await context.write(part)
                await _run(plans, Point.ANSWERED)
            await upstream.done_writing()
            await upstream.read()  # its end
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        except Lose:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was cut")
        finally:
            upstream.cancel()

    async def _meet(self, message: Message) -> list[Plan]:
        """What is planned for a message; one that is to be kept goes no further."""
        self.calls += [method for method, _ in message.calls]
        if (kept := self._take_kept(message)) is not None:
            kept.take(message, lambda: self._send(message.path, message.request))
            await asyncio.Event().wait()
        plans = [plan for plan in self._plans if message.place(plan.method, plan.order_id) is not None]
        for plan in plans:
            if not plan.stays:
                self._plans.remove(plan)
        return plans

    def _keep_for_next(self, plans: list[Plan]) -> None:
        """The callee was not there, so what was to happen once it had committed waits for the next call."""
        self._plans += [plan for plan in plans if not plan.stays and plan.point is not Point.BEFORE]

    async def _send(self, path: str, request: bytes) -> bytes:
        # The deadline of a late message's sender does not matter any more.
        if path == _BATCH:
            stream = self._open(wait_for_ready=True)
            try:
                return b"".join(await _answer(stream, request))  # which is how protobuf joins lists
            finally:
                stream.cancel()
        answer: bytes = await self._call(path, request, wait_for_ready=True)
        return answer

    def _open(self, **options: object) -> Any:
        channel: Any = self._channel
        return channel.stream_stream(_BATCH)(**options)

    def _call(self, path: str, request: bytes, **options: object) -> Any:
        channel: Any = self._channel  # whose types know messages, but no bytes
        return channel.unary_unary(path)(request, **options)

    def _take_kept(self, message: Message) -> Kept | None:
        for kept in self._kept:
            if message.place(kept.method, kept.order_id) is not None:
                self._kept.remove(kept)
                return kept
        return None


async def _answer(stream: Any, request: bytes) -> list[bytes]:
    """That to one list of calls, in one message or several."""
    try:
        await stream.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise Lose from None
    parts: list[bytes] = []
    while not parts or decode_results(parts[-1]).more:
        part = await stream.read()
        if part is grpc.aio.EOF:
            raise Lose
        parts.append(part)
    return parts


async def _run(plans: list[Plan], point: Point) -> None:
    for plan in plans:
        if plan.point is point:
            await plan.act()


async def _lose() -> None:
    raise Lose


_tasks: set[asyncio.Task[None]] = set()


def _when_done(context: Context, plans: list[Plan]) -> None:
    def start(_: object) -> None:
        task = asyncio.ensure_future(_run(plans, Point.ANSWERED))
        _tasks.add(task)  # the loop alone would not keep it
        task.add_done_callback(_tasks.discard)

    context.add_done_callback(start)  # type: ignore[arg-type]  # called with the context alone, whatever its type says


class TcpProxy:
    """Passes bytes on, while it may."""

    def __init__(self, port: int, upstream: str) -> None:
        self.address = f"127.0.0.1:{port}"
        self._port = port
        self._host, _, upstream_port = upstream.rpartition(":")
        self._upstream_port = int(upstream_port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def stop(self) -> None:
        self._server.close()
        self.flow()
        self.cut()
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task
        await self._server.wait_closed()

    def cut(self) -> None:
        """Resets every connection; new ones may come at once."""
        for ends in self._connections:
            for end in ends:
                with suppress(OSError):
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                end.transport.abort()

    def stall(self) -> None:
        """Lets nothing through, and says nothing of it."""
        self._flowing.clear()

    def flow(self) -> None:
        """Lets everything through again, also what came meanwhile."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, upstream)
        self._connections.add(ends)
        try:
            await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer))
        finally:
            self._connections.discard(ends)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()  # neither end speaks into half a connection
