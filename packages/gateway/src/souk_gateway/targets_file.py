"""A file of targets, which is read again when it changes: weights move without a restart.

It is TOML and must name every service, so that a half-written file is not mistaken for a whole one. Each service has
the same text that its SOUK_<SERVICE>_TARGET variable takes:

    orders = "1.0.0=orders-1-0:50051;90,1.1.0=orders-1-1:50051;10"
    reservations = "reservations:50051"
    loyalty = "loyalty:50051"
"""

import asyncio
import logging
import os
import signal
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from souk_gateway.settings import BadSetting
from souk_gateway.targets import SERVICES, WANTED, Targets, targets_of

log = logging.getLogger(__name__)

_PERIOD_S = 1.0
_MAX_BYTES = 1024 * 1024


class TargetsFile:
    """The file at a path. `load` reads it once and `run` whenever it changes; both pass its targets to `use`."""

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
        """Reads it every second, and at once on SIGHUP, for ever. If the file is wrong, the log says so once, and the
        previous targets stay in use."""
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
            log.warning("%s The previous targets stay in use.", error)
        except Exception:  # weights must go on moving, whatever it was
            log.exception("cannot use the targets in %s; the previous targets stay in use", self._path)

    def _take(self) -> None:
        if isinstance(self._seen, str):
            raise BadSetting("SOUK_TARGETS_FILE", str(self._path), f"a readable file ({self._seen})")
        self._use(_parsed(self._path, self._seen))

    def _read(self) -> bytes | str:
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
            return content if len(content) <= _MAX_BYTES else f"it has more than {_MAX_BYTES} bytes"
        except PermissionError:
            return f"user {os.getuid()} may not read it; run: chmod o+rX on the file and its folder"
        except OSError as error:
            return error.strerror or str(error)


def _parsed(path: Path, content: bytes) -> dict[str, Targets]:
    try:
        read = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise BadSetting("SOUK_TARGETS_FILE", str(path), f"a TOML file ({error})") from error
    if set(read) != set(SERVICES):
        names = f"{', '.join(SERVICES)} and nothing else (it names {', '.join(read) or 'nothing'})"
        raise BadSetting("SOUK_TARGETS_FILE", str(path), f"a file that names {names}")
    found = {}
    for service in SERVICES:
        targets = targets_of(read[service]) if isinstance(read[service], str) else None
        if targets is None:
            raise BadSetting(f"{service} in {path}", read[service], WANTED)
        found[service] = targets
    return found
