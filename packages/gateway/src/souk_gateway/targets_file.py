"""A file of targets, which is read again when it changes: weights move without a restart.

It is TOML, and names every service, each with the text that its variable takes, so that a file which is only half
written is not taken for a whole one:

    orders = "1.0.0=orders-1-0:50051;90,1.1.0=orders-1-1:50051;10"
    reservations = "reservations:50051"
    loyalty = "loyalty:50051"
"""

import asyncio
import logging
import signal
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from souk_gateway.settings import BadSetting
from souk_gateway.targets import SERVICES, WANTED, Targets, targets_of

log = logging.getLogger(__name__)

_PERIOD_S = 1.0


class TargetsFile:
    """The file at a path. What it says is given to `use`: once by `load`, and then by `run` whenever it changes."""

    def __init__(self, path: Path, use: Callable[[Mapping[str, Targets]], None]) -> None:
        self._path = path
        self._use = use
        self._seen: bytes | str = b""
        """The content, or what kept it from being read."""

    def load(self) -> None:
        """Reads it for the first time. Raises `BadSetting`."""
        self._seen = self._read()
        self._take()

    async def run(self) -> None:
        """Reads it each second, and at once on SIGHUP, for ever. Where it is wrong, the log says so once, and what it
        said before stays in force."""
        hangup = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PERIOD_S):
                        await hangup.wait()
                hangup.clear()
                # Its content, not its time: that tells every change, and works in folders that are mounted.
                content = await asyncio.to_thread(self._read)
                if content != self._seen:
                    self._seen = content
                    self._take_if_good()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _take_if_good(self) -> None:
        try:
            self._take()
        except BadSetting as error:
            log.warning("%s The targets stay as they were.", error)

    def _take(self) -> None:
        if isinstance(self._seen, str):
            raise BadSetting("SOUK_TARGETS_FILE", str(self._path), f"a file that can be read ({self._seen})")
        self._use(_parsed(self._path, self._seen))

    def _read(self) -> bytes | str:
        try:
            return self._path.read_bytes()
        except OSError as error:
            return error.strerror or str(error)


def _parsed(path: Path, content: bytes) -> dict[str, Targets]:
    try:
        read = tomllib.loads(content.decode())
    except ValueError as error:
        raise BadSetting("SOUK_TARGETS_FILE", str(path), f"a file in TOML ({error})") from error
    if set(read) != set(SERVICES):
        names = f"{', '.join(SERVICES)}, and nothing else; it names {', '.join(read) or 'nothing'}"
        raise BadSetting("SOUK_TARGETS_FILE", str(path), f"a file that names {names}")
    found = {}
    for service in SERVICES:
        targets = targets_of(read[service]) if isinstance(read[service], str) else None
        if targets is None:
            raise BadSetting(f"{service} in {path}", read[service], WANTED)
        found[service] = targets
    return found
