"""What clients may take: connections, time and memory. An innocent client beside each is answered."""

import logging
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from http1_site import PATIENCE_S, Client, Echo, Site

from souk_gateway import serving
from souk_gateway.addresses import counted, forwarded_for
from souk_gateway.limits import Limits, Refusals
from souk_gateway.settings import BadSetting, Settings

HOST = b"Host: souk\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
SLOW = b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"
LARGE = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = LARGE[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\n" + HOST


@contextmanager
def site_with(limits: Limits) -> Iterator[Site]:
    opened = Site(Echo(), limits)
    opened.start()
    try:
        yield opened
    finally:
        opened.app.go_on.set()
        opened.stop()
    assert opened.trouble == []


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LOOK_S", 0.02)


def is_served(client: Client) -> bool:
    client.send(GET)
    return client.answer().status == 200


@pytest.mark.parametrize("start", [b"GET /a HT", GET[:-2], GET + b"GET "], ids=["line", "header", "second"])
def test_a_head_that_comes_too_slowly_is_given_up_with_408(start: bytes) -> None:
    with site_with(Limits(head_timeout_s=0.2)) as served, served.client() as slow:
        slow.send(start)
        if start.startswith(GET):
            assert slow.answer().status == 200
        assert slow.answer().status == 408
        assert slow.ends()


def test_who_connects_and_says_nothing_is_given_up() -> None:
    with site_with(Limits(head_timeout_s=0.2)) as served, served.client() as silent:
        assert silent.file.read() == b""


def test_a_body_that_brings_too_few_bytes_a_second_is_given_up_with_408() -> None:
    limits = Limits(head_timeout_s=0.2, body_bytes_per_s=10_000_000)
    with site_with(limits) as served, served.client() as slow:
        slow.send(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 50_000)
        assert slow.answer().status == 408
        assert slow.ends()
        assert served.app.told.wait(PATIENCE_S)
        assert served.app.last == {"type": "http.disconnect"}


def test_a_body_has_a_deadline_however_many_bytes_it_brings() -> None:
    limits = Limits(head_timeout_s=0.1, body_timeout_s=0.3, body_bytes_per_s=1)
    with site_with(limits) as served, served.client() as slow:
        slow.send(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 50_000)
        assert slow.answer().status == 408
        assert slow.ends()


def test_what_keeps_the_gateway_waiting_makes_room_for_who_comes() -> None:
    with site_with(Limits(max_connections_per_address=4)) as served, ExitStack() as stack:
        regular = stack.enter_context(served.client())
        assert is_served(regular)
        first, *_ = [stack.enter_context(served.client()) for _ in range(20)]
        assert is_served(stack.enter_context(served.client()))
        assert is_served(regular)
        assert first.ends()


def test_who_sends_a_body_slowly_makes_room_too() -> None:
    with site_with(Limits(max_connections_per_address=4)) as served, ExitStack() as stack:
        for _ in range(12):
            slow = stack.enter_context(served.client())
            slow.send(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 100)
        assert is_served(stack.enter_context(served.client()))


@pytest.mark.parametrize(
    "limits",
    [Limits(max_connections_per_address=3), Limits(max_connections=3)],
    ids=["SOUK_MAX_CONNECTIONS_PER_ADDRESS", "SOUK_MAX_CONNECTIONS"],
)
def test_where_all_are_being_served_who_comes_is_told_to_come_again(
    limits: Limits, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    with site_with(limits) as served, ExitStack() as stack:
        busy = [stack.enter_context(served.client()) for _ in range(3)]
        for each in busy:
            each.send(SLOW)
        while len(served.app.requests) < 3:
            time.sleep(0.01)
        for _ in range(100):  # more than are kept open
            answer = stack.enter_context(served.client()).answer()
            assert (answer.status, answer["retry-after"], answer["connection"]) == (503, "1", "close")
        if limits.max_connections > 3:
            assert is_served(stack.enter_context(served.client("127.0.0.2")))
        served.app.go_on.set()
        assert [each.answer().status for each in busy] == [200] * 3
    lines = [record.getMessage() for record in caplog.records if "Refused connections" in record.getMessage()]
    assert lines
    assert len(lines) < 50
    assert request.node.callspec.id + " is reached: 127.0.0.1" in lines[0]


def test_who_goes_on_opening_connections_beyond_its_limit_has_them_closed_at_once() -> None:
    with site_with(Limits(max_connections_per_address=2)) as served, ExitStack() as stack:
        busy = [stack.enter_context(served.client()) for _ in range(2)]
        for each in busy:
            each.send(SLOW)
        while len(served.app.requests) < 2:
            time.sleep(0.01)
        answered = 0
        for _ in range(2000):
            with served.client() as more:
                try:
                    answered += bool(more.file.readline())
                except ConnectionResetError:
                    break
        assert 100 <= answered < 2000
        assert is_served(stack.enter_context(served.client("127.0.0.2")))
        served.app.go_on.set()
        assert [each.answer().status for each in busy] == [200, 200]


def test_requests_of_a_client_that_has_gone_do_not_begin(site: Site) -> None:
    with site.client() as gone:
        gone.send(SLOW + GET * 300)
        while not site.app.requests:
            time.sleep(0.01)
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.file.close()
        gone.socket.close()
    with site.client() as other:
        assert is_served(other)  # the reset has come meanwhile
        site.app.go_on.set()
        assert is_served(other)
    assert site.app.requests == ["/slow", "/a", "/a"]


def asking(client: str, path: bytes = b"/slow") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 6.6.6.6, " + client.encode() + b"\r\n\r\n"


def test_behind_a_trusted_proxy_the_forwarded_address_counts() -> None:
    (proxy,) = Settings.from_environment({"SOUK_TRUSTED_PROXIES": "127.0.0.9"}).limits.trusted_proxies
    with site_with(Limits(max_connections_per_address=2, trusted_proxies=(proxy,))) as served, ExitStack() as stack:
        pool = [stack.enter_context(served.client("127.0.0.9")) for _ in range(8)]
        for each in pool[:2]:
            each.send(asking("10.0.0.1"))
        while len(served.app.requests) < 2:
            time.sleep(0.01)
        pool[2].send(asking("10.0.0.1"))
        answer = pool[2].answer()
        assert (answer.status, answer["retry-after"], answer["connection"]) == (429, "1", None)
        pool[3].send(asking("10.0.0.2", b"/a"))
        assert pool[3].answer().status == 200
        served.app.go_on.set()
        assert [each.answer().status for each in pool[:2]] == [200, 200]
        pool[2].send(asking("10.0.0.1", b"/a"))
        assert pool[2].answer().status == 200
        stranger = stack.enter_context(served.client("127.0.0.8"))
        for _ in range(3):
            stranger.send(asking("10.0.0.1", b"/a"))  # which is not believed
        assert [stranger.answer().status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, 10.1.1.1", "10.2.2.2"], "1.2.3.4"),
        (["1.2.3.4:5555"], "1.2.3.4"),
        (["[2001:db8::1]:5555"], "2001:db8::1"),
        (["1.2.3.4, unknown"], None),
        (["10.1.1.1"], None),
        ([], None),
        (["1.2.3.4" + ", 10.1.1.1" * 100], None),
    ],
)
def test_the_forwarded_address_is_the_last_that_no_proxy_has(values: list[str], address: str | None) -> None:
    proxies = Settings.from_environment({"SOUK_TRUSTED_PROXIES": "10.0.0.0/8"}).limits.trusted_proxies
    assert forwarded_for([(b"x-forwarded-for", value.encode()) for value in values], proxies) == address


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    assert counted("2001:db8::1") == counted("2001:db8::ffff:1") != counted("2001:db8:0:1::1")
    assert counted("::ffff:1.2.3.4") == counted("1.2.3.4") == "1.2.3.4"


def pipelined(served: Site, stack: ExitStack) -> Client:
    """A client that has asked for much and reads nothing, so that the gateway cannot send any more."""
    greedy = stack.enter_context(served.client())
    greedy.send(LARGE * 10)
    return greedy


def is_cut(client: Client) -> bool:
    try:
        return len(client.file.read()) < 30_000_000
    except ConnectionResetError:
        return True


def test_who_does_not_take_its_answers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with site_with(Limits(answer_timeout_s=0.3)) as served, ExitStack() as stack:
        greedy = pipelined(served, stack)
        while "SOUK_ANSWER_TIMEOUT_S" not in caplog.text:
            assert is_served(stack.enter_context(served.client()))
        assert is_cut(greedy)


def test_answers_that_are_not_taken_have_a_limit_in_all(caplog: pytest.LogCaptureFixture) -> None:
    with site_with(Limits(max_buffered_bytes=1_000_000)) as served, ExitStack() as stack:
        greedy = pipelined(served, stack)
        while "SOUK_MAX_BUFFERED_BYTES" not in caplog.text:
            assert is_served(stack.enter_context(served.client()))
        assert is_cut(greedy)


def test_who_takes_its_answer_slowly_has_it_whole() -> None:
    with site_with(Limits(answer_timeout_s=0.5)) as served, served.client() as slow:
        slow.send(LARGE * 9 + LAST)
        taken = 0
        while data := slow.socket.recv(300_000):
            taken += len(data)
            time.sleep(0.01)
        assert taken > 30_000_000


SHORT_OF_DESCRIPTORS = """
import asyncio, logging, resource, socket, sys, uvloop
from hypercorn.config import Config
from http1_site import Echo
from souk_gateway.limits import Limits
from souk_gateway.serving import serve_http
logging.basicConfig(level="INFO")
async def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    print(listener.getsockname()[1], flush=True)
    await serve_http(Echo(), Config(), listener, asyncio.Event().wait, Limits(max_connections_per_address=1000))
uvloop.run(main())
"""


def test_where_descriptors_run_out_it_is_logged_and_clients_are_served(tmp_path: object) -> None:
    tests = __file__.rpartition("/")[0]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{SHORT_OF_DESCRIPTORS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        served = Site.__new__(Site)
        served.port = int(process.stdout.readline())
        with ExitStack() as stack:
            regular = stack.enter_context(served.client())
            assert is_served(regular)
            for _ in range(200):
                stack.enter_context(served.client())
            assert "No connection can be accepted: Too many open files" in process.stderr.readline()
            for _ in range(10):
                assert is_served(regular)
                assert is_served(stack.enter_context(served.client()))
    finally:
        process.kill()
        process.communicate()


def test_a_reason_is_logged_at_once_and_then_seldom_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    with caplog.at_level(logging.WARNING):
        for n in range(5):
            refusals.note("Refused", f"{n}")
            refusals.note("Other", "x")
        assert [record.getMessage() for record in caplog.records] == ["Refused: 0", "Other: x"]
        now = 11.0
        refusals.report()
    assert [record.getMessage() for record in caplog.records][2:] == [
        "Refused: 4 (the last of 4)",
        "Other: x (the last of 4)",
    ]


def test_the_limits_are_settings() -> None:
    assert Settings.from_environment({}).limits == Limits()
    found = Settings.from_environment(
        {
            "SOUK_HTTP2": "true",
            "SOUK_MAX_CONNECTIONS": "7",
            "SOUK_MAX_CONNECTIONS_PER_ADDRESS": "6",
            "SOUK_HEAD_TIMEOUT_S": "5",
            "SOUK_BODY_TIMEOUT_S": "4",
            "SOUK_BODY_BYTES_PER_S": "3",
            "SOUK_ANSWER_TIMEOUT_S": "2",
            "SOUK_MAX_BUFFERED_BYTES": "1",
        }
    ).limits
    assert found == Limits(
        http2=True,
        max_connections=7,
        max_connections_per_address=6,
        head_timeout_s=5,
        body_timeout_s=4,
        body_bytes_per_s=3,
        answer_timeout_s=2,
        max_buffered_bytes=1,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOUK_MAX_CONNECTIONS", "0"),
        ("SOUK_MAX_CONNECTIONS", "-1"),
        ("SOUK_MAX_CONNECTIONS", "many"),
        ("SOUK_MAX_CONNECTIONS", "9" * 5000),
        ("SOUK_HEAD_TIMEOUT_S", "0"),
        ("SOUK_HEAD_TIMEOUT_S", "3601"),
        ("SOUK_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("SOUK_TRUSTED_PROXIES", "proxy"),
        ("SOUK_HTTP2", "maybe"),
    ],
)
def test_a_limit_that_is_none_is_said(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        Settings.from_environment({name: value})
