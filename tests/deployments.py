"""The ways in which Souk is deployed, each as something that a test can start, disturb and destroy."""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import httpx
from imaging.origin import from_tree

SERVICES = ("orders", "reservations", "loyalty")
POSTGRES_IMAGE = "souk-test/postgres"


class Deployment(Protocol):
    """A running Souk."""

    url: str

    def start(self) -> None:
        """Starts it, with the data that is there, and returns when every service is SERVING."""

    def stop(self) -> None:
        """Stops it as a person would; the data stay."""

    def kill(self, service: str) -> None:
        """Takes one service away: killed, or stopped where whoever watches over it would start it again at once."""

    def revive(self, service: str) -> None:
        """Starts a service that was killed, and nothing else."""

    def destroy(self) -> None:
        """Stops whatever runs, and deletes the data."""


_FIRST_PORT, _BLOCK, _BLOCKS = 12_000, 20, 125
"""Each of up to eight test processes has so many blocks of ports. They are below those that the system gives to
connections by itself, and no other process of the same run takes them."""
_blocks = itertools.count(random.randrange(_BLOCKS))


def free_port(count: int = 4) -> int:
    """A port with `count` - 1 free ones above it, at most 20 in all."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    for block in _blocks:
        port = _FIRST_PORT + (process * _BLOCKS + block % _BLOCKS) * _BLOCK
        if all(is_free(port + n) for n in range(count)):
            break
    return port


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Asks again and again, for what no event can be waited for: another process's state."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for: {what}")
        time.sleep(0.05)


def is_serving(url: str, *services: str) -> bool:
    """Whether the gateway says that these services are SERVING; all, where none is named."""
    try:
        body = httpx.get(f"{url}/health/ready", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(body["services"][name] == "SERVING" for name in services or SERVICES)


class Processes:
    """Four processes, by the launcher that `scripts/up` uses."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._data = root, folder / "data"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = (folder / "log").open("w")
        self._launcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._launcher = subprocess.Popen(
            [sys.executable, "scripts/launch", "--data", str(self._data), "--port", str(self._port)],
            cwd=self._root,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: is_serving(self.url), f"all services to be SERVING (log: {self._log.name})")

    def stop(self) -> None:
        assert self._launcher is not None
        self._launcher.send_signal(signal.SIGINT)
        assert self._launcher.wait(60) == 0

    def pid(self, service: str) -> int:
        """The process of a service: the launcher's child that was started as such."""
        assert self._launcher is not None
        found = subprocess.run(
            ["pgrep", "-P", str(self._launcher.pid), "-f", f"souk_{service} serve"],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(found.stdout.split()[0]) if found.stdout else 0

    def kill(self, service: str) -> None:
        # The launcher would start it again: a stopped process is as dead as a killed one to its clients.
        os.kill(self.pid(service), signal.SIGSTOP)
        wait_until(lambda: not is_serving(self.url, service), f"{service} to be seen as gone")

    def revive(self, service: str) -> None:
        os.kill(self.pid(service), signal.SIGKILL)
        wait_until(lambda: is_serving(self.url, service), f"{service} to be SERVING again")

    def destroy(self) -> None:
        if self._launcher is not None and self._launcher.poll() is None:
            self.stop()
        self._log.close()


class _Compose:
    """A Compose project of its own."""

    file: str
    gateway_image = "gateway"

    def __init__(self, root: Path, folder: Path, *overrides: str) -> None:
        """`overrides` are compose files that go on top of the deployment's own."""
        self._root = root
        self._overrides = overrides
        self._project = f"souk-test-{uuid4().hex[:8]}"
        self._port = free_port(2)
        self.url = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self._variables = {
            "SOUK_PORT": str(self._port),
            "SOUK_PORTS": f"{self._port}-{self._port + 1}",
            "POSTGRES_IMAGE": POSTGRES_IMAGE,
            # The images of this tree: another clone may build others meanwhile, and take the tag `tree`.
            **{f"{name.upper()}_VERSION": from_tree(name).tags[0] for name in SERVICES},
            "GATEWAY_VERSION": from_tree(self.gateway_image).tags[0],
        }

    @property
    def network(self) -> str:
        """The one over which the services call each other."""
        return f"{self._project}_internal"

    def compose(self, *arguments: str) -> str:
        """Runs a Compose command on the project; gives what it printed."""
        files = [word for file in (f"compose/{self.file}", *self._overrides) for word in ("-f", file)]
        done = subprocess.run(
            ["docker", "compose", "-p", self._project, *files, *arguments],
            cwd=self._root,
            env={**os.environ, **self._variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        self.compose("up", "--detach")
        wait_until(lambda: is_serving(self.url), "all services to be SERVING")

    def stop(self) -> None:
        self.compose("stop")

    def destroy(self) -> None:
        (self._folder / "log").write_text(self.compose("logs", "--no-color"))
        self.compose("down", "--volumes", "--timeout", "1")


class Containers(_Compose):
    """Four containers, one a service."""

    file = "compose.yaml"

    def kill(self, service: str) -> None:
        self.compose("kill", service)
        wait_until(lambda: not is_serving(self.url, service), f"{service} to be seen as gone")

    def revive(self, service: str) -> None:
        self.compose("start", service)
        wait_until(lambda: is_serving(self.url, service), f"{service} to be SERVING again")


class OnPostgreSQL(Containers):
    """Two containers of each service, and PostgreSQL; a service is killed with all its replicas."""

    file = "postgres.yaml"

    def start(self) -> None:
        build = ["docker", "build", "--quiet", "--tag", POSTGRES_IMAGE, "tests/postgres"]
        subprocess.run(build, cwd=self._root, stdout=subprocess.DEVNULL, check=True)
        super().start()


class SingleContainer(_Compose):
    """The same four processes in one container, as the prototype had it."""

    file = "single.yaml"
    gateway_image = "single"

    def kill(self, service: str) -> None:
        self._signal(service, "STOP")
        wait_until(lambda: not is_serving(self.url, service), f"{service} to be seen as gone")

    def revive(self, service: str) -> None:
        self._signal(service, "KILL")
        wait_until(lambda: is_serving(self.url, service), f"{service} to be SERVING again")

    def _signal(self, service: str, name: str) -> None:
        container = self.compose("ps", "--quiet").split()[0]
        processes = subprocess.run(
            ["docker", "top", container, "-o", "pid,args"], capture_output=True, text=True, check=True
        ).stdout
        (pid,) = [line.split()[0] for line in processes.splitlines() if f"souk_{service} serve" in line]
        os.kill(int(pid), getattr(signal, f"SIG{name}"))


DEPLOYMENTS: dict[str, type[Processes] | type[Containers] | type[SingleContainer]] = {
    "postgresql": OnPostgreSQL,
    "processes": Processes,
    "containers": Containers,
    "single_container": SingleContainer,
}
