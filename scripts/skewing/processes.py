"""A version of a service as a process."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from skewing.installed import Installed
from souk_contracts.probe import is_serving

SERVING_S = 60.0
STOPPED_S = 30.0
_POLL_S = 0.05
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy for the way out, which `http_proxy` names, is not for Souk."""


class Failed(Exception):
    """A process did not do what it should; the text says which, and what it wrote."""


def free_addresses(count: int) -> Sequence[str]:
    """Different ones on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Process:
    """A service on a fixed address, with databases in a folder; it may be stopped, and started again."""

    def __init__(
        self,
        what: Installed,
        address: str,
        data: Path,
        targets: Mapping[str, str],
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`targets` says where the services are that it calls; `settings` are the environment's, beside these."""
        self.what = what
        self.address = address
        self._data = data
        self._log = data / f"{what.service}-{what.age}-{address.rpartition(':')[2]}.log"
        prefix = f"SOUK_{what.service.upper()}"
        # Nothing of the environment's: neither settings of Souk's nor another version's packages, nor a proxy, which
        # versions before 1.2 would call each other through.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SOUK_", "PYTHON")) and not name.lower().endswith("_proxy")
        }
        self._environment = {
            **kept,
            **{f"SOUK_{service.upper()}_TARGET": target for service, target in targets.items()},
            f"{prefix}_ADDRESS": address,
            f"{prefix}_DATABASE_URL": f"sqlite:///{data / what.service}.db",
            "SOUK_LOG_LEVEL": "warning",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process, which has been started."""
        assert self._process is not None
        return self._process.pid

    def migrate(self) -> None:
        """Brings the database to this version's schema. Raises Failed."""
        with self._log.open("ab") as log:
            done = subprocess.run(self._command("migrate"), env=self._environment, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise Failed(f"{self.what} cannot migrate its database:\n{self.wrote()}")

    def spawn(self) -> None:
        """Starts it, and does not wait for it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("serve"), cwd=self._data, env=self._environment, stdout=log, stderr=log
            )

    def serving(self) -> None:
        """Returns once it answers. Raises Failed where it does not."""
        assert self._process is not None
        deadline = time.monotonic() + SERVING_S
        while not self._answers():
            if self._process.poll() is not None:
                raise Failed(f"{self.what} ended with code {self._process.returncode}:\n{self.wrote()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.what} does not answer within {SERVING_S:.0f} s:\n{self.wrote()}")
            time.sleep(_POLL_S)

    def start(self) -> None:
        """Returns once it answers. Raises Failed."""
        self.spawn()
        self.serving()

    def stop(self) -> None:
        """SIGTERM, on which it must end by itself, and well. Raises Failed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOPPED_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.what} still runs {STOPPED_S:.0f} s after it was told to stop.") from None
        if code:
            raise Failed(f"{self.what} was told to stop, but ended with code {code}:\n{self.wrote()}")

    def kill(self) -> None:
        """For the end, whatever it is doing."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wrote(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _command(self, command: str) -> Sequence[str]:
        return [str(self.what.python), "-P", "-m", f"souk_{self.what.service}", command]

    def _answers(self) -> bool:
        if self.what.service != "gateway":
            return is_serving(self.address)
        try:
            with DIRECTLY.open(f"http://{self.address}/health/live", timeout=2):
                return True
        except OSError:
            return False
