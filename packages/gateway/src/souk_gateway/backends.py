"""The targets of a service at work: which of them a request's calls go to. See docs/adr/0006-weighted-targets.md.

Choosing is done for every call, so nothing in it waits or is shared with another thread.
"""

from __future__ import annotations  # the types of grpc are generic for type checkers only

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import grpc

from souk_contracts.batching import BatchingChannel
from souk_contracts.channel import connect
from souk_contracts.tasks import spawn
from souk_gateway import __version__
from souk_gateway.breakers import Breaker
from souk_gateway.errors import Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.retries import Retries
from souk_gateway.targets import Target, Targets

log = logging.getLogger(__name__)

Stub = TypeVar("Stub")

_BATCHED = ("Create", "Hold", "Refuse", "Reserve")
"""The calls that every order makes; others may take longer, or wait."""
_GRACE_S = 90.0
"""For calls under way to a target that is taken out: longer than any may take."""


class Backend(Generic[Stub]):
    """One target, with its channel, and the breaker and the budget for retries that are this process's for it."""

    def __init__(self, service: str, stub: Callable[[BatchingChannel], Stub], target: Target) -> None:
        self.name = f"{service} {target.version}".rstrip()
        self.target = target
        self.channel = connect(target.address, user_agent=f"souk-gateway/{__version__}")
        self.channel.get_state(try_to_connect=True)
        self._calls = BatchingChannel(self.channel, _BATCHED)
        self.stub = stub(self._calls)
        self.breaker = Breaker(self.name)
        self.retries = Retries()

    def is_ready(self) -> bool:
        """Whether it is connected, says that it is serving, and is not left alone."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY and not self.breaker.is_open()

    def is_away(self) -> bool:
        """Whether every connection to it has failed, the service says that it is not serving, or it is left alone."""
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE or self.breaker.is_open()

    async def close_when_idle(self) -> None:
        """Disconnects after the calls that wait or are under way, unless they take longer than any may."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await self._calls.idle()
            await self.channel.close(_GRACE_S)
        finally:
            await self.channel.close()


class Backends(Generic[Stub]):
    """All targets of one service; none before `use`. `chance` gives numbers from 0 to 1, and never 1."""

    def __init__(
        self,
        service: str,
        stub: Callable[[BatchingChannel], Stub],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.service = service
        self._stub = stub
        self._chance = chance
        self._by_version: dict[str, Backend[Stub]] = {}
        self._weighted: list[Backend[Stub]] = []
        self._closing: set[asyncio.Task[None]] = set()

    def use(self, targets: Targets) -> None:
        """Replaces the targets. Targets that stay keep their channels; the others' channels close after their calls."""
        old, self._by_version = self._by_version, {}
        for target in targets:
            backend = old.get(target.version)
            if backend is None or backend.target.address != target.address:
                backend = Backend(self.service, self._stub, target)
            backend.target = target
            self._by_version[target.version] = backend
        self._weighted = [backend for backend in self._by_version.values() if backend.target.weight]
        for version, backend in old.items():
            if self._by_version.get(version) is not backend:
                task = spawn(backend.close_when_idle(), f"closing the channel to {backend.name}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Ends every call, and disconnects."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for backend in self.all():
            await backend.channel.close()

    def all(self) -> list[Backend[Stub]]:
        return list(self._by_version.values())

    def versions(self) -> list[str]:
        """The versions that a request can ask for; empty if the service has a single target without a version."""
        return [version for version in self._by_version if version]

    def of(self, exchange: Exchange, failed: Backend[Stub] | None = None) -> Backend[Stub]:
        """Where the next call of a request goes: where it asks to go, or else where its calls went before.

        For its first call one is chosen by weight among those that are ready, and another one when that is away, or
        has `failed` to answer. Where none is ready, one is chosen all the same, and the call tells what is wrong.
        """
        wanted = exchange.pins.get(self.service)
        if wanted is not None:
            return self._pinned(wanted)
        version = exchange.choices.get(self.service)
        chosen = None if version is None else self._by_version.get(version)
        if chosen is None or chosen is failed or chosen.is_away():
            chosen = self._choose(failed)
            exchange.choices[self.service] = chosen.target.version
        return chosen

    def is_away(self, exchange: Exchange) -> bool:
        """Whether it is known, without asking, that a call for this request would fail."""
        wanted = exchange.pins.get(self.service)
        return all(backend.is_away() for backend in (self._weighted if wanted is None else [self._pinned(wanted)]))

    def _pinned(self, version: str) -> Backend[Stub]:
        backend = self._by_version.get(version)
        if backend is None:  # it was there when the request came
            raise Unavailable(f"{self.service} {version} no longer runs here; ask for another version in Souk-Prefer")
        return backend

    def _choose(self, failed: Backend[Stub] | None) -> Backend[Stub]:
        if len(self._weighted) == 1:
            return self._weighted[0]
        ready = [backend for backend in self._weighted if backend is not failed and backend.is_ready()]
        candidates = ready or self._weighted
        point = self._chance() * sum(backend.target.weight for backend in candidates)
        for backend in candidates:
            point -= backend.target.weight
            if point < 0:
                return backend
        return candidates[-1]  # the sum was rounded
