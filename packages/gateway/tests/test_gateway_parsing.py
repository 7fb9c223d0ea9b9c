"""What is a request, by this gateway and by h11: it must refuse whatever h11 refuses, and else understand the same."""

from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gateway_http1 import BAD_CHUNKS, CHUNKED, CHUNKS, GET, LAST, MALFORMED, OTHER_CODINGS, POST

from souk_gateway.parsing import Head, Malformed, Parser

MAX_BYTES = 16 * 1024


@dataclass
class Seen:
    """What was understood."""

    requests: list[tuple[str, bytes, str, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    ended: int = 0
    refused: bool = False


class Receiver(Seen):
    def begin(self, head: Head) -> None:
        if self.is_over():
            raise Malformed(400)
        # h11 has the only coding that there is in lower case.
        headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.headers]
        self.requests.append((head.method, head.target, head.version, headers))
        self.bodies.append(b"")
        self.keep_alive = head.keep_alive

    def take(self, body: bytes) -> None:
        self.bodies[-1] += body

    def end(self) -> None:
        self.ended += 1

    def may_change(self, rest: bytes) -> None:
        pass

    def is_over(self) -> bool:
        """Whether the last request that there is has ended."""
        return bool(self.requests) and not self.keep_alive and self.ended == len(self.requests)


def by_souk(data: bytes, step: int = MAX_BYTES) -> Seen:
    seen = Receiver()
    parser = Parser(seen, MAX_BYTES)
    try:
        for n in range(0, len(data), step):
            parser.feed(data[n : n + step])
    except Malformed:
        seen.refused = not seen.is_over()  # what comes after the end is not looked at
    return seen


def tolerated(data: bytes) -> bytes:
    """What this gateway takes a request for that h11 refuses. None of it moves a request's end.

    Empty lines before a request are ignored: RFC 9112, 2.2.
    """
    return data.lstrip(b"\r\n")


def by_h11(data: bytes) -> Seen:
    seen = Seen()
    while data := tolerated(data):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BYTES)
        connection.receive_data(data)
        try:
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    version = event.http_version.decode()
                    seen.requests.append((event.method.decode(), event.target, version, list(event.headers)))
                    seen.bodies.append(b"")
                elif isinstance(event, h11.Data):
                    seen.bodies[-1] += bytes(event.data)
                else:
                    assert isinstance(event, h11.EndOfMessage)
                    seen.ended += 1
                    break
            else:
                return seen
        except h11.RemoteProtocolError:
            seen.refused = True
            return seen
        connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE or seen.requests[-1][0] == "CONNECT":  # the last request
            return seen
        data = connection.trailing_data[0]
    return seen


def agree(data: bytes, step: int = MAX_BYTES) -> None:
    """Who refuses more may have understood less, but nothing else."""
    ours, theirs = by_souk(data, step), by_h11(data)
    assert ours.refused or not theirs.refused
    count = min(ours.ended, theirs.ended) if ours.refused else theirs.ended
    assert ours.requests[:count] == theirs.requests[:count]
    assert ours.bodies[:count] == theirs.bodies[:count]
    if not ours.refused:
        assert (len(ours.requests), ours.ended) == (len(theirs.requests), theirs.ended)


FORMS = [
    GET,
    LAST,
    CHUNKED + CHUNKS,
    POST + b"Content-Length: 5\r\n\r\nhello",
    b"POST /b HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    b"GET http://souk/a?b#c HTTP/1.1\r\nHost: souk\r\nX-Empty:\r\nX-Bytes: \xe9\t \r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: Chunked \r\n\r\n" + CHUNKS,
    b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    *MALFORMED.values(),
    *(CHUNKED + chunks for chunks in BAD_CHUNKS.values()),
    *(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" for coding in OTHER_CODINGS),
]
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"/",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"0",
        b"1",
    ),
    *(
        b"5",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"RTSP/1.0",
        b"GET",
        b"CONNECT",
        b"HEAD",
        b"Host: a\r\n",
        b"#",
        b"%",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
        b"chunked",
        b"-",
        b"+",
        b"0x",
        b"a",
        b"\r\n ",
    ),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests with pieces put in, taken out, or doubled."""
    data = b"".join(draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        piece = draw(st.sampled_from([b"", data[start:end] * 2, *PIECES]))
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("data", FORMS)
@pytest.mark.parametrize("step", [1, 7, MAX_BYTES])
def test_it_understands_each_form_as_h11_does_or_refuses_it(data: bytes, step: int) -> None:
    agree(data, step)
    agree(data + GET, step)
    agree(GET + data, step)


@given(mutated(), st.sampled_from([1, 2, 5, 64, MAX_BYTES]))
@settings(max_examples=1500, deadline=None)
def test_it_refuses_whatever_h11_refuses_and_reads_the_same_out_of_the_rest(data: bytes, step: int) -> None:
    agree(data, step)


@given(mutated(), st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_it_is_the_same_to_it_how_the_bytes_come(data: bytes, step: int) -> None:
    together, apart = by_souk(data), by_souk(data, step)
    assert together == apart
