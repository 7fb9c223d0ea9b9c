"""The contract, the page that shows it, and the pages of problems."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import httpx
import pytest

from souk_gateway.app import application
from souk_gateway.backends import Backends
from souk_gateway.models import (
    ID_PATTERN,
    KNOWN_ID,
    MAX_LINES,
    MAX_NUMBER,
    MAX_POINTS,
    MAX_QUANTITY,
    MAX_UNIT_PRICE,
    NAME_PATTERN,
    TEXT_PATTERN,
)
from souk_gateway.problems import BY_NAME
from souk_gateway.reading import MAX_PAGE_SIZE
from souk_gateway.settings import Settings
from souk_gateway.targets import SERVICES


class Inline(HTMLParser):
    """What a page carries itself."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.elements: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {f"{tag} {name}" for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.texts[self.cdata_elem] = self.texts.get(self.cdata_elem, "") + data


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


async def test_the_contract_states_the_patterns_that_are_kept(client: httpx.AsyncClient) -> None:
    contract = (await client.get("/openapi.json")).json()
    schemas = contract["components"]["schemas"]
    item = contract["paths"]["/v1/items/{sku}"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    filters = {each["name"]: each for each in contract["paths"]["/v1/orders"]["get"]["parameters"] if "name" in each}
    for pattern, declared in (
        (ID_PATTERN, schemas["Identifier"]),
        (KNOWN_ID.pattern, filters["customer_id"]["schema"]),
        (NAME_PATTERN, schemas["Name"]),
        (TEXT_PATTERN, schemas["OrderRequest"]["properties"]["note"]),
        (TEXT_PATTERN, item["properties"]["description"]),
    ):
        assert declared["pattern"] == pattern.replace(r"\A", "^").replace(r"\Z", "$")


async def test_the_docs_page_loads_nothing_from_any_other_host(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:https?:)?//[a-z]|@import|\burl\(", re.sub(r"/\*\*.*?\*/", "", answer.text)) == []
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


async def test_the_docs_page_runs_no_script_but_its_own(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    page = Inline()
    page.feed(answer.text)
    assert [page.elements.count(kind) for kind in ("script", "style")] == [1, 1]
    names = {each.partition(" ")[2] for each in page.attributes}
    assert not [name for name in names if name in ("style", "src", "srcdoc") or name.startswith("on")]
    for kind, text in page.texts.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"


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


@pytest.mark.parametrize(
    ("form", "status"),
    [
        *(("*", 304), ('W/"tag"', 304), ('"x", "tag"', 304), ('"x",, W/"y" ,"tag",', 304)),
        *(
            ('x"tag"', 200),
            ('"tag', 200),
            ("tag", 200),
            ('"x"tag"', 200),
            ('w/"tag"', 200),
            ('"tag" x', 200),
            ("", 200),
        ),
        *(('"tag", *', 200), ('"x,tag"', 200)),
    ],
)
async def test_a_copy_is_named_by_a_list_of_entity_tags(client: httpx.AsyncClient, form: str, status: int) -> None:
    tag = (await client.get("/docs")).headers["etag"]
    answer = await client.get(
        "/docs", headers={"If-None-Match": form.replace('tag"', tag[1:]).replace('"tag', tag[:-1])}
    )
    assert answer.status_code == status


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
