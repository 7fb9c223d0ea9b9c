"""What clients may take of a gateway: connections, time and memory; and a bounded log of what was refused."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

log = logging.getLogger(__name__)

_QUIET_S = 10.0
"""How often a reason is logged at most."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one gateway. The package's README lists the variables that set them."""

    http2: bool = False
    """Whether HTTP/2 is served without TLS."""
    trusted_proxies: tuple[Network, ...] = ()
    """Where X-Forwarded-For is believed."""
    max_connections: int = 1000
    max_connections_per_address: int = 256
    """Also the requests at a time of an address behind a trusted proxy."""
    head_timeout_s: float = 10.0
    """From the beginning of the connection, or from the first byte of a later head."""
    body_timeout_s: float = 30.0
    """For a whole body."""
    body_bytes_per_s: int = 500
    """What a body must bring on average, once the first seconds are over."""
    answer_timeout_s: float = 30.0
    """How long a client may take nothing of what is sent to it."""
    max_buffered_bytes: int = 64 * 1024 * 1024
    """Of bodies that are not complete, and of answers that are not taken, on all connections together."""

    def is_too_slow(self, elapsed_s: float, received: int) -> bool:
        """Whether a body that brought so many bytes in that time is given up."""
        due_s = elapsed_s - self.head_timeout_s
        return elapsed_s > self.body_timeout_s or received < due_s * self.body_bytes_per_s


class Refusals:
    """Logs what is refused: each reason at once, and then at most every ten seconds, with a count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._unsaid: dict[str, tuple[int, str]] = {}

    def note(self, reason: str, example: str) -> None:
        """`reason` is one of a few; `example` says what it was this time, and holds nothing that a client wrote."""
        count = self._unsaid.get(reason, (0, ""))[0] + 1
        self._unsaid[reason] = count, example
        self.report()

    def report(self) -> None:
        """Logs what has not been logged, where it is time to."""
        now = self._clock()
        for reason, (count, example) in list(self._unsaid.items()):
            if now - self._said_at.get(reason, -_QUIET_S) >= _QUIET_S:
                self._said_at[reason] = now
                del self._unsaid[reason]
                log.warning("%s: %s%s", reason, example, f" (the last of {count})" if count > 1 else "")


class Bucket:
    """A budget of `size`, to which so much is added `per_second`."""

    def __init__(self, size: float, per_second: float, clock: Callable[[], float]) -> None:
        self._size = self._left = size
        self._per_second = per_second
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        """Takes one; whether there was one."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give(self, count: int) -> None:
        """Adds to it."""
        self._left = min(self._size, self._left + count)
