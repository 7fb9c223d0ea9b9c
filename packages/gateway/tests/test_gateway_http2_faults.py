"""HTTP/2 from clients that break its rules: the request in error ends, or the connection, and never a neighbour."""

import ast
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from http1_site import PATIENCE_S, Client, Echo, Site

from souk_gateway import serving
from souk_gateway.frames import PREFACE, Code, Flag, Frame, Frames, Kind, frame
from souk_gateway.limits import Limits

HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "souk"), (":path", "/a")]


class Http2:
    """A client: h2 as long as rules are kept, and frames by hand where they are not."""

    def __init__(self, client: Client) -> None:
        self.client = client
        # h2 would not send what the tests want it to.
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.statuses: dict[int, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.seen: set[type] = set()
        self.flush()

    def flush(self) -> None:
        self.client.send(self.h2.data_to_send())

    def ask(self, path: str = "/a", *, ends: bool = True, **others: str) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(name, path if name == ":path" else value) for name, value in HEADERS]
        self.h2.send_headers(stream_id, headers + list(others.items()), end_stream=ends)
        self.flush()
        return stream_id

    def raw(self, stream_id: int, fields: list[tuple[bytes, bytes]], *, ends: bool = True) -> None:
        """A request as it stands, behind h2's back: the ids that it uses must not be h2's."""
        block = hpack.Encoder().encode(fields, huffman=False)
        flags = Flag.END_HEADERS | (Flag.END_STREAM if ends else 0)
        self.client.send(frame(Kind.HEADERS, flags, stream_id, block))

    def until(self, is_enough: Callable[[], bool]) -> None:
        """Reads; h2 is told only of what concerns its own streams."""
        while not is_enough():
            data = self.client.file.read1(65536)
            assert data, "the connection ended"
            self.take(data)

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.note(event)
        try:
            self.flush()
        except OSError:  # the gateway has ended the connection
            assert self.goaway is not None

    def note(self, event: h2.events.Event) -> None:
        self.seen.add(type(event))
        if isinstance(event, h2.events.ResponseReceived):
            self.statuses[event.stream_id] = int(dict[Any, Any](event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)

    def is_answered(self, stream_id: int) -> bool:
        self.until(lambda: stream_id in self.ended or stream_id in self.resets)
        return self.statuses.get(stream_id) == 200 and stream_id not in self.resets

    def ends_with(self) -> int | None:
        """Reads to the end of the connection; the code in GOAWAY."""
        try:
            while data := self.client.file.read1(65536):
                self.take(data)
        except ConnectionResetError:
            pass
        return self.goaway


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    monkeypatch.setattr(serving, "_LOOK_S", 0.02)
    opened = Site(Echo(), Limits(http2=True, head_timeout_s=1, answer_timeout_s=1))
    opened.start()
    yield opened
    opened.app.go_on.set()
    opened.stop()
    assert opened.trouble == []
    assert "The gateway failed" not in caplog.text  # whatever a client sends


@pytest.fixture
def client(site: Site) -> Iterator[Http2]:
    with site.client() as opened:
        yield Http2(opened)


def in_progress(site: Site, client: Http2) -> int:
    """A request that is being answered."""
    stream_id = client.ask("/slow")
    while "/slow" not in site.app.requests:
        time.sleep(0.01)
    return stream_id


GOOD = {b":method": b"GET", b":scheme": b"http", b":authority": b"souk", b":path": b"/a"}


def request(
    *others: tuple[bytes, bytes], without: tuple[bytes, ...] = (), **changed: bytes
) -> list[tuple[bytes, bytes]]:
    fields = {**GOOD, **{b":" + name.encode(): value for name, value in changed.items()}}
    return [(name, value) for name, value in fields.items() if name not in without] + list(others)


MALFORMED = {
    "bytes in the path": request(path=b"/\xff\xc3\xa9"),
    "a control character in the path": request(path=b"/a\x00\r\nb"),
    "a space in the path": request(path=b"/a 200 5 ms"),
    "a path that is none": request(path=b"a"),
    "an empty path": request(path=b""),
    "a fragment": request(path=b"/a#b"),
    "no path": request(without=(b":path",)),
    "no scheme": request(without=(b":scheme",)),
    "no method": request(without=(b":method",)),
    "no authority": request(without=(b":authority",)),
    "bytes in the method": request(method=b"G\xffT"),
    "a method in lower case": request(method=b"get"),
    "an empty method": request(method=b""),
    "a user in the authority": request(authority=b"u@souk"),
    "a path in the authority": request(authority=b"souk/a"),
    "another host": request((b"host", b"other")),
    "two methods": [(b":method", b"GET"), *request()],
    "an unknown pseudo-header": request(other=b"x"),
    "a pseudo-header behind a header": [*request((b"x", b"y"), without=(b":path",)), (b":path", b"/a")],
    "a name in upper case": request((b"X-Name", b"x")),
    "a space in a name": request((b"x name", b"x")),
    "a line break in a value": request((b"x", b"a\r\nb: c")),
    "NUL in a value": request((b"x", b"a\0b")),
    "an escape character in a value": request((b"x", b"a\x1bb")),
    "a space in front of a value": request((b"x", b" a")),
    "Connection": request((b"connection", b"close")),
    "Transfer-Encoding": request((b"transfer-encoding", b"chunked")),
    "Upgrade": request((b"upgrade", b"h2c")),
    "TE": request((b"te", b"gzip")),
    "a length in words": request((b"content-length", b"many")),
    "a length without a body": request((b"content-length", b"5")),
    "two lengths": request((b"content-length", b"0"), (b"content-length", b"1")),
    "a tunnel with a path": request(method=b"CONNECT"),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_answered_with_400_and_its_neighbour_is_served(
    site: Site, client: Http2, fields: list[tuple[bytes, bytes]]
) -> None:
    neighbour = in_progress(site, client)
    stream_id = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream_id, fields, end_stream=True)
    client.flush()
    client.until(lambda: stream_id in client.ended)
    assert client.statuses[stream_id] == 400
    site.app.go_on.set()
    assert client.is_answered(neighbour)
    assert client.is_answered(client.ask())
    assert site.app.requests == ["/slow", "/a"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (request(method=b"CONNECT", without=(b":path", b":scheme")), 501),
        (request((b"expect", b"a")), 417),
        (request(*[(b"x-%d" % n, b"x" * 200) for n in range(90)]), 431),
    ],
    ids=["tunnel", "expectation", "head"],
)
def test_what_is_not_served_has_its_status(
    site: Site, client: Http2, fields: list[tuple[bytes, bytes]], status: int
) -> None:
    neighbour = in_progress(site, client)
    stream_id = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream_id, [(name.decode(), value.decode()) for name, value in fields], end_stream=True)
    client.flush()
    client.until(lambda: stream_id in client.ended)
    assert client.statuses[stream_id] == status
    site.app.go_on.set()
    assert client.is_answered(neighbour)


def data(stream_id: int, body: bytes = b"", flags: int = 0) -> bytes:
    return frame(Kind.DATA, flags, stream_id, body)


STREAM_FAULTS = {
    "data behind the end": lambda n: data(n, b"x", Flag.END_STREAM) + data(n, b"y"),
    "a window of 0 more": lambda n: frame(Kind.WINDOW_UPDATE, 0, n, bytes(4)),
    "a window beyond all": lambda n: frame(Kind.WINDOW_UPDATE, 0, n, b"\x7f\xff\xff\xff"),
    "trailers that do not end": lambda n: frame(Kind.HEADERS, Flag.END_HEADERS, n, b""),
    "a priority of a strange size": lambda n: frame(Kind.PRIORITY, 0, n, b"x"),
}


@pytest.mark.parametrize("fault", STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_a_fault_of_a_request_ends_that_request_only(site: Site, client: Http2, fault: Callable[[int], bytes]) -> None:
    neighbour = in_progress(site, client)
    stream_id = client.ask("/waits", ends=False)
    client.client.send(fault(stream_id))
    client.until(lambda: stream_id in client.resets or stream_id in client.ended)
    site.app.go_on.set()
    assert client.is_answered(neighbour)
    assert client.is_answered(client.ask())


def test_a_body_that_is_not_as_long_as_was_said_ends_its_request_only(site: Site, client: Http2) -> None:
    neighbour = in_progress(site, client)
    for body in (b"123456", b"1234"):
        stream_id = client.ask(ends=False, **{"content-length": "5"})
        client.client.send(data(stream_id, body, Flag.END_STREAM))
        client.until(lambda: stream_id in client.resets or stream_id in client.ended)  # noqa: B023 (called at once)
        assert client.statuses[stream_id] == 400
    site.app.go_on.set()
    assert client.is_answered(neighbour)


CONNECTION_FAULTS = {
    "a frame that is too large": (b"\x00\x40\x01" + bytes(6), Code.FRAME_SIZE_ERROR),
    "data of no stream": (data(0, b"x"), Code.PROTOCOL_ERROR),
    "data of a stream that was never opened": (data(99, b"x"), Code.PROTOCOL_ERROR),
    "a reset of a stream that was never opened": (frame(Kind.RST_STREAM, 0, 99, bytes(4)), Code.PROTOCOL_ERROR),
    "a request with an even id": (frame(Kind.HEADERS, 5, 2, b""), Code.PROTOCOL_ERROR),
    "a push": (frame(Kind.PUSH_PROMISE, 4, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "a ping of a strange size": (frame(Kind.PING, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "settings of a strange size": (frame(Kind.SETTINGS, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "an initial window beyond all": (frame(Kind.SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "a frame size that is none": (frame(Kind.SETTINGS, 0, 0, b"\0\5\0\0\0\1"), Code.PROTOCOL_ERROR),
    "a window of 0 more": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a window beyond all": (frame(Kind.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "a continuation of nothing": (frame(Kind.CONTINUATION, 4, 1, b""), Code.PROTOCOL_ERROR),
    "a ping amid a head": (frame(Kind.HEADERS, 1, 99, b"") + frame(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "headers that cannot be decoded": (frame(Kind.HEADERS, 5, 99, b"\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "padding beyond the frame": (frame(Kind.HEADERS, 5 | Flag.PADDED, 99, b"\x09a"), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("sent", "code"), CONNECTION_FAULTS.values(), ids=CONNECTION_FAULTS)
def test_a_fault_of_the_connection_ends_it_with_its_code(site: Site, client: Http2, sent: bytes, code: Code) -> None:
    with site.client() as other:
        client.client.send(sent)
        assert client.ends_with() == code
        other.send(b"GET /a HTTP/1.1\r\nHost: souk\r\n\r\n")
        assert other.answer().status == 200


FLOODS = {
    "pings": frame(Kind.PING, 0, 0, bytes(8)),
    "settings": frame(Kind.SETTINGS, 0, 0),
    "priorities": frame(Kind.PRIORITY, 0, 99, bytes(5)),
    "windows": frame(Kind.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    "unknown frames": b"\0\0\0\x2a" + bytes(5),
}


@pytest.mark.parametrize("sent", FLOODS.values(), ids=FLOODS)
def test_control_frames_have_a_budget(site: Site, client: Http2, sent: bytes) -> None:
    client.client.send(sent * 100)
    assert client.is_answered(client.ask())  # so many are no matter
    with suppress(OSError):  # it may have enough before that
        client.client.send(sent * 10_000)
    assert client.ends_with() == Code.ENHANCE_YOUR_CALM


def test_resets_have_a_budget_and_who_was_reset_is_served_to_the_end(site: Site, client: Http2) -> None:
    for _ in range(20):
        stream_id = client.ask("/slow")
        client.h2.reset_stream(stream_id)
        client.flush()
    assert client.is_answered(client.ask())
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(request(), huffman=False)
    with suppress(OSError):  # it may have enough before that
        for n in range(1001, 3001, 2):
            client.client.send(frame(Kind.HEADERS, 5, n, block) + frame(Kind.RST_STREAM, 0, n, bytes(4)))
    assert client.ends_with() == Code.ENHANCE_YOUR_CALM
    assert len(site.app.requests) < 250


def test_a_head_without_an_end_has_a_limit(client: Http2) -> None:
    with suppress(OSError):  # it may have enough before that
        client.client.send(frame(Kind.HEADERS, 1, 1, b""), *[frame(Kind.CONTINUATION, 0, 1, bytes(16_000))] * 100)
    assert client.ends_with() == Code.ENHANCE_YOUR_CALM


def test_a_head_that_does_not_come_to_its_end_is_given_up(site: Site) -> None:
    with site.client() as client:
        client.send(PREFACE, frame(Kind.SETTINGS, 0, 0), frame(Kind.HEADERS, 1, 1, b""))
        *_, last = Frames().feed(client.file.read())
        assert last == frame_of(Kind.GOAWAY, 0, Code.ENHANCE_YOUR_CALM)


def frame_of(kind: Kind, last_id: int, code: Code) -> Frame:
    return Frame(kind, 0, 0, struct.pack(">II", last_id, code))


def test_requests_beyond_the_limit_are_refused_and_the_others_are_served(site: Site, client: Http2) -> None:
    client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 32)
    first = [client.ask("/slow") for _ in range(32)]
    client.raw(first[-1] + 2, request())
    data = b""
    while b"\0\0\4\3\0" not in data:
        data += client.client.file.read1(65536)
    assert data.partition(b"\0\0\4\3\0")[2][4:8] == struct.pack(">I", Code.REFUSED_STREAM)
    site.app.go_on.set()
    assert all(client.is_answered(each) for each in first)


def test_an_address_has_no_more_requests_at_a_time_than_connections() -> None:
    served = Site(Echo(), Limits(http2=True, max_connections_per_address=4))
    served.start()
    try:
        with served.client() as first, served.client() as second, served.client("127.0.0.2") as other:
            clients = [Http2(first), Http2(second)]
            asked = [(client, client.ask("/slow")) for client in clients for _ in range(2)]
            while len(served.app.requests) < 4:
                time.sleep(0.01)
            for client in clients:
                refused = client.ask()
                assert not client.is_answered(refused)
                assert client.resets[refused] == Code.REFUSED_STREAM
            neighbour = Http2(other)
            assert neighbour.is_answered(neighbour.ask())
            served.app.go_on.set()
            assert all(client.is_answered(each) for client, each in asked)
            assert clients[0].is_answered(clients[0].ask())
    finally:
        served.app.go_on.set()
        served.stop()


def test_answers_that_are_not_taken_are_given_up_and_their_neighbours_are_served(site: Site, client: Http2) -> None:
    stalled = client.ask("/large")
    client.until(lambda: stalled in client.statuses)
    # From here on it takes nothing of that one: h2 says more about windows only when it is told to.
    client.h2.acknowledge_received_data = lambda *_: None  # type: ignore[method-assign]
    client.until(lambda: stalled in client.resets)
    assert client.resets[stalled] == Code.CANCEL
    with site.client() as other:
        fresh = Http2(other)
        assert fresh.is_answered(fresh.ask())


def test_while_answers_are_not_taken_no_further_request_begins(site: Site, client: Http2) -> None:
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    asked = [client.ask("/large") for _ in range(3)]
    client.until(lambda: asked[0] in client.resets)
    assert site.app.requests in (["/large"], ["/large", "/large"])  # the second begins when the first has gone
    client.until(lambda: set(asked) <= set(client.resets))
    assert set(client.resets.values()) == {Code.CANCEL}


def test_a_request_that_is_reset_at_once_does_not_begin(site: Site, client: Http2) -> None:
    stream_id = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream_id, [(":path", "/slow") if name == ":path" else (name, v) for name, v in HEADERS])
    client.h2.reset_stream(stream_id)
    client.flush()
    assert client.is_answered(client.ask())
    assert site.app.requests == ["/a"]


def test_who_went_beyond_its_budgets_is_not_offered_http_2_again_for_a_while(site: Site, client: Http2) -> None:
    with suppress(OSError):  # it may have enough before that
        client.client.send(FLOODS["pings"] * 10_000)
    assert client.ends_with() == Code.ENHANCE_YOUR_CALM
    with site.client() as again:
        again.send(PREFACE)
        assert again.answer().status in (400, 505)
    with site.client() as plain, site.client("127.0.0.2") as neighbour:
        plain.send(b"GET /a HTTP/1.1\r\nHost: souk\r\n\r\n")
        assert plain.answer().status == 200
        other = Http2(neighbour)
        assert other.is_answered(other.ask())


def test_a_large_answer_comes_whole_and_so_does_its_neighbour(client: Http2) -> None:
    first, second = client.ask("/large"), client.ask("/a")
    assert client.is_answered(second)
    assert client.is_answered(first)
    assert client.bodies[first] == b"x" * 3_000_000


def test_an_application_that_fails_ends_its_own_request_only(site: Site, client: Http2) -> None:
    neighbour = in_progress(site, client)
    failed, broken = client.ask("/fails"), client.ask("/breaks")
    client.until(lambda: failed in client.ended and broken in client.resets)
    assert client.statuses[failed] == 500
    site.app.go_on.set()
    assert client.is_answered(neighbour)


def test_a_slow_body_is_given_up_and_its_neighbour_is_served(site: Site, client: Http2) -> None:
    neighbour = in_progress(site, client)
    slow = client.ask(ends=False)
    client.until(lambda: slow in client.ended)
    assert client.statuses[slow] == 408
    site.app.go_on.set()
    assert client.is_answered(neighbour)


def test_who_waits_to_be_told_to_send_the_body_is_told_so(client: Http2) -> None:
    stream_id = client.ask(ends=False, expect="100-continue")
    client.until(lambda: h2.events.InformationalResponseReceived in client.seen)
    client.h2.send_data(stream_id, b"hello", end_stream=True)
    client.flush()
    assert client.is_answered(stream_id)


def test_a_drain_says_goodbye_and_answers_what_runs(site: Site, client: Http2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LINGER_S", 0.01)
    running = in_progress(site, client)
    site.config.graceful_timeout = PATIENCE_S
    site.begin_stop()
    frames = Frames()
    seen: list[Frame] = []
    while frame_of(Kind.GOAWAY, running, Code.NO_ERROR) not in seen:
        seen += frames.feed(client.client.file.read1(65536))
    site.app.go_on.set()
    *_, head, body = [each for each in frames.feed(client.client.file.read()) if each.stream_id == running]
    assert (head.kind, body.kind, body.flags) == (Kind.HEADERS, Kind.DATA, Flag.END_STREAM)


@pytest.mark.parametrize("settings", [b"%%%", b"A", b"AAMAAAB", b"AAQAgAAA/////w", b"AAUAAAAB"])
def test_settings_of_an_upgrade_that_are_none_are_no_request(site: Site, settings: bytes) -> None:
    with site.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: souk\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n")
        client.send(b"HTTP2-Settings: " + settings + b"\r\n\r\n")
        assert client.answer().status == 400
        assert client.ends()


def test_pings_and_settings_are_acknowledged(client: Http2) -> None:
    client.h2.ping(b"12345678")
    client.flush()
    client.until(lambda: {h2.events.PingAckReceived, h2.events.SettingsAcknowledged} <= client.seen)


def test_a_body_that_is_larger_than_the_windows_comes_whole(client: Http2) -> None:
    body = bytes(range(256)) * 2048
    stream_id, sent = client.ask(ends=False), 0
    while sent < len(body):
        client.until(lambda: client.h2.local_flow_control_window(stream_id) > 0)
        size = min(client.h2.local_flow_control_window(stream_id), 16_384)
        client.h2.send_data(stream_id, body[sent : sent + size], end_stream=sent + size >= len(body))
        client.flush()
        sent += size
    assert client.is_answered(stream_id)
    assert ast.literal_eval(client.bodies[stream_id].decode())["body"] == body


def test_a_hundred_requests_one_after_another_and_at_once_are_answered(client: Http2) -> None:
    for _ in range(10):
        asked = [client.ask() for _ in range(10)]
        assert all(client.is_answered(each) for each in asked)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_as_frames_ends_a_connection_at_most(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    block = hpack.Encoder().encode(request(), huffman=False)
    for _ in range(60):
        with site.client() as client:
            parts = [PREFACE, frame(Kind.SETTINGS, 0, 0)]
            for _ in range(chance.randrange(1, 12)):
                payload = chance.choice([b"", block, bytes(4), bytes(5), bytes(8), chance.randbytes(9), block[:9]])
                sent = frame(Kind(chance.randrange(10)), chance.randrange(64), chance.randrange(8), payload)
                parts.append(sent if chance.random() < 0.9 else sent[: chance.randrange(len(sent))])
            with suppress(OSError):
                client.send(*parts)
                client.socket.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                client.file.read()
    with site.client() as client:
        http2 = Http2(client)
        assert http2.is_answered(http2.ask())


def test_it_is_off_where_nothing_switches_it_on() -> None:
    served = Site(Echo())
    served.start()
    try:
        with served.client() as client:
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert client.answer().status in (400, 505)
            assert client.ends()
        with served.client() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: souk\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n")
            client.send(b"HTTP2-Settings: AAMAAABk\r\n\r\n")
            assert client.answer().echo()["http_version"] == "1.1"
    finally:
        served.stop()
