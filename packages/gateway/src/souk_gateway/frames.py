"""Frames of HTTP/2: read from bytes, and written as such. Source: RFC 9113, 4 and 6."""

import base64
import binascii
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES = 16_384
"""Of a frame's payload, in both directions: what every peer takes, and more than which none is told to send."""
MAX_WINDOW = 2**31 - 1
_BASE64 = re.compile(rb"[A-Za-z0-9_-]*")


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Of an error: RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Flag(IntEnum):
    ACK = 1
    END_STREAM = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class BadFrame(Exception):
    """A frame for which the connection ends, with this code."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


class Frames:
    """Puts frames together from what was read."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete. Raises `BadFrame`; what is behind the last one that was taken is lost then."""
        data = self._data + data
        at = 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3])
            if size > MAX_FRAME_BYTES:
                raise BadFrame(Code.FRAME_SIZE_ERROR)
            end = at + 9 + size
            if end > len(data):
                break
            stream_id = int.from_bytes(data[at + 5 : at + 9]) & MAX_WINDOW
            yield Frame(data[at + 3], data[at + 4], stream_id, data[at + 9 : end])
            at = end
        self._data = data[at:]


def frame(kind: Kind, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream_id.to_bytes(4), payload)


def header_frames(stream_id: int, block: bytes, *, ends_stream: bool) -> bytes:
    """A header block, in as many frames as it needs."""
    parts = [block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES)]
    written = b""
    for place, part in enumerate(parts):
        flags = Flag.END_HEADERS if place == len(parts) - 1 else 0
        if place == 0:
            written += frame(Kind.HEADERS, flags | (Flag.END_STREAM if ends_stream else 0), stream_id, part)
        else:
            written += frame(Kind.CONTINUATION, flags, stream_id, part)
    return written


def settings_frame(*settings: tuple[Setting, int]) -> bytes:
    """Our settings."""
    payload = b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in settings)
    return frame(Kind.SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings in a payload, checked. Raises `BadFrame`."""
    if len(payload) % 6:
        raise BadFrame(Code.FRAME_SIZE_ERROR)
    found = []
    for at in range(0, len(payload), 6):
        name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
        if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise BadFrame(Code.FLOW_CONTROL_ERROR)
        if name == Setting.ENABLE_PUSH and value > 1:
            raise BadFrame(Code.PROTOCOL_ERROR)
        if name == Setting.MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value < 2**24:
            raise BadFrame(Code.PROTOCOL_ERROR)
        found.append((name, value))
    return found


def decoded_settings(value: bytes) -> list[tuple[int, int]]:
    """The settings in an HTTP2-Settings header: RFC 7540, 3.2.1. Raises `BadFrame`."""
    if not _BASE64.fullmatch(value):
        raise BadFrame(Code.PROTOCOL_ERROR)
    try:
        payload = base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        raise BadFrame(Code.PROTOCOL_ERROR) from None
    return read_settings(payload)


def without_padding(got: Frame) -> bytes:
    """The payload of DATA or HEADERS. Raises `BadFrame`."""
    if not got.flags & Flag.PADDED:
        return got.payload
    if not got.payload or got.payload[0] >= len(got.payload):
        raise BadFrame(Code.PROTOCOL_ERROR)
    return got.payload[1 : len(got.payload) - got.payload[0]]
