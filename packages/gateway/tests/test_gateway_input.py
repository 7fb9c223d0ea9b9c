"""Bad input: a problem that says what to mend, and nothing is asked of any service."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from gateway_services import Shop

ORDER = b'{"customer_id":"c-1","lines":[{"sku":"tea","quantity":%s}]}'
LINE = b'{"sku":"s-%d","quantity":1}'
CUP = {"name": "Cup", "unit_price": 1, "on_hand": 1}
# Unicode's property Bidi_Control.
BIDI_CONTROL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
BO = {"name": "Bo", "tier": "gold", "points": 1}


@pytest.fixture(autouse=True)
def nothing_is_asked(shop: Shop) -> Iterator[None]:
    yield
    for service in (shop.orders, shop.reservations, shop.loyalty):
        assert service.faults.calls == []


async def refused(answer: httpx.Response, status: int = 400, reason: str = "invalid-argument") -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    members = answer.json()
    assert (answer.status_code, members["type"]) == (status, f"/problems/{reason}"), members
    return str(members["detail"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"customer_id":"c-1",}', "not JSON"),
        (ORDER % b"1" + b" x", "not JSON"),
        (b"\xef\xbb\xbf" + ORDER % b"1", "not JSON"),
        ((ORDER % b"1").decode().encode("utf-16"), "not JSON"),
        (ORDER % b"NaN", "not JSON"),
        (b'{"customer_id":"\xff"}', "not UTF-8"),
        (b'{"customer_id":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"customer_id":"\\ud800"}', "not JSON"),
        (b'{"customer_id":"c\x00"}', "not JSON"),
        (b'{"customer_id":"c\\u0000"}', "customer_id: expected 1 to 64 letters"),
        (b'{"customer_id":""}', "customer_id: expected 1 to 64 letters"),
        (b'{"customer_id":"c-1\\n"}', "customer_id: expected 1 to 64 letters"),
        (b'{"customer_id":"%s"}' % (b"c" * 65), "customer_id: expected 1 to 64 letters"),
        (b'{"customer_id":7}', "customer_id: expected a string, got an integer"),
        (b"null", "expected an object, got null"),
        (b"[" * 60_000, "expected an object, got an array"),
        (b'{"lines":' + b"[" * 60_000, "lines[0]: expected an object, got an array"),
        (b'{"x":' + b"[" * 60_000, "unknown field `x`"),
        (b'{"customer_id":"c-1","lines":[],"total":1}', "lines: expected an array of length >= 1"),
        (b'{"customer_id":"c-1","total":1}', "unknown field `total`"),
        (b'{"customer_id":"c-1","lines":[{"sku":"tea","quantity":1,"price":1}]}', "unknown field `price`"),
        (b'{"customer_id":"c-1"}', "missing required field `lines`"),
        (b'{"customer_id":"c-1","lines":[{"sku":"tea"}]}', "lines[0]: missing required field `quantity`"),
        (b'{"customer_id":"c-1","lines":[]}', "lines: expected an array of length >= 1"),
        (b'{"customer_id":"c-1","lines":[%s]}' % b",".join(LINE % n for n in range(101)), "length <= 100"),
        (b'{"customer_id":"c-1","lines":[%s,%s]}' % (LINE % 1, LINE % 1), "lines: the SKU 's-1' appears twice"),
        (ORDER % b"0", "lines[0].quantity: expected an integer >= 1"),
        (ORDER % b"-1", "lines[0].quantity: expected an integer >= 1"),
        (ORDER % b"1000001", "lines[0].quantity: expected an integer <= 1000000"),
        (ORDER % b"9223372036854775808", "lines[0].quantity: expected an integer <= 1000000"),
        (ORDER % (b"9" * 1000), "lines[0].quantity"),
        (ORDER % b"1e400", "lines[0].quantity"),
        (ORDER % b"1e3", "lines[0].quantity: expected an integer, got a decimal number"),
        (ORDER % b"1.0", "lines[0].quantity: expected an integer, got a decimal number"),
        (ORDER % b"true", "lines[0].quantity: expected an integer, got a boolean"),
        (ORDER % b"null", "lines[0].quantity: expected an integer, got null"),
        (ORDER % b'"1"', "lines[0].quantity: expected an integer, got a string"),
        (ORDER % b'1,"quantity":true', "lines[0].quantity"),
        (ORDER % b'1,"quantity":2', "quantity: the member came more than once in the same object"),
        (ORDER % b'1,"\\u0073ku":"coffee"', "sku: the member came more than once in the same object"),
        ((ORDER % b"1")[:-1] + b',"customer_id":"c-1"}', "customer_id: the member came more than once"),
        (
            b'{"customer_id":"."}',
            "customer_id: expected 1 to 64 letters, digits, dots, underscores or hyphens, but not",
        ),
        (b'{"customer_id":"c-1","lines":[{"sku":"..","quantity":1}]}', "lines[0].sku: expected 1 to 64 letters"),
        ((ORDER % b"1")[:-1] + b',"note":"\\u009b2J"}', "note: expected text without control characters"),
        ((ORDER % b"1")[:-1] + b',"note":"\\uffff"}', "note: expected text without control characters"),
        ((ORDER % b"1")[:-1] + b',"redeem_points":-1}', "redeem_points: expected an integer >= 0"),
        (
            (ORDER % b"1")[:-1] + b',"redeem_points":1000000000001}',
            "expected an integer <= 1000000000000",
        ),
        ((ORDER % b"1")[:-1] + b',"note":null}', "note: expected a string, got null"),
        ((ORDER % b"1")[:-1] + b',"note":"%s"}' % (b"x" * 501), "note: expected a string of length <= 500"),
        ((ORDER % b"1")[:-1] + b',"note":"\\u0000"}', "note: expected text without control characters (tabs"),
        ((ORDER % b"1")[:-1] + b',"note":"\\u001b[2J"}', "note: expected text without control characters"),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
async def test_an_order_that_is_not_as_the_contract_says_is_refused(
    client: httpx.AsyncClient, body: bytes, says: str
) -> None:
    answer = await client.post("/v1/orders", content=body, headers={"Content-Type": "application/json"})
    assert says in await refused(answer)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/items/cup", {"name": "", "unit_price": 1, "on_hand": 1}, "name: expected 1 to 200 characters"),
        *(
            (path, {**body, "name": name}, "name: expected 1 to 200 characters, not only spaces, without control")
            for path, body in (("/v1/items/cup", CUP), ("/v1/customers/c-2", BO))
            for name in (" ", "\u3000 \u200b", "\x9b2J", "\u2028", "\ufdd0")
        ),
        *(
            ("/v1/items/cup", {**CUP, "name": f"ab{character}c"}, "without control characters, line breaks and changes")
            for character in BIDI_CONTROL
        ),
        ("/v1/items/cup", {"name": "a\tb", "unit_price": 1, "on_hand": 1}, "name: expected 1 to 200 characters"),
        ("/v1/items/cup", {"name": "x" * 201, "unit_price": 1, "on_hand": 1}, "name: expected 1 to 200 characters"),
        ("/v1/items/cup", {"name": "x", "unit_price": -1, "on_hand": 1}, "unit_price: expected an integer >= 0"),
        ("/v1/items/cup", {"name": "x", "unit_price": 10**9 + 1, "on_hand": 1}, "unit_price: expected an integer <="),
        ("/v1/items/cup", {"name": "x", "unit_price": 1, "on_hand": 2**53}, "on_hand: expected an integer <="),
        ("/v1/items/cup", {"name": "x", "unit_price": 1, "on_hand": 1, "sold": 0}, "unknown field `sold`"),
        ("/v1/items/cup", {**CUP, "description": "x" * 2001}, "description: expected a string of length <= 2000"),
        ("/v1/items/cup", {**CUP, "description": "a\x7fb"}, "description: expected text without control characters"),
        ("/v1/items/cup", {**CUP, "description": None}, "description: expected a string, got null"),
        ("/v1/customers/c-2", {**BO, "tier_expires_at": "2027-01-01"}, "tier_expires_at: expected a time such as"),
        (
            "/v1/customers/c-2",
            {**BO, "tier_expires_at": "2027-01-01T00:00:00"},
            "tier_expires_at: expected a time such as",
        ),
        (
            "/v1/customers/c-2",
            {**BO, "tier_expires_at": 1798761600},
            "expected a time or null, got an integer",
        ),
        *(
            ("/v1/customers/c-2", {**BO, "tier_expires_at": time}, "tier_expires_at: expected a time such as")
            for time in (
                *("2027-01-01T00:00:00+0100", "2027-01-01 00:00:00Z", "2027-01-01T00:00:00+24:00"),
                *("2027-02-30T00:00:00Z", "2016-12-31T23:59:60Z", "2027-01-01T00:00:00Z\n", ""),
            )
        ),
        ("/v1/customers/c-2", {**BO, "tier_expires_at": "1970-01-01T00:00:00Z"}, "after 1970-01-01"),
        ("/v1/customers/c-2", {**BO, "tier_expires_at": "9999-12-31T23:59:59-01:00"}, "before the year 10000"),
        (
            "/v1/customers/c-2",
            {"name": "x", "tier": "GOLD", "points": 1},
            "tier: expected one of standard, ",
        ),
        ("/v1/customers/c-2", {"name": "x", "tier": "gold", "points": 2**53}, "points: expected an integer <="),
    ],
)
async def test_an_item_or_a_customer_that_is_not_as_the_contract_says_is_refused(
    client: httpx.AsyncClient, path: str, body: object, says: str
) -> None:
    assert says in await refused(await client.put(path, json=body))


async def test_a_restock_of_nothing_is_refused(client: httpx.AsyncClient) -> None:
    assert "quantity" in await refused(await client.post("/v1/items/tea/restock", json={"quantity": 0}))


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1024


@pytest.mark.parametrize("kib", [65, 500, 3000])
async def test_a_body_over_64_kib_is_refused_also_where_its_length_is_not_declared(
    client: httpx.AsyncClient, kib: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/orders", content=b" " * (kib * 1024), headers=headers)
    assert "65536 bytes" in await refused(answer, 413, "body-too-large")
    answer = await client.post("/v1/orders", content=chunks(kib), headers=headers)
    assert "65536 bytes" in await refused(answer, 413, "body-too-large")


async def test_a_body_of_64_kib_is_read(client: httpx.AsyncClient) -> None:
    body = b"{}".ljust(64 * 1024)
    answer = await client.post("/v1/orders", content=body, headers={"Content-Type": "application/json"})
    assert "missing required field" in await refused(answer)


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jso"]
)
async def test_a_body_of_another_type_is_refused(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/v1/orders", content=ORDER % b"1", headers=headers)
    assert "application/json" in await refused(answer, 415, "unsupported-media-type")


async def test_content_types_that_contradict_each_other_are_refused(client: httpx.AsyncClient) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    answer = await client.post("/v1/orders", content=ORDER % b"1", headers=headers)
    assert "application/json, text/plain" in await refused(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("coding", ["gzip", "identity, gzip", "GZIP", "aws-chunked"])
async def test_an_encoded_body_is_refused(client: httpx.AsyncClient, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await client.post("/v1/orders", content=ORDER % b"1", headers=headers)
    assert coding in await refused(answer, 415, "unsupported-media-type")
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["", "identity", "Identity,"])
async def test_identity_is_no_encoding(client: httpx.AsyncClient, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    assert "missing required" in await refused(await client.post("/v1/orders", content=b"{}", headers=headers))


@pytest.mark.parametrize(
    ("name", "field"),
    [("x - at `$.customer_id", None), ("x` - at `$.customer_id", None), ("`int`", None)],
)
async def test_the_name_of_an_unknown_member_is_no_place(
    client: httpx.AsyncClient, name: str, field: str | None
) -> None:
    answer = await client.post("/v1/orders", json={name: 1, "customer_id": "c-1"})
    assert f"unknown field `{name}`" in await refused(answer)
    assert answer.json().get("field") == field
    line = {"sku": "tea", "quantity": 1, name: 1}
    answer = await client.post("/v1/orders", json={"customer_id": "c-1", "lines": [line]})
    await refused(answer)
    assert answer.json()["field"] == "lines[0]"


async def test_json_may_come_with_parameters_and_in_capitals(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/orders", content=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert "missing required field" in await refused(answer)


@pytest.mark.parametrize(
    "key",
    [
        *(b"", b"k" * 256, b"caf\xe9", b"a\tb"),
        *(b'""', b'"' + b"k" * 256 + b'"', b'"a\\tb"', b'"a', b'"', b'"a"b', b'"a";p=1', b'"caf\xe9"'),
    ],
)
async def test_a_malformed_key_is_refused(client: httpx.AsyncClient, key: bytes) -> None:
    headers = {b"Content-Type": b"application/json", b"Idempotency-Key": key}
    answer = await client.post("/v1/orders", content=ORDER % b"1", headers=headers)
    assert "is not valid; expected 1 to 255 printable" in await refused(answer)


async def test_two_keys_are_refused(client: httpx.AsyncClient) -> None:
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await client.post("/v1/orders", content=ORDER % b"1", headers=headers)
    assert "send it once" in await refused(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/orders/17",
        "/v1/orders/00000000-0000-4000-8000-00000000000g",
        "/v1/orders/00000000000040008000000000000000",
        "/v1/orders/00000000-0000-4000-8000-000000000000%0A",
        "/v1/items/a%20b",
        "/v1/items/%00",
        "/v1/items/%ED%A0%80",
        "/v1/items/tea%0A",
        f"/v1/items/{'a' * 65}",
        "/v1/customers/%C3%A9",
        "/v1/items/a%2Fb",
        "/v1/items/a%2fb",
        "/v1/items/tea%2Frestock",
        "/v1/items/%2E",
        "/v1/customers/%2e%2E",
        "/v1/orders/00000000-0000-4000-8000-000000000000%2Fcancel",
    ],
)
async def test_an_id_that_cannot_be_one_is_refused(client: httpx.AsyncClient, path: str) -> None:
    await refused(await client.get(path))


@pytest.mark.parametrize("path", ["/v1/items/tea%2Frestock", "/v1/items%2Ftea/restock", "/v1/items/tea/restock%0A"])
async def test_what_is_encoded_in_a_path_separates_and_ends_nothing(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"quantity": 1})
    assert answer.status_code in (404, 405)


@pytest.mark.parametrize("path", ["/v1/items/.", "/v1/items/..", "/v1/customers/.", "/v1/items/../restock"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_dots_that_clients_take_out_of_paths_are_no_ids(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    # As it is: httpx would take them out itself.
    host, port = client.base_url.host, client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    body = json.dumps(BO if "customers" in path else {"quantity": 1} if "restock" in path else CUP)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = await reader.read()
    writer.close()
    assert answer.split()[1] in (b"400", b"405"), answer


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("page_size=0", "page_size: '0' is not valid; expected a whole number from 1 to 500"),
        ("page_size=501", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=1.0", "page_size"),
        ("page_size=%D9%A1", "page_size"),
        ("page_size=" + "9" * 5000, "page_size"),
        ("page_size=", "page_size"),
        ("page_size=1&page_size=2", "page_size: the parameter came more than once"),
        ("page_token=", "page_token: this is not a page token"),
        ("page_token=%00", "page_token: this is not a page token"),
        ("page_token=" + "x" * 1025, "page_token: this is not a page token"),
        ("status=accepted", "status: 'accepted' is not valid; expected one of ACCEPTED, CONFIRMED"),
        ("status=", "status"),
        ("customer_id=a%20b", "customer_id: 'a b' is not valid; expected 1 to 64 letters"),
        ("customer_id=", "customer_id"),
        ("customer=c-1", "customer: unknown query parameter; this request takes customer_id, status"),
    ],
)
async def test_a_query_that_is_not_as_the_contract_says_is_refused(
    client: httpx.AsyncClient, query: str, says: str
) -> None:
    assert says in await refused(await client.get(f"/v1/orders?{query}"))


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", f"/v1/orders?{LONG}=1", {}),
        ("GET", f"/v1/orders?status={LONG}", {}),
        ("GET", f"/v1/orders?customer_id={LONG}", {}),
        ("GET", f"/v1/orders?page_size={LONG}", {}),
        ("GET", f"/v1/orders?page_token={LONG}", {}),
        ("GET", f"/v1/orders/{LONG}", {}),
        ("GET", f"/v1/items/{LONG}", {}),
        ("GET", f"/problems/{LONG}", {}),
        ("GET", "/v1/items", {"Souk-Prefer": LONG}),
        ("GET", "/v1/items", {"Souk-Prefer": f"{LONG}=1.0.0"}),
        ("GET", "/v1/items", {"Souk-Prefer": f"{LONG}=1.0.0, {LONG}=1.0.0"}),
        ("GET", "/v1/items", {"Souk-Prefer": f"orders={LONG}"}),
        ("POST", "/v1/orders", {"Content-Type": LONG}),
        ("POST", "/v1/orders", {"Content-Type": "application/json", "Idempotency-Key": LONG}),
        ("POST", "/v1/orders", {"Content-Type": "application/json"}),
        ("PUT", "/v1/customers/c-2", {"Content-Type": "application/json"}),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_problem_quotes_only_the_beginning_of_a_long_value(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    key = f'"{LONG}":1' if "orders" in path else f'"tier":"{LONG}"'
    body = f'{{"customer_id":"c-1",{key}}}' if "orders" in path else f'{{"name":"x",{key}}}'
    answer = await client.request(method, path, headers=headers, content=body if method != "GET" else None)
    assert 400 <= answer.status_code < 500
    members = answer.json()
    assert members.pop("instance") == path.partition("?")[0]  # is a reference, so it stays whole
    assert len(str(members)) < 800


@pytest.mark.parametrize("query", ["", "name=", "name=a%00b", "name=a&completed=1", "name=a&completed=", "name=a&x=1"])
async def test_the_prototypes_request_needs_a_name_and_a_boolean(client: httpx.AsyncClient, query: str) -> None:
    await refused(await client.post(f"/order?{query}"))


@pytest.mark.parametrize("path", ["/v1", "/v1/orders/", "/v1/items/a/b", "/v1%2Forders", "/v1/orders%0A", "/v2/orders"])
async def test_a_path_that_is_not_served_is_a_problem(client: httpx.AsyncClient, path: str) -> None:
    assert "/docs" in await refused(await client.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/orders", "GET, HEAD, POST"),
        ("PATCH", "/v1/items/tea", "GET, HEAD, PUT"),
        ("GET", "/v1/items/tea/restock", "POST"),
        ("OPTIONS", "/v1/orders", "GET, HEAD, POST"),
        ("TRACE", "/docs", "GET, HEAD"),
        ("GET", "/order", "POST"),
    ],
)
async def test_a_method_that_is_not_served_is_told_those_that_are(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert allowed in await refused(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("host", ["[", "u@souk", "souk/a", "so uk", "souk:a", "sou\xe9"])
async def test_a_host_that_is_none_is_no_request(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get("/health/live", headers=[(b"Host", host.encode("latin-1"))])
    assert (answer.status_code, answer.content, answer.headers["connection"]) == (400, b"", "close")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/order?name=test"),
        ("POST", "/v1/orders/5f0c8a9e-0000-4000-8000-000000000001/cancel"),
        ("GET", "/v1/items"),
        ("PUT", "/v1/customers/c-1"),
    ],
)
async def test_a_body_that_is_too_large_is_refused_also_where_none_is_read(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path, content=b" " * 70_000)
    assert "65536 bytes" in await refused(answer, 413, "body-too-large")
