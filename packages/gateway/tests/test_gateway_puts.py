"""Puts and restocks over a real gateway and real gRPC servers: what they leave alone, and repetitions."""

import httpx
import pytest
from gateway_services import Shop
from grpc import StatusCode
from test_gateway_routes import assert_problem

from souk_contracts.errors import Refused
from souk_contracts.reservations.v1 import Item

AWAY = Refused(StatusCode.UNAVAILABLE, "reservations.souk", "STORAGE_UNAVAILABLE", "the database does not answer")
TEA = {"name": "Green tea", "unit_price": 500}
ADA = {"name": "Ada", "tier": "silver"}


def sell(shop: Shop, pieces: int) -> None:
    item = shop.reservations.items["tea"]
    item.on_hand -= pieces
    item.available -= pieces
    item.sold += pieces


async def test_a_price_is_changed_without_the_pieces_on_hand(client: httpx.AsyncClient, shop: Shop) -> None:
    sell(shop, 8)
    put = await client.put("/v1/items/tea", json=TEA)
    assert (put.status_code, put.json()["unit_price"], put.json()["on_hand"]) == (200, 500, 992)


async def test_a_tier_is_changed_without_the_points(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.loyalty.accounts["c-1"].points = -20
    put = await client.put("/v1/customers/c-1", json=ADA)
    assert (put.status_code, put.json()["tier"], put.json()["points"]) == (200, "silver", -20)


async def test_what_is_created_without_a_number_has_none(client: httpx.AsyncClient) -> None:
    assert (await client.put("/v1/items/cup", json=TEA)).json()["on_hand"] == 0
    assert (await client.put("/v1/customers/new", json=ADA)).json()["points"] == 0


async def test_points_below_zero_can_be_put_as_they_are(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.loyalty.accounts["c-1"].points = -20
    assert (await client.put("/v1/customers/c-1", json={**ADA, "points": -20})).json()["points"] == -20
    assert_problem(await client.put("/v1/customers/c-1", json={**ADA, "points": -21}), 400, "invalid-argument")


@pytest.mark.parametrize(
    ("path", "body", "number"), [("/v1/items/tea", TEA, "on_hand"), ("/v1/customers/c-1", ADA, "points")]
)
async def test_an_older_service_refuses_a_partial_or_conditional_put_and_takes_a_plain_one(
    client: httpx.AsyncClient, shop: Shop, path: str, body: dict[str, object], number: str
) -> None:
    shop.reservations.is_1_1 = shop.loyalty.is_1_1 = True
    before = await client.get(path)
    assert "etag" not in before.headers
    for headers in ({}, {"If-Match": "*"}, {"If-None-Match": "*"}):
        problem = assert_problem(await client.put(path, json=body, headers=headers), 501, "service-too-old")
        assert "Souk-Prefer" in problem["detail"]
    full = {**body, number: 7}
    assert_problem(await client.put(path, json=full, headers={"If-Match": '"ab-1"'}), 501, "service-too-old")
    assert (await client.get(path)).json() == before.json()
    assert (await client.put(path, json=full)).json()[number] == 7


async def test_an_etag_is_for_what_a_put_sets(client: httpx.AsyncClient, shop: Shop) -> None:
    tag = {"If-Match": (await client.get("/v1/items/tea")).headers["etag"]}
    sell(shop, 1)
    refused = await client.put("/v1/items/tea", json={**TEA, "on_hand": 1000}, headers=tag)
    assert_problem(refused, 412, "precondition-failed")
    assert (await client.put("/v1/items/tea", json=TEA, headers=tag)).status_code == 200
    assert_problem(await client.put("/v1/items/tea", json=TEA, headers=tag), 412, "precondition-failed")
    assert shop.reservations.items["tea"].on_hand == 999
    head = await client.head("/v1/items/tea")
    assert head.headers["etag"] == (await client.get("/v1/items/tea")).headers["etag"]
    assert (await client.put("/v1/items/tea", json=TEA, headers={"If-Match": head.headers["etag"]})).is_success


async def test_a_put_may_only_create_or_only_change(client: httpx.AsyncClient) -> None:
    create, change = {"If-None-Match": "*"}, {"If-Match": "*"}
    assert_problem(await client.put("/v1/items/cup", json=TEA, headers=change), 412, "precondition-failed")
    assert (await client.put("/v1/items/cup", json=TEA, headers=create)).status_code == 200
    assert_problem(await client.put("/v1/items/cup", json=TEA, headers=create), 412, "precondition-failed")
    assert_problem(await client.put("/v1/customers/c-1", json=ADA, headers=create), 412, "precondition-failed")
    assert (await client.put("/v1/items/cup", json=TEA, headers=change)).status_code == 200


@pytest.mark.parametrize("tags", ['W/"ab-1000"', '"no such tag"', '"x"', 'W/"a", W/"b"'])
async def test_what_is_no_strong_tag_of_the_item_matches_nothing(client: httpx.AsyncClient, tags: str) -> None:
    answer = await client.put("/v1/items/tea", json=TEA, headers={"If-Match": tags})
    assert answer.status_code in (400, 412)
    assert (await client.get("/v1/items/tea")).json()["unit_price"] == 450


async def test_one_of_several_tags_is_enough(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/v1/items/tea")).headers["etag"]
    tags = f'"other-1" , W/"{tag[1:]}, {tag}'
    assert (await client.put("/v1/items/tea", json=TEA, headers={"If-Match": tags})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": ""},
        {"If-Match": "ab-1"},
        {"If-Match": '"ab-1'},
        {"If-Match": '"a" "b"'},
        {"If-Match": ", ".join(['"a"'] * 17)},
        {"If-Match": '"' * 15_000},
        {"If-None-Match": '"ab-1"'},
        {"If-Match": "*", "If-None-Match": "*"},
    ],
)
async def test_a_condition_that_cannot_be_read_is_refused(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.put("/v1/items/tea", json=TEA, headers=headers)
    assert assert_problem(answer, 400, "invalid-argument")["field"] in headers


async def test_a_repeated_put_does_not_undo_what_was_sold_in_between(client: httpx.AsyncClient, shop: Shop) -> None:
    def lose_the_answer(_: Item) -> Exception:
        shop.reservations.after_put = lambda _: None
        sell(shop, 8)
        return AWAY

    shop.reservations.after_put = lose_the_answer
    answer = await client.put("/v1/items/tea", json={**TEA, "on_hand": 10})
    assert "may have taken effect" in assert_problem(answer, 409, "changed-meanwhile")["detail"]
    assert shop.reservations.faults.calls == ["get_item", "put_item", "put_item"]
    assert (shop.reservations.items["tea"].on_hand, shop.reservations.items["tea"].sold) == (2, 8)


@pytest.mark.parametrize("body", [{**TEA, "on_hand": 10}, TEA])
@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}, {"If-None-Match": "*"}, {"If-Match": "tag"}])
async def test_a_put_whose_answer_was_lost_succeeds_when_it_is_repeated(
    client: httpx.AsyncClient, shop: Shop, body: dict[str, object], headers: dict[str, str]
) -> None:
    path = "/v1/items/cup" if "If-None-Match" in headers else "/v1/items/tea"
    if headers == {"If-Match": "tag"}:
        headers = {"If-Match": (await client.get(path)).headers["etag"]}
    failures = [AWAY]
    shop.reservations.after_put = lambda _: failures.pop() if failures else None
    answer = await client.put(path, json=body, headers=headers)
    assert (answer.status_code, answer.json()["unit_price"]) == (200, 500)
    assert shop.reservations.faults.calls.count("put_item") == 2


async def test_a_plain_put_to_an_older_service_is_not_repeated_and_does_not_invite_it(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    shop.reservations.is_1_1 = True
    shop.reservations.after_put = lambda _: AWAY
    answer = await client.put("/v1/items/tea", json={**TEA, "on_hand": 10})
    assert "If-Match" in assert_problem(answer, 503, "outcome-unknown")["detail"]
    assert "retry-after" not in answer.headers
    assert shop.reservations.faults.calls == ["get_item", "put_item"]


async def test_a_restock_with_a_key_is_repeated_and_adds_its_pieces_once(client: httpx.AsyncClient, shop: Shop) -> None:
    failures = [AWAY]
    shop.reservations.after_restock = lambda _: failures.pop() if failures else None
    key = {"Idempotency-Key": "K"}
    first, again = [await client.post("/v1/items/tea/restock", json={"quantity": 5}, headers=key) for _ in range(2)]
    assert first.json() == again.json()
    assert (first.json()["on_hand"], shop.reservations.items["tea"].on_hand) == (1005, 1005)
    assert again.headers["idempotency-replayed"] == "true"
    assert_problem(await client.post("/v1/items/tea/restock", json={"quantity": 6}, headers=key), 422, "key-reused")
    gone = {"Idempotency-Key": "L"}
    refusals = [await client.post("/v1/items/cup/restock", json={"quantity": 5}, headers=gone) for _ in range(2)]
    assert [each.status_code for each in refusals] == [404, 404]
    assert ["idempotency-replayed" in each.headers for each in refusals] == [False, True]
    assert "replayed" not in refusals[1].json()


async def test_a_restock_without_a_key_does_not_invite_its_repetition(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.reservations.after_restock = lambda _: AWAY
    answer = await client.post("/v1/items/tea/restock", json={"quantity": 5})
    assert "Idempotency-Key" in assert_problem(answer, 503, "outcome-unknown")["detail"]
    assert "retry-after" not in answer.headers
    assert shop.reservations.items["tea"].on_hand == 1005


async def test_a_key_that_an_older_service_cannot_keep_is_refused(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.reservations.is_1_1 = True
    answer = await client.post("/v1/items/tea/restock", json={"quantity": 5}, headers={"Idempotency-Key": "K"})
    assert_problem(answer, 501, "service-too-old")
    assert shop.reservations.items["tea"].on_hand == 1000
    assert (await client.post("/v1/items/tea/restock", json={"quantity": 5})).json()["on_hand"] == 1005


async def test_the_prototypes_order_takes_a_key(client: httpx.AsyncClient, shop: Shop) -> None:
    key = {"Idempotency-Key": "K"}
    first, again = [await client.post("/order?name=a", headers=key) for _ in range(2)]
    assert first.json() == again.json()
    assert ["idempotency-replayed" in each.headers for each in (first, again)] == [False, True]
    assert len(shop.orders.decided) == 1
    for path in ("/order?name=b", "/order?name=a&completed=true"):
        assert_problem(await client.post(path, headers=key), 422, "key-reused")
    order = {"customer_id": "guest", "lines": [{"sku": "demo", "quantity": 1}]}
    assert_problem(await client.post("/v1/orders", json=order, headers=key), 422, "key-reused")
    del shop.reservations.items["demo"]
    key = {"Idempotency-Key": "L"}
    refusals = [await client.post("/order?name=a", headers=key) for _ in range(2)]
    assert [each.status_code for each in refusals] == [422, 422]
    assert ["idempotency-replayed" in each.headers for each in refusals] == [False, True]
