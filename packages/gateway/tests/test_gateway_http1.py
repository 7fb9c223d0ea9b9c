"""HTTP/1.1 as it comes over sockets, well-formed and not: each request has its answer, and nothing hangs."""

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from http1_site import PATIENCE_S, Answer, Client, Site

from souk_gateway import serving

HOST = b"Host: souk\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b'5\r\nhello\r\n1;a="b"\r\n,\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\nHost: y\r\n\r\n'


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with site.client() as opened:
        yield opened


def refused(client: Client, status: int = 400) -> Answer:
    """The refusal that is the next answer, and the last."""
    answer = client.answer()
    assert (answer.status, answer["connection"], answer.body) == (status, "close", b"")
    assert client.ends()
    return answer


def test_a_request_is_handed_over_as_it_was_sent(client: Client) -> None:
    client.send(b"GET /a%20b/%C3%A9?q=%20&r HTTP/1.1\r\nHost: souk\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice:  2 \r\n\r\n")
    assert client.answer().echo() == {
        "method": "GET",
        "http_version": "1.1",
        "scheme": "http",
        "path": "/a b/é",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"q=%20&r",
        "headers": [(b"host", b"souk"), (b"x-empty", b""), (b"x-twice", b"1"), (b"x-twice", b"2")],
        "body": b"",
    }


def test_an_answer_has_a_date_of_now_and_what_the_application_says(site: Site, client: Client) -> None:
    site.app.headers = [(b"x-name", b"caf\xe9"), (b"X-Case", b"Kept")]
    client.send(b"GET /headers HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = client.answer()
    names = [name for name, _ in answer.headers]
    assert names == ["x-name", "X-Case", "content-length", "date"]
    assert (answer["x-name"], answer["content-length"]) == ("caf\xe9", "0")
    told = time.mktime(time.strptime(answer["date"] or "", "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert abs(told - time.time()) < 5


def test_a_connection_serves_one_request_after_another_until_it_is_told_to_close(client: Client) -> None:
    for _ in range(3):
        client.send(GET)
        assert client.answer()["connection"] is None
    client.send(LAST)
    answer = client.answer()
    assert (answer.echo()["path"], answer["connection"]) == ("/last", "close")
    assert client.ends()


def test_requests_that_come_together_are_answered_in_order_one_at_a_time(site: Site, client: Client) -> None:
    slow = b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
    client.send(slow + GET + CHUNKED + CHUNKS + LAST + GET)
    while not site.app.requests:
        time.sleep(0.01)
    time.sleep(0.1)
    assert site.app.requests == ["/slow"]
    site.app.go_on.set()
    answers = [client.answer().echo() for _ in range(4)]
    assert [(answer["path"], answer["body"]) for answer in answers] == [
        ("/slow", b"hi"),
        ("/a", b""),
        ("/b", b"hello,0123456789"),
        ("/last", b""),
    ]
    assert client.ends()  # what comes after the last request is none


def test_many_requests_at_once_all_have_their_answer(client: Client) -> None:
    client.send(GET * 5000)
    assert all(client.answer().status == 200 for _ in range(5000))


def test_trailers_are_no_headers_of_this_request_or_the_next(client: Client) -> None:
    client.send(CHUNKED + CHUNKS + GET)
    assert [name for name, _ in client.answer().echo()["headers"]] == [b"host", b"transfer-encoding"]
    assert client.answer().echo()["headers"] == [(b"host", b"souk")]


@pytest.mark.parametrize(
    "request_bytes",
    [GET, CHUNKED + CHUNKS, POST + b"Content-Length: 16\r\n\r\nhello,0123456789", LAST],
    ids=["get", "chunked", "length", "close"],
)
def test_a_request_may_come_byte_by_byte(client: Client, request_bytes: bytes) -> None:
    client.send(request_bytes)
    together = client.answer().echo() if request_bytes is not LAST else {"path": "/last"}
    if request_bytes is LAST:
        assert client.answer().echo()["path"] == "/last"
        return
    client.send_bytewise(request_bytes)
    assert client.answer().echo() == together


def test_a_chunked_body_may_be_cut_anywhere(client: Client) -> None:
    whole = CHUNKED + CHUNKS
    for n in range(1, len(whole)):
        client.send(whole[:n], whole[n:])
        assert client.answer().echo()["body"] == b"hello,0123456789"


def test_a_body_that_is_larger_than_a_read_comes_whole(client: Client) -> None:
    body = bytes(range(256)) * 4096
    client.send(
        POST + b"Content-Length: %d\r\n\r\n" % len(body), *(body[n : n + 999] for n in range(0, len(body), 999))
    )
    assert client.answer().echo()["body"] == body


def test_http_1_0_is_answered_and_its_connection_closed(client: Client) -> None:
    client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.answer()
    assert (answer.echo()["http_version"], answer["connection"]) == ("1.0", "close")
    assert client.ends()


def test_head_has_the_headers_of_get_and_no_body(client: Client) -> None:
    client.send(b"HEAD /short HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    answer = client.answer("HEAD")
    assert (answer.status, answer["content-length"]) == (200, "3")
    client.send(b"HEAD /stream HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    assert client.answer().echo()["path"] == "/a"
    assert client.answer("HEAD").status == 200
    assert client.answer().echo()["path"] == "/a"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_says_nothing_of_one(client: Client, status: int) -> None:
    client.send(b"GET /status/%d HTTP/1.1\r\n" % status + HOST + b"\r\n" + GET)
    answer = client.answer()
    assert (answer.status, answer["content-length"], answer["transfer-encoding"]) == (status, None, None)
    assert client.answer().echo()["path"] == "/a"


def test_an_answer_of_unknown_length_is_chunked_or_ends_with_the_connection(site: Site, client: Client) -> None:
    client.send(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    answer = client.answer()
    assert (answer.body, answer["transfer-encoding"]) == (b"one two", "chunked")
    assert client.answer().status == 200
    with site.client() as old:
        old.send(b"GET /stream HTTP/1.0\r\n\r\n")
        answer = old.answer()
        assert (answer.body, answer["transfer-encoding"]) == (b"one two", None)


@pytest.mark.parametrize("host", [b"souk:8080", b"[::1]:80", b"127.0.0.1", b"s_o-u.k%20", b"", b"souk:"])
def test_a_host_may_be_a_name_an_address_or_empty_with_a_port_or_without(client: Client, host: bytes) -> None:
    client.send(GET.replace(b"souk", host))
    assert dict(client.answer().echo()["headers"])[b"host"] == host


def test_who_expects_something_else_is_told_that_it_is_not_to_be_had(client: Client) -> None:
    client.send(POST + b"Content-Length: 5\r\nExpect: 100-continue, a\r\n\r\n")
    refused(client, 417)


def test_who_waits_to_be_told_is_not_told_to_send_what_nobody_reads(client: Client) -> None:
    client.send(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 100000000000\r\nExpect: 100-continue\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer["connection"]) == (200, "close")
    assert client.ends()


@pytest.mark.parametrize(
    "head",
    [GET.replace(b"GET ", b"GET  "), b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000\r\n\r\n"],
    ids=["malformed", "unread"],
)
def test_who_is_answered_amid_what_it_sends_has_the_answer_and_no_reset(client: Client, head: bytes) -> None:
    client.send(head + b"x" * 4_000_000)  # more than the buffers between the two hold
    assert client.answer().status in (200, 400)
    assert client.file.read(1) == b""


def test_who_waits_to_be_told_to_send_the_body_is_told_so(client: Client) -> None:
    expecting = POST + b"Content-Length: 5\r\nExpect: 100-Continue\r\n\r\n"
    client.send(expecting)
    assert client.answer().status == 100
    client.send(b"hello")
    assert client.answer().echo()["body"] == b"hello"
    client.send(expecting + b"hello")  # did not wait
    assert client.answer().echo()["body"] == b"hello"
    client.send(b"POST /b HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    time.sleep(0.1)
    client.send(b"hello")
    assert client.answer().echo()["body"] == b"hello"  # HTTP/1.0 knows no such thing


def test_who_waits_behind_another_request_is_told_after_its_answer(client: Client) -> None:
    client.send(GET + POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer().echo()["path"] == "/a"
    assert client.answer().status == 100
    client.send(b"hello")
    assert client.answer().echo()["body"] == b"hello"


def test_an_answer_before_the_body_ends_the_connection(client: Client) -> None:
    client.send(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 40\r\n\r\n")
    answer = client.answer()
    assert (answer.body, answer["connection"]) == (b"unread", "close")
    assert client.ends()


def test_what_comes_of_a_body_after_the_answer_is_no_request(site: Site, client: Client) -> None:
    client.send(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(GET))
    assert client.answer().body == b"unread"
    with suppress(OSError):
        client.send(GET, GET)
    assert client.ends()
    assert site.app.requests == ["/unread"]


def test_a_body_that_nobody_reads_and_came_whole_is_no_matter(client: Client) -> None:
    client.send(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello" + GET)
    answer = client.answer()
    assert (answer.body, answer["connection"]) == (b"unread", None)
    assert client.answer().echo()["path"] == "/a"


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.file.close()
    client.socket.close()


@pytest.mark.parametrize("leave", [reset, lambda client: client.socket.shutdown(socket.SHUT_WR)], ids=["rst", "fin"])
def test_the_application_is_told_of_a_client_that_goes_away_amid_its_body(site: Site, leave: object) -> None:
    with site.client() as client:
        client.send(POST + b"Content-Length: 10\r\n\r\n12345")
        while not site.app.requests:
            time.sleep(0.01)
        leave(client)  # type: ignore[operator]
        assert site.app.told.wait(PATIENCE_S)
        assert site.app.last == {"type": "http.disconnect"}


def test_a_client_that_resets_a_connection_while_it_closes_leaves_nothing_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        with site.client() as client:
            client.send(b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
            client.socket.recv(1)
            client.socket.shutdown(socket.SHUT_WR)
            reset(client)
    site.stop()
    assert [record.getMessage() for record in caplog.records] == []


def test_who_ends_amid_a_request_is_told_that_it_is_none(client: Client) -> None:
    client.send(GET[:-4])
    client.socket.shutdown(socket.SHUT_WR)
    refused(client)


def test_who_has_said_all_and_listens_is_answered(site: Site, client: Client) -> None:
    client.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    client.socket.shutdown(socket.SHUT_WR)
    site.app.go_on.set()
    assert client.answer().echo()["path"] == "/slow"
    assert client.answer().echo()["path"] == "/a"
    assert client.ends()


@pytest.mark.parametrize("leave", [reset, lambda client: client.socket.shutdown(socket.SHUT_WR)], ids=["rst", "fin"])
def test_the_application_is_told_of_a_client_that_does_not_wait(site: Site, leave: object) -> None:
    with site.client() as client:
        client.send(b"GET /waits HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        while not site.app.requests:
            time.sleep(0.01)
        leave(client)  # type: ignore[operator]
        assert site.app.told.wait(PATIENCE_S)
        assert site.app.last == {"type": "http.disconnect"}


def test_a_request_while_it_drains_is_answered_and_is_the_last(site: Site, client: Client) -> None:
    client.send(GET)
    assert client.answer()["connection"] is None
    site.begin_stop()
    time.sleep(0.1)
    client.send(GET + GET)
    assert client.answer()["connection"] == "close"
    assert client.ends()


def test_an_answer_that_outlasts_the_drain_is_the_last(
    site: Site, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_LINGER_S", 0.01)
    client.send(b"GET /half HTTP/1.1\r\n" + HOST + b"\r\n")
    while (line := client.file.readline()) != b"\r\n":
        assert line != b"connection: close\r\n"  # it was not known
    site.config.graceful_timeout = PATIENCE_S
    site.begin_stop()
    time.sleep(0.2)
    site.app.go_on.set()
    client.socket.settimeout(PATIENCE_S / 2)
    assert client.file.read() == b"5\r\nearly\r\n0\r\n\r\n"


def test_a_connection_has_an_end_after_so_many_requests(site: Site, client: Client) -> None:
    site.config.keep_alive_max_requests = 2
    client.send(GET + GET)
    assert client.answer()["connection"] is None
    assert client.answer()["connection"] == "close"
    assert client.ends()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nSet-Cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        (b"x\0", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"0, 0"),
    ],
)
def test_a_header_that_would_make_another_answer_is_not_sent(
    site: Site, client: Client, name: bytes, value: bytes
) -> None:
    site.app.headers = [(name, value)]
    client.send(b"GET /headers HTTP/1.1\r\n" + HOST + b"\r\n")
    refused(client, 500)


@pytest.mark.parametrize("path", [b"/fails", b"/short"])
def test_an_application_that_fails_before_its_answer_is_a_500(client: Client, path: bytes) -> None:
    client.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    refused(client, 500)


def test_an_answer_that_breaks_off_is_seen_as_such(client: Client) -> None:
    client.send(b"GET /breaks HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    head, _, body = client.file.read().partition(b"\r\n\r\n")
    assert b"content-length: 9\r\n" in head
    assert body == b"ab"  # and nothing else, such as another answer


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://souk/v1/orders?a=b", "/v1/orders"),
        (b"HTTPS://souk:80", "/"),
        (b"*", "*"),
        (b"//souk/x", "//souk/x"),
        (b"/http://souk/", "/http://souk/"),
    ],
)
def test_a_target_is_taken_in_each_form(client: Client, target: bytes, path: str) -> None:
    client.send(b"OPTIONS " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert client.answer().echo()["path"] == path


def test_a_tunnel_is_none(client: Client) -> None:
    client.send(b"CONNECT souk:1 HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    answer = client.answer()
    assert (answer.echo()["method"], answer["connection"]) == ("CONNECT", "close")
    assert client.ends()


@pytest.mark.parametrize(
    "head",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    ],
    ids=["websocket", "h2c"],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_who_would_rather_speak_something_else_is_answered_in_http_1_1_body_and_all(
    client: Client, head: bytes, bytewise: bool
) -> None:
    whole = POST + head + b"Content-Length: %d\r\n\r\n" % len(GET) + GET
    whole += CHUNKED[:-2] + head + b"\r\n" + CHUNKS
    whole += POST + head + b"Content-Length: 0\r\n\r\n"
    whole += GET
    if bytewise:
        client.send_bytewise(whole)
    else:
        client.send(whole)
    assert [client.answer().echo()["body"] for _ in range(4)] == [GET, b"hello,0123456789", b"", b""]


def test_a_websocket_is_none(client: Client) -> None:
    client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + GET)
    assert client.answer().echo()["path"] == "/a"
    assert client.answer().echo()["path"] == "/a"


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "a method that there is not": GET.replace(b"GET", b"FETCH"),
    "no target": b"GET HTTP/1.1\r\nHost: souk\r\n\r\n",
    "bytes in the target": GET.replace(b"/a", b"/\xff"),
    "a control character in the target": GET.replace(b"/a", b"/\x7f"),
    "a bare LF": GET.replace(b"\r\n", b"\n"),
    "a bare LF after a header": GET.replace(b"souk\r\n", b"souk\n"),
    "a bare CR": GET.replace(b"souk", b"so\ruk"),
    "a folded header": GET.replace(b"souk", b"souk\r\n more"),
    "NUL in a value": GET.replace(b"souk", b"so\0uk"),
    "NUL in a name": GET.replace(b"Host", b"Ho\0st"),
    "a space before the colon": GET.replace(b"Host:", b"Host :"),
    "no colon": GET.replace(b"Host: souk", b"Host"),
    "no name": GET.replace(b"Host:", b"Host: a\r\n:"),
    "no Host": GET.replace(HOST, b""),
    "two Hosts": GET.replace(HOST, HOST * 2),
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "different lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "a signed length": POST + b"Content-Length: +1\r\n\r\na",
    "a negative length": POST + b"Content-Length: -1\r\n\r\na",
    "an empty length": POST + b"Content-Length:\r\n\r\na",
    "a length in words": POST + b"Content-Length: one\r\n\r\na",
    "a length beyond all": POST + b"Content-Length: 99999999999999999999\r\n\r\na",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two spaces in front of the target": GET.replace(b"GET ", b"GET  "),
    "two spaces behind the target": GET.replace(b" HTTP", b"  HTTP"),
    "a space behind the version": GET.replace(b"1.1\r\n", b"1.1 \r\n"),
    "a tab in place of a space": GET.replace(b"GET ", b"GET\t"),
    "a method in lower case": GET.replace(b"GET", b"get"),
    "another protocol": GET.replace(b"HTTP/", b"RTSP/"),
    "a fragment": GET.replace(b"/a", b"/a#b"),
    "a target that is a path for some only": GET.replace(b"/a", b"a"),
    "* for another method than OPTIONS": GET.replace(b"/a", b"*"),
    "a target of another scheme": GET.replace(b"/a", b"ftp://souk/a"),
    "a target with a user": GET.replace(b"/a", b"http://u@souk/a"),
    "a target without a host": GET.replace(b"/a", b"http:///a"),
    "a target with a port in words": GET.replace(b"/a", b"http://souk:http/a"),
    "a tunnel without a port": GET.replace(b"GET /a", b"CONNECT souk"),
    "a user in Host": GET.replace(b"souk", b"u@souk"),
    "a path in Host": GET.replace(b"souk", b"souk/a"),
    "a space in Host": GET.replace(b"souk", b"so uk"),
    "bytes in Host": GET.replace(b"souk", b"sou\xc3\xa9"),
    "half a bracket in Host": GET.replace(b"souk", b"[::1"),
    "a port in words in Host": GET.replace(b"souk", b"souk:http"),
    "a control character in a value": GET.replace(b"souk\r\n", b"souk\r\nX: a\x1bb\r\n"),
    "chunks in HTTP/1.0": b"POST /b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
BAD_CHUNKS = {
    "in words": b"five\r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
    "signed": b"+5\r\nhello\r\n0\r\n\r\n",
    "with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "too small": b"4\r\nhello\r\n0\r\n\r\n",
    "a bare LF": b"5\nhello\r\n0\r\n\r\n",
    "beyond all": b"fffffffffffffffff\r\nhello",
    "a trailer without a colon": b"0\r\nTrailer\r\n\r\n",
}
OTHER_CODINGS = (b"gzip", b"gzip, chunked", b"xchunked", b"identity")


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_refused(site: Site, client: Client, malformed: bytes, bytewise: bool) -> None:
    with suppress(ConnectionError):  # it may have seen enough
        (client.send_bytewise if bytewise else client.send)(malformed)
    refused(client)
    assert site.app.requests == []


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_chunks_that_are_none_are_refused_and_the_application_is_told(
    site: Site, client: Client, chunks: bytes
) -> None:
    client.send(CHUNKED + chunks)
    refused(client)
    assert site.app.requests in ([], ["/b"])
    if site.app.requests:
        assert site.app.told.wait(PATIENCE_S)


def test_what_is_malformed_after_the_answer_has_begun_ends_it_and_is_not_answered(client: Client) -> None:
    client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    while client.file.readline() != b"\r\n":
        pass
    assert client.file.readline() == b"5\r\n"
    client.send(b"five")
    assert client.file.read() == b"early\r\n"


@pytest.mark.parametrize("coding", OTHER_CODINGS)
def test_a_coding_that_is_not_known_is_not_implemented(client: Client, coding: bytes) -> None:
    client.send(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n")
    refused(client, 501)


@pytest.mark.parametrize("version", [b" HTTP/0.9", b" HTTP/2.0", b""])
def test_another_version_is_not_supported(client: Client, version: bytes) -> None:
    client.send(GET.replace(b" HTTP/1.1", version))
    refused(client, 505)


def test_what_comes_before_something_malformed_is_answered_first(client: Client) -> None:
    client.send(GET + GET + MALFORMED["no Host"] + GET)
    assert client.answer().echo()["path"] == "/a"
    assert client.answer().echo()["path"] == "/a"
    refused(client)


def test_a_body_that_turns_out_malformed_behind_another_request_is_refused_after_its_answer(
    site: Site, client: Client
) -> None:
    client.send(GET + CHUNKED + b"five")
    assert client.answer().echo()["path"] == "/a"
    refused(client)
    assert site.app.requests == ["/a"]


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"x" * 17_000 + b"\r\n",
        b"X" * 17_000 + b": x\r\n",
        b"a:\r\n" * 6_000,
        b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(2_000)),
    ],
    ids=["value", "name", "count", "sum"],
)
def test_a_head_that_is_too_large_is_refused(site: Site, client: Client, head: bytes) -> None:
    client.send(GET[:-2] + head + b"\r\n")
    refused(client, 431)
    assert site.app.requests == []


def test_a_target_that_is_too_large_is_refused(client: Client) -> None:
    client.send(GET.replace(b"/a", b"/" + b"a" * 17_000))
    refused(client, 431)


@pytest.mark.parametrize("start", [GET[:-2] + b"X: ", b"GET /", b"\r\n"], ids=["header", "target", "lines"])
def test_a_head_that_does_not_end_is_refused(client: Client, start: bytes) -> None:
    fill = start if start == b"\r\n" else b"x" * 1024
    with suppress(ConnectionError):
        client.send(start, *[fill] * (20_000 // len(fill)))
    assert client.answer().status in (400, 431)
    assert client.ends()


@pytest.mark.parametrize("start", [b"1;", b"0\r\nX: "], ids=["extension", "trailer"])
def test_what_comes_beside_a_body_without_an_end_is_refused(client: Client, start: bytes) -> None:
    client.send(CHUNKED + start)
    with suppress(ConnectionError):
        for _ in range(40):
            client.send(b"x" * 1024)
            time.sleep(0.002)
    assert client.answer().status == 400
    assert client.ends()


def test_a_client_that_does_not_read_is_not_read_from_for_ever(site: Site, client: Client) -> None:
    client.socket.settimeout(1)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    whole = (POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000) * 1000
    with pytest.raises(TimeoutError):  # so its answers do not fill the memory
        client.send(whole)
    assert len(site.app.requests) < 500


def test_every_byte_of_a_head_counts(client: Client) -> None:
    fits = GET[:-2] + b"X: " + b"x" * 16_000 + b"\r\n\r\n"
    client.send(fits)
    assert client.answer().status == 200
    client.send_bytewise(fits[:100])
    client.send(fits[100:])
    assert re.fullmatch(b"x+", dict(client.answer().echo()["headers"])[b"x"])
