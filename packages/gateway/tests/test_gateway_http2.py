"""HTTP/2 in clear, by prior knowledge and by an upgrade, on the same port, where it is switched on."""

import ast
import socket
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from http1_site import Client, Echo, Site

from souk_gateway.limits import Limits

HEADERS = [(":method", "POST"), (":scheme", "http"), (":authority", "souk"), (":path", "/a?b")]


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site(Echo(), Limits(http2=True))
    opened.start()
    yield opened
    opened.app.go_on.set()
    opened.stop()
    assert opened.trouble == []


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with site.client() as opened:
        yield opened


def answered(client: Client, connection: h2.connection.H2Connection, streams: int = 1) -> list[Any]:
    """What was asked, by stream."""
    bodies: dict[int, bytes] = {}
    ended = 0
    client.send(connection.data_to_send())
    while ended < streams:
        data = client.file.read1(65536)
        assert data
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + (event.data or b"")
            ended += isinstance(event, h2.events.StreamEnded)
        client.send(connection.data_to_send())
    return [ast.literal_eval(body.decode()) for _, body in sorted(bodies.items())]


@pytest.mark.parametrize("bytewise", [False, True])
def test_who_begins_with_http_2_is_answered_in_http_2(client: Client, bytewise: bool) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    for stream in (1, 3):
        connection.send_headers(stream, HEADERS)
        connection.send_data(stream, b"hello", end_stream=True)
    if bytewise:
        client.send_bytewise(connection.data_to_send())
    first, second = answered(client, connection, 2)
    assert first == second
    assert (first["method"], first["http_version"], first["path"]) == ("POST", "2", "/a")
    assert (first["query_string"], first["body"]) == (b"b", b"hello")


def test_who_asks_for_http_2_and_has_no_body_is_answered_in_http_2(client: Client) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    settings = connection.initiate_upgrade_connection()
    assert settings is not None
    client.send(b"GET /a?b HTTP/1.1\r\nHost: souk\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n")
    client.send(b"HTTP2-Settings: " + settings + b"\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer["upgrade"], answer["connection"]) == (101, "h2c", "upgrade")
    (first,) = answered(client, connection)
    assert (first["method"], first["http_version"], first["raw_path"]) == ("GET", "2", b"/a")
    assert dict(first["headers"])[b"host"] == b"souk"
    connection.send_headers(3, HEADERS, end_stream=True)
    assert answered(client, connection)[0]["method"] == "POST"


def test_who_asks_for_http_2_behind_another_request_is_answered_in_http_1_1(client: Client) -> None:
    asking = b"GET /a HTTP/1.1\r\nHost: souk\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    client.send(b"GET /a HTTP/1.1\r\nHost: souk\r\n\r\n" + asking + b"HTTP2-Settings: AAMAAABk\r\n\r\n")
    assert [client.answer().echo()["http_version"] for _ in range(2)] == ["1.1", "1.1"]


def test_who_goes_away_amid_the_beginning_is_no_trouble(site: Site) -> None:
    with site.client() as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nS")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().status == 400
        assert client.ends()
