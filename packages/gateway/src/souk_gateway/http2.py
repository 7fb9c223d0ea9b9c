"""HTTP/2 without TLS on one connection, with budgets: RFC 9113.

What is wrong with a request ends that request. What is wrong with the connection, or beyond its budgets, ends the
connection, after GOAWAY. Priorities are ignored, as RFC 9113 allows, and nothing is pushed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hpack import Decoder, Encoder
from hpack.exceptions import OversizedHeaderListError

from souk_gateway.addresses import is_trusted
from souk_gateway.fields import head_of, is_field
from souk_gateway.frames import (
    MAX_WINDOW,
    PREFACE,
    BadFrame,
    Code,
    Flag,
    Frame,
    Frames,
    Kind,
    Setting,
    frame,
    header_frames,
    read_settings,
    settings_frame,
    without_padding,
)
from souk_gateway.http2_streams import WINDOW, Http2Stream
from souk_gateway.limits import Bucket
from souk_gateway.parsing import Head, Malformed
from souk_gateway.streams import Site

if TYPE_CHECKING:
    from souk_gateway.connections import Connection

log = logging.getLogger(__name__)

MAX_STREAMS = 32
"""Requests at a time on a connection."""
_TABLE_BYTES = 4096
"""Of header compression, at most, whatever the client allows."""
_OUT_BYTES = 64 * 1024
"""What is gathered before it is written."""
_ROOM_BYTES = 512 * 1024
"""Of answers that are not taken; with more of them, no further request begins."""
_CLOSED = 128
"""Streams that are remembered after their end, as frames for them may be on their way."""


class Http2:
    """Takes what was read by `feed`, and writes what is to be sent to the wire. Its streams call the other methods."""

    def __init__(self, site: Site, wire: Connection, peers: Mapping[str, Any]) -> None:
        self.site = site
        self.wire = wire
        self.initial_window = WINDOW
        """What a new stream may send."""
        self._peers = peers
        client = peers["client"]
        self._is_trusted = client is not None and is_trusted(client[0], site.limits.trusted_proxies)
        """Whether it is a proxy's, whose requests count for others."""
        self._streams: dict[int, Http2Stream] = {}
        self._closed: deque[int] = deque(maxlen=_CLOSED)
        self._last_id = 0
        self._running = 0
        """Requests that the application is busy with, also those whose clients have gone."""
        self._requests = 0
        self._window = WINDOW
        """What all streams together may send."""
        self._receivable = WINDOW
        self._uncredited = 0
        self._decoder, self._encoder = Decoder(max_header_list_size=4 * site.config.h11_max_incomplete_size), Encoder()
        self._frames = Frames()
        self._preface: bytes | None = PREFACE
        """What of it is still to come; None once there were settings behind it."""
        self._block: tuple[int, bool, bytes] | None = None
        """The stream of a header block that is not complete, whether it ends the stream, and what has come of it."""
        self._control = Bucket(200, 50, wire.loop.time)
        """Frames that carry nothing of a request."""
        self._resets = Bucket(50, 10, wire.loop.time)
        """Streams that are ended before their time, by the client or for what it did."""
        self._ready: deque[Http2Stream] = deque()
        self._room = asyncio.Event()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._is_waiting = self._is_leaving = self._is_over = False
        self._idle_since = self._block_since = wire.loop.time()
        self._handlers: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._take_data,
            Kind.HEADERS: self._take_headers,
            Kind.CONTINUATION: self._take_continuation,
            Kind.PRIORITY: self._take_priority,
            Kind.RST_STREAM: self._take_reset,
            Kind.SETTINGS: self._take_settings,
            Kind.PUSH_PROMISE: self._take_push,
            Kind.PING: self._take_ping,
            Kind.GOAWAY: self._take_goaway,
            Kind.WINDOW_UPDATE: self._take_window_update,
        }

    @property
    def has_served(self) -> bool:
        """Whether there was a request."""
        return self._requests > 0

    def begin(self, data: bytes, head: Head | None, settings: list[tuple[int, int]] | None) -> None:
        """Greets the client; `head` and `settings` are those of a request by which it changed to HTTP/2."""
        max_head = self.site.config.h11_max_incomplete_size
        self._send(
            settings_frame((Setting.MAX_CONCURRENT_STREAMS, MAX_STREAMS), (Setting.MAX_HEADER_LIST_SIZE, max_head))
        )
        self._apply(settings or ())
        if head is not None:
            self._last_id = 1
            headers = [(name, value) for name, value in head.headers if name not in (b"upgrade", b"http2-settings")]
            head = Head(head.method, head.target, "2", headers, True, False, b"")
            self._open(1, head, 0, ends=True)
        if data:
            self.feed(data)
        self.flush()

    def feed(self, data: bytes) -> None:
        """Takes what was read; nothing for the end of it."""
        if self._is_over:
            return
        if not data:
            self._is_leaving = True
            for stream in list(self._streams.values()):
                if stream.is_complete:
                    stream.leave()
                else:
                    self.drop(stream)
            return
        try:
            for got in self._frames.feed(self._after_preface(data)):
                if not self._is_over:  # something before it may have ended the connection
                    self._take(got)
        except BadFrame as error:
            if error.code is Code.ENHANCE_YOUR_CALM:
                self.site.refusals.note("Ended connections, HTTP/2 beyond its budgets", self.wire.address)
                self.site.calm(self.wire.address)
            self._end(error.code)
        except Exception:
            log.exception("The gateway failed while it read HTTP/2, and ends the connection")
            self._end(Code.INTERNAL_ERROR)
        self.pump()

    def is_full(self) -> bool:
        """Whether nothing more should be read until the wire is told to make room."""
        if self._is_over or not self.wire.is_full():
            return False
        self._wait_for_wire()
        return True

    def waits_since(self) -> float | None:
        """Since when the client has kept the gateway waiting, on the loop's clock; None while its request is served."""
        since = self._idle_since if not self._streams else self.wire.loop.time()
        for stream in self._streams.values():
            waits = stream.waits_since()
            if waits is None:
                return None
            since = min(since, waits)
        return since

    def buffered_bytes(self) -> int:
        """Of bodies that are not complete, and of answers that are not taken."""
        return sum(stream.taken_bytes + stream.pending_bytes for stream in self._streams.values())

    def pending_bytes(self) -> int:
        """Of answers that are not taken."""
        return sum(stream.pending_bytes for stream in self._streams.values())

    def check(self, now: float) -> None:
        """Ends what is too slow."""
        limits = self.site.limits
        for stream in list(self._streams.values()):
            if not stream.is_complete and limits.is_too_slow(now - stream.began_at, stream.taken_bytes):
                self.site.refusals.note("Ended requests, a body came too slowly", self.wire.address)
                self._refuse(stream.stream_id, 408, Code.CANCEL)
                stream.break_off()
                self.drop(stream)
            elif stream.stalls_since is not None and now - stream.stalls_since >= limits.answer_timeout_s:
                self.site.refusals.note("Ended requests, an answer was not taken", self.wire.address)
                self.reset(stream, Code.CANCEL)
        if self._preface is not None or self._block is not None:
            if now - self._block_since >= limits.head_timeout_s:
                self._end(Code.ENHANCE_YOUR_CALM)
        elif not self._streams and now - self._idle_since >= self.site.config.keep_alive_timeout:
            self.close_if_idle()
        self.flush()

    def close_if_idle(self) -> None:
        """Says goodbye: streams that are open go on, and no further one is taken."""
        if not self._is_leaving:
            self._is_leaving = True
            self._send(self._goaway(Code.NO_ERROR))
        if not self._streams:
            self.flush()
            self._is_over = True
            self.wire.close(lingering=False)

    # What follows is for streams.

    def send_head(self, stream_id: int, headers: Iterable[tuple[bytes, bytes]], *, ends: bool) -> None:
        """Sends the head of an answer."""
        self._send(header_frames(stream_id, self._encoder.encode(headers, huffman=False), ends_stream=ends))

    def send_soon(self, stream: Http2Stream) -> None:
        """The stream has something to send."""
        if not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)
        self.pump()

    def finish(self, stream: Http2Stream) -> None:
        """The whole answer has been sent."""
        if not stream.is_complete:  # nobody needs the rest of the request
            self._send_reset(stream.stream_id, Code.NO_ERROR)
        self.drop(stream)

    def reset(self, stream: Http2Stream, code: Code) -> None:
        """Ends a stream before its time."""
        self._send_reset(stream.stream_id, code)
        self.drop(stream)

    def drop(self, stream: Http2Stream) -> None:
        """Forgets a stream that has ended, in whatever way."""
        if self._streams.pop(stream.stream_id, None) is None:
            return
        self._closed.append(stream.stream_id)
        self.credit(stream.abandon())
        self._room.set()
        if not self._streams:
            self._idle_since = self.wire.loop.time()
            if (self._is_leaving or self.site.ending) and not self._is_over:
                self._is_over = True
                self.flush()
                self.wire.close()

    def credit(self, size: int) -> None:
        """So many bytes of bodies are dealt with: the client may send further ones."""
        self._uncredited += size
        if self._uncredited >= WINDOW // 2:
            self._receivable += self._uncredited
            self._send(frame(Kind.WINDOW_UPDATE, 0, 0, self._uncredited.to_bytes(4)))
            self._uncredited = 0

    def credit_stream(self, stream_id: int, size: int) -> None:
        """So many bytes of the stream's body are dealt with."""
        self._send(frame(Kind.WINDOW_UPDATE, 0, stream_id, size.to_bytes(4)))

    def pump(self) -> None:
        """Sends what the windows and the wire allow, a frame of each stream in turn."""
        blocked = []
        while self._ready and not self._is_over:
            if self._out_bytes > _OUT_BYTES:
                self.flush()
            if self.wire.is_full():
                self._wait_for_wire()
                break
            stream = self._ready.popleft()
            size = min(self._window, stream.window)
            if stream.is_dropped or not stream.has_news():
                stream.is_queued = False
            elif stream.pending_bytes and size <= 0:
                blocked.append(stream)
            else:
                data, ends = stream.next(size)
                self._window -= len(data)
                self._control.give(2)  # for what a client says about windows
                self._send(frame(Kind.DATA, Flag.END_STREAM if ends else 0, stream.stream_id, data))
                self._ready.append(stream)
                if ends:
                    self.finish(stream)
        self._ready.extend(blocked)
        self._room.set()
        self.flush()

    def flush(self) -> None:
        """Writes what has been gathered."""
        if self._out:
            self.wire.write(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0

    # What follows is about single frames.

    def _after_preface(self, data: bytes) -> bytes:
        if not self._preface:
            return data
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise BadFrame(Code.PROTOCOL_ERROR)
        self._preface = self._preface[size:]
        return data[size:]

    def _take(self, got: Frame) -> None:
        if self._preface is not None:
            if got.kind != Kind.SETTINGS or got.flags & Flag.ACK:
                raise BadFrame(Code.PROTOCOL_ERROR)
            self._preface = None
        if self._block is not None and (got.kind != Kind.CONTINUATION or got.stream_id != self._block[0]):
            raise BadFrame(Code.PROTOCOL_ERROR)
        handler = self._handlers.get(got.kind)
        if handler is None:  # to be ignored: RFC 9113, 5.5
            self._spend()
        else:
            handler(got)

    def _take_data(self, got: Frame) -> None:
        self._check_open(got)
        size = len(got.payload)
        self._receivable -= size
        if self._receivable < 0:
            raise BadFrame(Code.FLOW_CONTROL_ERROR)
        body, ends = without_padding(got), bool(got.flags & Flag.END_STREAM)
        if not body and not ends:
            self._spend()
        stream = self._streams.get(got.stream_id)
        if stream is None:
            self.credit(size)
            if got.stream_id not in self._closed:
                self._reset_for_fault(got.stream_id, Code.STREAM_CLOSED)
        elif stream.is_complete:
            self.credit(size)
            self._fail(stream, Code.STREAM_CLOSED)
        elif not stream.has_room(size):
            self.credit(size)
            self._fail(stream, Code.FLOW_CONTROL_ERROR)
        else:
            self.credit(size - len(body))
            if not stream.take_data(body, size - len(body), ends=ends):
                self._refuse_stream(stream, 400)

    def _take_headers(self, got: Frame) -> None:
        if got.stream_id % 2 == 0:
            raise BadFrame(Code.PROTOCOL_ERROR)
        block = without_padding(got)
        if got.flags & Flag.PRIORITY:
            if len(block) < 5:
                raise BadFrame(Code.FRAME_SIZE_ERROR)
            block = block[5:]
        self._block = got.stream_id, bool(got.flags & Flag.END_STREAM), block
        self._block_since = self.wire.loop.time()
        if got.flags & Flag.END_HEADERS:
            self._take_block()

    def _take_continuation(self, got: Frame) -> None:
        self._spend()
        if self._block is None:
            raise BadFrame(Code.PROTOCOL_ERROR)
        stream_id, ends, block = self._block
        if len(block) + len(got.payload) > 2 * self.site.config.h11_max_incomplete_size:
            raise BadFrame(Code.ENHANCE_YOUR_CALM)
        self._block = stream_id, ends, block + got.payload
        if got.flags & Flag.END_HEADERS:
            self._take_block()

    def _take_block(self) -> None:
        assert self._block is not None
        (stream_id, ends, block), self._block = self._block, None
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise BadFrame(Code.ENHANCE_YOUR_CALM) from None
        except Exception:  # noqa: BLE001 (hpack raises several kinds: whatever it is, the tables may differ now)
            raise BadFrame(Code.COMPRESSION_ERROR) from None
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._take_trailers(stream, fields, ends)
        elif stream_id in self._closed:
            self._reset_for_fault(stream_id, Code.STREAM_CLOSED)
        elif stream_id <= self._last_id:
            raise BadFrame(Code.PROTOCOL_ERROR)
        else:
            self._take_request(stream_id, fields, ends)

    def _take_trailers(self, stream: Http2Stream, fields: list[tuple[bytes, bytes]], ends: bool) -> None:
        if stream.is_complete:
            self._fail(stream, Code.STREAM_CLOSED)
        elif not ends or not all(is_field(*each) for each in fields) or not stream.take_data(b"", 0, ends=True):
            self._refuse_stream(stream, 400)

    def _take_request(self, stream_id: int, fields: list[tuple[bytes, bytes]], ends: bool) -> None:
        self._last_id = stream_id
        # As many at a time as an address may have over HTTP/1.1, where each needs a connection.
        is_beyond = self.site.requests[self.wire.address] >= self.site.limits.max_connections_per_address
        is_busy = len(self._streams) >= MAX_STREAMS or self._running >= 2 * MAX_STREAMS
        if self._is_leaving or is_busy or (is_beyond and not self._is_trusted):
            self._closed.append(stream_id)
            self._reset_for_fault(stream_id, Code.REFUSED_STREAM)
            return
        try:
            head, length = head_of(fields, self.site.config.h11_max_incomplete_size, ends=ends)
        except Malformed as error:
            self._closed.append(stream_id)
            self._spend_reset()
            self._refuse(stream_id, error.status, Code.PROTOCOL_ERROR if error.status == 400 else Code.NO_ERROR)
            return
        self._open(stream_id, head, length, ends=ends)

    def _open(self, stream_id: int, head: Head, length: int | None, *, ends: bool) -> None:
        self._control.give(2)
        self._requests += 1
        stream = self._streams[stream_id] = Http2Stream(self, stream_id, head, length, self._peers)
        if ends:
            stream.end()
        else:
            stream.began_at = self.wire.loop.time()
        self._running += 1
        if not self._is_trusted:
            self.site.requests[self.wire.address] += 1
        self.wire.spawn(self._run(stream))
        if self._requests >= self.site.config.keep_alive_max_requests:
            self.close_if_idle()

    async def _run(self, stream: Http2Stream) -> None:
        try:
            while self.pending_bytes() > _ROOM_BYTES and not stream.is_dropped:
                self._room.clear()
                await self._room.wait()
            if not stream.is_dropped:  # whom the client has reset already, need not begin
                await stream.run()
        finally:
            self._running -= 1
            if not self._is_trusted:
                self.site.leave(self.wire.address)

    def _take_priority(self, got: Frame) -> None:
        self._spend()
        if got.stream_id == 0:
            raise BadFrame(Code.PROTOCOL_ERROR)
        if len(got.payload) != 5 and (stream := self._streams.get(got.stream_id)) is not None:
            self._fail(stream, Code.FRAME_SIZE_ERROR)

    def _take_reset(self, got: Frame) -> None:
        self._check_open(got)
        self._check_size(got, 4)
        self._spend_reset()
        if (stream := self._streams.get(got.stream_id)) is not None:
            self.drop(stream)

    def _take_settings(self, got: Frame) -> None:
        self._spend()
        if got.stream_id:
            raise BadFrame(Code.PROTOCOL_ERROR)
        if got.flags & Flag.ACK:
            self._check_size(got, 0)
            return
        self._apply(read_settings(got.payload))
        self._send(frame(Kind.SETTINGS, Flag.ACK, 0))

    def _apply(self, settings: Iterable[tuple[int, int]]) -> None:
        for name, value in settings:
            if name == Setting.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, _TABLE_BYTES)
            elif name == Setting.INITIAL_WINDOW_SIZE:
                change, self.initial_window = value - self.initial_window, value
                for stream in self._streams.values():
                    stream.window += change
                    if stream.window > MAX_WINDOW:
                        raise BadFrame(Code.FLOW_CONTROL_ERROR)

    def _take_push(self, _: Frame) -> None:
        raise BadFrame(Code.PROTOCOL_ERROR)

    def _take_ping(self, got: Frame) -> None:
        self._spend()
        if got.stream_id:
            raise BadFrame(Code.PROTOCOL_ERROR)
        self._check_size(got, 8)
        if not got.flags & Flag.ACK:
            self._send(frame(Kind.PING, Flag.ACK, 0, got.payload))

    def _take_goaway(self, got: Frame) -> None:
        self._spend()
        if got.stream_id:
            raise BadFrame(Code.PROTOCOL_ERROR)
        if len(got.payload) < 8:
            raise BadFrame(Code.FRAME_SIZE_ERROR)
        self.close_if_idle()

    def _take_window_update(self, got: Frame) -> None:
        self._spend()
        self._check_size(got, 4)
        increment = int.from_bytes(got.payload) & MAX_WINDOW
        if got.stream_id == 0:
            self._window += increment
            if not increment:
                raise BadFrame(Code.PROTOCOL_ERROR)
            if self._window > MAX_WINDOW:
                raise BadFrame(Code.FLOW_CONTROL_ERROR)
            return
        self._check_open(got)
        if (stream := self._streams.get(got.stream_id)) is not None:
            stream.window += increment
            if not increment:
                self._fail(stream, Code.PROTOCOL_ERROR)
            elif stream.window > MAX_WINDOW:
                self._fail(stream, Code.FLOW_CONTROL_ERROR)

    def _check_open(self, got: Frame) -> None:
        """Raises BadFrame where the frame needs a stream that is, or was, open."""
        if got.stream_id == 0 or got.stream_id > self._last_id or got.stream_id % 2 == 0:
            raise BadFrame(Code.PROTOCOL_ERROR)

    def _check_size(self, got: Frame, size: int) -> None:
        if len(got.payload) != size:
            raise BadFrame(Code.FRAME_SIZE_ERROR)

    def _spend(self) -> None:
        if not self._control.take():
            raise BadFrame(Code.ENHANCE_YOUR_CALM)

    def _spend_reset(self) -> None:
        if not self._resets.take():
            raise BadFrame(Code.ENHANCE_YOUR_CALM)

    def _reset_for_fault(self, stream_id: int, code: Code) -> None:
        self._spend_reset()
        self._send_reset(stream_id, code)

    def _fail(self, stream: Http2Stream, code: Code) -> None:
        """The client has broken a rule that concerns one stream."""
        self._spend_reset()
        self.reset(stream, code)

    def _refuse_stream(self, stream: Http2Stream, status: int) -> None:
        """The rest of a request is malformed."""
        self._spend_reset()
        if stream.has_begun:
            self._send_reset(stream.stream_id, Code.PROTOCOL_ERROR)
        else:
            self._refuse(stream.stream_id, status, Code.PROTOCOL_ERROR)
        stream.break_off()
        self.drop(stream)

    def _refuse(self, stream_id: int, status: int, code: Code) -> None:
        """Answers without the application, and says that the stream was in error."""
        headers = [(b":status", b"%d" % status), (b"content-length", b"0"), *self.site.config.response_headers("h2")]
        self.send_head(stream_id, headers, ends=True)
        self._send_reset(stream_id, code)

    def _send_reset(self, stream_id: int, code: Code) -> None:
        self._send(frame(Kind.RST_STREAM, 0, stream_id, code.to_bytes(4)))

    def _goaway(self, code: Code) -> bytes:
        return frame(Kind.GOAWAY, 0, 0, self._last_id.to_bytes(4) + code.to_bytes(4))

    def _end(self, code: Code) -> None:
        """Ends the connection. Its requests go on without it, since they may have placed orders already."""
        self._send(self._goaway(code))
        self.flush()
        self._is_over = True
        for stream in list(self._streams.values()):
            self.drop(stream)
        self.wire.close()

    def _send(self, data: bytes) -> None:
        if self._is_over:
            return
        if not self._out:
            self.wire.loop.call_soon(self.flush)
        self._out.append(data)
        self._out_bytes += len(data)

    def _wait_for_wire(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self.wire.spawn(self._go_on_once_there_is_room())

    async def _go_on_once_there_is_room(self) -> None:
        await self.wire.drain()
        self._is_waiting = False
        self.pump()
        self.wire.make_room()
