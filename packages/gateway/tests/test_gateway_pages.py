"""The contract, the page that shows it, and the pages of problems."""

import re

import httpx
import pytest

from souk_gateway.app import application
from souk_gateway.backends import Backends
from souk_gateway.models import (
    MAX_LINES,
    MAX_NUMBER,
    MAX_POINTS,
    MAX_QUANTITY,
    MAX_UNIT_PRICE,
)
from souk_gateway.problems import BY_NAME
from souk_gateway.reading import MAX_PAGE_SIZE
from souk_gateway.settings import Settings
from souk_gateway.targets import SERVICES


async def test_the_contract_and_the_gateway_serve_the_same_routes(client: httpx.AsyncClient) -> None:
    contract = (await client.get("/openapi.json")).json()
    declared = {
        (path, method.upper())
        for path, methods in contract["paths"].items()
        for method in methods
        if method != "parameters"
    }
    app = application({name: Backends(name, lambda _: None) for name in SERVICES}, Settings())
    served = {
        (route.path, method)  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert served == declared


async def test_the_contract_states_the_limits_that_are_kept(client: httpx.AsyncClient) -> None:
    contract = (await client.get("/openapi.json")).json()

    def body(path: str, method: str) -> dict[str, dict[str, int]]:
        content = contract["paths"][path][method]["requestBody"]["content"]
        properties: dict[str, dict[str, int]] = content["application/json"]["schema"]["properties"]
        return properties

    order = contract["components"]["schemas"]["OrderRequest"]["properties"]
    assert order["lines"]["maxItems"] == MAX_LINES
    assert order["lines"]["items"]["properties"]["quantity"]["maximum"] == MAX_QUANTITY
    assert order["redeem_points"]["maximum"] == MAX_POINTS
    assert body("/v1/items/{sku}", "put")["unit_price"]["maximum"] == MAX_UNIT_PRICE
    assert body("/v1/items/{sku}", "put")["on_hand"]["maximum"] == MAX_NUMBER
    assert body("/v1/items/{sku}/restock", "post")["quantity"]["maximum"] == MAX_QUANTITY
    assert body("/v1/customers/{id}", "put")["points"]["maximum"] == MAX_NUMBER
    assert contract["components"]["parameters"]["PageSize"]["schema"]["maximum"] == MAX_PAGE_SIZE


async def test_the_docs_page_loads_nothing_from_any_other_host(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:https?:)?//[a-z]|@import|\burl\(", re.sub(r"/\*\*.*?\*/", "", answer.text)) == []
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_leads_to_the_docs_page(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/")
    assert (answer.status_code, answer.headers["location"], answer.content) == (307, "/docs", b"")
    assert (await client.request(method, "/", follow_redirects=True)).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_a_copy_that_is_still_good_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    changed = await client.get(path, headers={"If-None-Match": '"other"'})
    assert changed.content == first.content


async def test_a_head_request_gets_the_headers_only(client: httpx.AsyncClient) -> None:
    answer = await client.head("/v1/items")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("name", BY_NAME)
async def test_every_type_of_problem_has_a_page(client: httpx.AsyncClient, name: str) -> None:
    page = (await client.get(f"/problems/{name}")).json()
    assert page["type"] == f"/problems/{name}"
    assert page["advice"]


async def test_a_problem_that_does_not_exist_has_no_page(client: httpx.AsyncClient) -> None:
    assert (await client.get("/problems/nothing")).status_code == 404
