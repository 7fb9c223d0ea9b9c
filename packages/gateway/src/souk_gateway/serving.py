"""Serves on a listener: takes connections in as far as the limits allow, looks after them, and drains at the end.

hypercorn's own `serve` closes, at the moment of its shutdown, every connection that is idle or has just been accepted;
a request that is on its way then fails with a reset, which its client cannot tell from one that was carried out. And it
takes in whoever comes.
"""

import asyncio
import errno
import heapq
import logging
import socket
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from starlette.types import ASGIApp

from souk_gateway.addresses import counted, is_trusted
from souk_gateway.answers import refusal
from souk_gateway.connections import Connection, refuse
from souk_gateway.limits import Bucket, Limits
from souk_gateway.streams import Site

log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often connections are looked through for those that have been idle, or too slow, for too long."""
_LINGER_S = 1.0
"""How long idle connections stay open in a drain, for requests that are on their way."""
_AT_ONCE = 4
"""Connections that are taken in before others have their turn."""
_REST_S = 0.1
"""How long nobody is taken in after descriptors have run out."""
_BURST, _PER_SECOND = 100, 50
"""How many connections of an address that is at a limit make room or are told why they are refused; further ones are
closed at once, as they would cost more than they are worth."""
_BUDGETS = 4096
"""Addresses whose budgets are remembered."""
_TURNED_AWAY = 64
"""Refused connections that are kept until _LOOK_S is over: closed at once, they might be reset before their client has
read why."""
_READ_AHEAD_BYTES = 32 * 1024
"""What is read of a connection before it is asked for, twice at most."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve_http(
    app: ASGIApp,
    config: Config,
    listener: socket.socket,
    shutdown: Callable[[], Awaitable[object]],
    limits: Limits | None = None,
) -> None:
    """Serves on the listener until `shutdown` returns; then closes it, and drains.

    Whoever connected before is served. Answers close their connections; those that are idle stay open for a second
    more, and requests that run may take `config.graceful_timeout`.
    """
    site = Site(app, config, limits or Limits())
    door = Door(site, listener)
    looking = asyncio.create_task(door.look_after())
    try:
        await shutdown()
        # Closed, it would reset whoever is still in its queue: so they are taken out first.
        door.take_in_all()
    finally:
        door.close()
    connections = door.connections
    site.draining = True
    await asyncio.sleep(0)  # their tasks begin
    if connections:
        await asyncio.wait(connections, timeout=_LINGER_S)
    site.ending = True
    for connection in list(connections.values()):
        if isinstance(connection, Connection):
            connection.close_if_idle()
    if connections:
        await asyncio.wait(connections, timeout=config.graceful_timeout)
    looking.cancel()
    for task in connections:
        task.cancel()
    await asyncio.gather(looking, *connections, return_exceptions=True)


class Door:
    """Takes connections in, and knows those that are there.

    Where a limit is reached, those who come last are not refused as long as somebody keeps the gateway waiting: the
    connection that has done so for the longest goes, and one that had a request before only if there is no other.
    """

    def __init__(self, site: Site, listener: socket.socket) -> None:
        self.connections: dict[asyncio.Task[None], Connection | socket.socket] = {}
        """Each by the task that serves it; a socket as long as it is only accepted."""
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._context = WorkerContext(None)
        self._addresses: dict[asyncio.Task[None], str] = {}
        """Of the connections that count, which are all but those that had to go."""
        self._by_address: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._budgets: dict[str, Bucket] = {}
        self._turned_away: deque[socket.socket] = deque()
        self._listener = listener
        self._is_open = True
        self._rest: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Takes nobody in any more."""
        if self._is_open:
            self._is_open = False
            if self._rest is not None:
                self._rest.cancel()
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._close_turned_away(0)

    def take_in_all(self) -> None:
        """Takes in whoever is in the listener's queue."""
        while self._accept():
            pass

    async def look_after(self) -> None:
        """Ends, again and again, the connections that are beyond a limit. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self._look_through()
            except Exception:
                log.exception("The gateway failed while it looked after its connections")

    def _look_through(self) -> None:
        now = self._loop.time()
        self._close_turned_away(0)
        buffered = []
        for connection in list(self.connections.values()):
            if isinstance(connection, Connection):
                connection.check(now)
                if size := connection.buffered_bytes():
                    buffered.append((size, id(connection), connection))
        excess = sum(size for size, _, _ in buffered) - self._site.limits.max_buffered_bytes
        for size, _, connection in sorted(buffered, reverse=True) if excess > 0 else ():
            if excess > 0:
                excess -= size
                self._site.calm(connection.address)
                self._site.refusals.note("Ended connections, SOUK_MAX_BUFFERED_BYTES is reached", connection.address)
                connection.abort()
        self._site.refusals.report()

    def _accept(self) -> bool:
        """Takes some in; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                connected, peer = self._listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return False
                continue  # that one had gone again
            self._take_in(connected, peer[0] if isinstance(peer, tuple) else "")
        return True

    def _pause(self, error: OSError) -> None:
        """Descriptors, or memory, have run out. Trying again at once would take all of the processor's time."""
        self._site.refusals.note("No connection can be accepted", f"{error.strerror}; raise the limit (ulimit -n)")
        self._close_turned_away(0)
        self._evict(self._addresses, len(self._addresses) // 4)
        if self._is_open and self._rest is None:
            self._loop.remove_reader(self._listener)
            self._rest = self._loop.call_later(_REST_S, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)

    def _take_in(self, connected: socket.socket, peer: str) -> None:
        limits, address = self._site.limits, counted(peer)
        if is_trusted(peer, limits.trusted_proxies):
            address = ""  # many clients come from there
        theirs = self._by_address.get(address, ()) if address else ()
        for tasks, limit, name in (
            (theirs, limits.max_connections_per_address, "SOUK_MAX_CONNECTIONS_PER_ADDRESS"),
            (self._addresses, limits.max_connections, "SOUK_MAX_CONNECTIONS"),
        ):
            if len(tasks) < limit:
                continue
            if not self._budget(address).take():
                self._site.refusals.note("Closed connections, too many come from one address", address)
                return connected.close()
            if not self._evict(tasks, limit // 32):
                return self._turn_away(connected, name, address)
        task = self._loop.create_task(self._serve(connected))
        self.connections[task] = connected
        self._addresses[task] = address
        self._by_address[address].add(task)
        task.add_done_callback(self._has_ended)
        return None

    async def _serve(self, connected: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        reader = asyncio.StreamReader(_READ_AHEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connected)
        except OSError:  # it had gone before it was taken in
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            connection = self.connections[task] = Connection(self._site, self._context, reader, writer)
        except OSError:  # it has gone meanwhile, and has no address any more
            transport.abort()
            return
        await connection.run()

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        left = self.connections.pop(task)
        if not isinstance(left, Connection):
            left.close()
        self._discount(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("The gateway failed while it served a connection", exc_info=error)

    def _discount(self, task: asyncio.Task[None]) -> None:
        address = self._addresses.pop(task, None)
        if address is not None:
            tasks = self._by_address[address]
            tasks.discard(task)
            if not tasks:
                del self._by_address[address]

    def _budget(self, address: str) -> Bucket:
        budget = self._budgets.get(address)
        if budget is None:
            if len(self._budgets) >= _BUDGETS:
                self._budgets.clear()
            budget = self._budgets[address] = Bucket(_BURST, _PER_SECOND, self._loop.time)
        return budget

    def _evict(self, tasks: Collection[asyncio.Task[None]], count: int) -> bool:
        """Ends those that have kept the gateway waiting for the longest: several at once, as finding them takes time.

        Returns whether there were any.
        """
        found: list[tuple[bool, float, int, asyncio.Task[None]]] = []
        for task in tasks:
            connection = self.connections.get(task)
            if not isinstance(connection, Connection):  # it was accepted just now: later than all that wait
                found.append((False, self._loop.time(), len(found), task))
            elif (since := connection.waits_since()) is not None:
                found.append((connection.has_served, since, len(found), task))
        for *_, task in heapq.nsmallest(max(1, count), found):
            connection = self.connections.get(task)
            if isinstance(connection, Connection):
                connection.abort()
            else:
                task.cancel()
            self._site.refusals.note("Ended waiting connections to take in others", self._addresses[task])
            self._discount(task)
        return bool(found)

    def _turn_away(self, connected: socket.socket, limit: str, address: str) -> None:
        self._site.refusals.note(f"Refused connections, {limit} is reached", address)
        self._close_turned_away(_TURNED_AWAY - 1)
        refuse(connected, refusal(503, self._site.headers() + b"\r\nretry-after: 1"))
        self._turned_away.append(connected)

    def _close_turned_away(self, left: int) -> None:
        while len(self._turned_away) > left:
            self._turned_away.popleft().close()
