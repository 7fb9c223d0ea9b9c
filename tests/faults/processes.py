"""One service as one process that a test owns: it alone starts it, kills it and starts it again."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

import grpc
import httpx
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.faults.forked import FORKS, serve

_POLL_S = 0.03


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60) -> None:
    """Asks again and again, for what no event can be waited for: another process's state."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 (no event of this process tells of another's state)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TimeoutError(f"waited {seconds:.0f} s for: {what}") from None


class Service:
    """A service's process on a fixed port, so that it can come back to where it was."""

    def __init__(
        self, name: str, port: int, environment: Mapping[str, str], folder: Path, database_url: str | None = None
    ) -> None:
        """`environment` is added to that of the tests; the database is a file in `folder`, where none is named."""
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self.log = folder / f"{name}-{port}.log"
        self.database_url = database_url or f"sqlite:///{folder / name}.db"
        self._environment = dict(environment)
        self._folder = folder
        self._process: ForkServerProcess | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def spawn(self, **settings: str) -> None:
        """Starts the process, and does not wait for it. `settings` hold from now on."""
        assert self._process is None, f"{self.name} runs already"
        self._environment |= settings
        prefix = f"SOUK_{self.name.upper()}"
        environment = {
            **os.environ,
            **self._environment,
            f"{prefix}_DATABASE_URL": self.database_url,
            f"{prefix}_ADDRESS": self.address,
        }
        self._process = FORKS.Process(target=serve, args=(self.name, environment, str(self._folder), str(self.log)))
        self._process.start()

    async def start(self, **settings: str) -> None:
        """Starts the process, and returns once it serves."""
        self.spawn(**settings)
        await self.serving()

    async def restart(self, **settings: str) -> None:
        """Kills the process, and starts it again with these settings."""
        self.kill()
        await self.start(**settings)

    async def serving(self) -> None:
        """Returns once it answers; raises where it ends instead."""
        await until(self._is_serving, f"{self.name} to serve")

    async def not_serving(self) -> None:
        """Returns once its health says that it cannot work."""

        async def is_not() -> bool:
            return not await self._is_serving()

        await until(is_not, f"{self.name} to say that it cannot serve")

    def kill(self) -> None:
        """SIGKILL, as a crash would; returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    async def stop(self) -> None:
        """SIGTERM; it must end by itself, and well."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.join, 30)
        assert self._process.exitcode == 0, f"{self.name} was told to stop: exit code {self._process.exitcode}"
        self._process = None

    def copy_log(self, to: IO[str]) -> None:
        """What it wrote, for whoever must find out why a test failed."""
        if self.log.exists():
            to.write(f"---- {self.name} ({self.log})\n{self.log.read_text(errors='replace')}\n")

    async def _is_serving(self) -> bool:
        assert self._process is not None
        if (code := self._process.exitcode) is not None:
            raise RuntimeError(f"{self.name} ended with code {code}; its log, {self.log}, says why")
        if self.name == "gateway":
            try:
                async with httpx.AsyncClient() as client:
                    answer = await client.get(f"http://{self.address}/health/live", timeout=2)
            except httpx.HTTPError:
                return False
            return answer.status_code == 200
        async with grpc.aio.insecure_channel(self.address) as channel:
            try:
                health: HealthCheckResponse = await HealthStub(channel).Check(HealthCheckRequest(), timeout=2)
            except grpc.aio.AioRpcError:
                return False
            return bool(health.status == HealthCheckResponse.SERVING)
