"""What is new in version 1.2, end to end, against every deployment."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.deployments import wait_until
from tests.e2e.test_orders import order, placed, put_customer, put_item, refused


def settled(rest: httpx.Client, order_id: str, status: str) -> None:
    wait_until(lambda: rest.get(f"/v1/orders/{order_id}").json()["status"] == status, status)


@pytest.mark.needs(gateway="1.2.0", reservations="1.2.0")
def test_a_change_of_a_price_does_not_undo_what_was_sold(rest: httpx.Client) -> None:
    tea, customer = put_item(rest, on_hand=10), put_customer(rest)
    path = f"/v1/items/{tea}"
    tag = {"If-Match": rest.get(path).headers["etag"]}
    settled(rest, placed(order(rest, customer, {tea: 8}))["id"], "CONFIRMED")
    assert rest.put(path, json={"name": "Tea", "unit_price": 500, "on_hand": 10}, headers=tag).status_code == 412
    item = rest.put(path, json={"name": "Tea", "unit_price": 500}, headers=tag).json()
    assert (item["unit_price"], item["on_hand"], item["sold"]) == (500, 2, 8)
    assert rest.put(path, json={"name": "Tea", "unit_price": 600}, headers=tag).status_code == 412
    assert rest.put(path, json={"name": "Tea", "unit_price": 1}, headers={"If-None-Match": "*"}).status_code == 412
    assert rest.get(path).json() == item


@pytest.mark.needs(gateway="1.2.0", loyalty="1.2.0")
def test_a_customer_whose_points_are_below_zero_can_change_the_tier(rest: httpx.Client) -> None:
    tea, customer = put_item(rest, unit_price=1000), put_customer(rest, points=0)
    earning = placed(order(rest, customer, {tea: 1}))["id"]
    settled(rest, earning, "CONFIRMED")
    path = f"/v1/customers/{customer}"
    earned = rest.get(path).json()["points"]
    settled(rest, placed(order(rest, customer, {tea: 1}, redeem=earned))["id"], "CONFIRMED")
    spent = rest.get(path).json()["points"]
    rest.post(f"/v1/orders/{earning}/cancel").raise_for_status()
    wait_until(lambda: rest.get(path).json()["points"] == spent - earned, "points below zero")
    shown = rest.get(path).json()
    assert shown["points"] < 0
    put: dict[str, Any] = {"name": "Amina", "tier": "standard"}
    assert rest.put(path, json=put).json()["points"] == shown["points"]
    assert rest.put(path, json={**put, "points": shown["points"]}).json()["points"] == shown["points"]


@pytest.mark.needs(gateway="1.2.0", reservations="1.2.0")
def test_an_order_that_costs_more_than_can_be_counted_is_refused_and_nothing_stays_held(rest: httpx.Client) -> None:
    customer = put_customer(rest)
    lamps = [put_item(rest, on_hand=10**9, unit_price=10**9) for _ in range(10)]
    refused(order(rest, customer, dict.fromkeys(lamps, 10**6), key=str(uuid4())), 409, "limit-exceeded")
    assert {rest.get(f"/v1/items/{lamp}").json()["held"] for lamp in lamps} == {0}
    most = placed(order(rest, customer, dict.fromkeys(lamps[:9], 10**6)))
    assert most["subtotal"] == 9 * 10**15


@pytest.mark.needs(gateway="1.2.0", reservations="1.2.0")
def test_a_restock_with_a_key_adds_its_pieces_once(rest: httpx.Client) -> None:
    tea, key = put_item(rest, on_hand=10), {"Idempotency-Key": str(uuid4())}
    path = f"/v1/items/{tea}/restock"
    first = rest.post(path, json={"quantity": 5}, headers=key)
    assert "idempotency-replayed" not in first.headers
    assert rest.put(f"/v1/items/{tea}", json={"name": "Tea", "unit_price": 1}).json()["on_hand"] == 15
    again = rest.post(path, json={"quantity": 5}, headers=key)
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (200, first.json(), "true")
    refused(rest.post(path, json={"quantity": 6}, headers=key), 422, "key-reused")
    nothing = f"/v1/items/{tea}-2/restock"
    refused(rest.post(nothing, json={"quantity": 5}, headers=key), 422, "key-reused")
    other = {"Idempotency-Key": str(uuid4())}
    refused(rest.post(nothing, json={"quantity": 5}, headers=other), 404, "unknown-sku")
    answer = rest.post(nothing, json={"quantity": 5}, headers=other)
    refused(answer, 404, "unknown-sku")
    assert answer.headers["idempotency-replayed"] == "true"
    assert "replayed" not in answer.json()
    assert rest.get(f"/v1/items/{tea}").json()["on_hand"] == 15


@pytest.mark.needs(gateway="1.2.0")
def test_the_prototypes_order_with_a_key_is_placed_once(rest: httpx.Client) -> None:
    rest.put("/v1/items/demo", json={"name": "Demo item", "unit_price": 100, "on_hand": 10}).raise_for_status()
    rest.put("/v1/customers/guest", json={"name": "Guest", "tier": "standard", "points": 0}).raise_for_status()
    key = {"Idempotency-Key": str(uuid4())}
    first, again = (rest.post("/order?name=test", headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    for query in ("name=other", "name=test&completed=true"):
        refused(rest.post(f"/order?{query}", headers=key), 422, "key-reused")


@pytest.mark.needs(gateway="1.2.0")
def test_a_restock_with_a_key_that_a_service_cannot_keep_is_refused_and_changes_nothing(rest: httpx.Client) -> None:
    tea = put_item(rest, on_hand=10)
    knows_keys = "etag" in rest.get(f"/v1/items/{tea}").headers
    answer = rest.post(f"/v1/items/{tea}/restock", json={"quantity": 5}, headers={"Idempotency-Key": str(uuid4())})
    if not knows_keys:
        refused(answer, 501, "service-too-old")
    assert rest.get(f"/v1/items/{tea}").json()["on_hand"] == (15 if knows_keys else 10)


@pytest.mark.needs(gateway="1.2.0")
def test_a_put_that_a_service_cannot_understand_is_refused_and_changes_nothing(rest: httpx.Client) -> None:
    """Of any version: one that does not know how to leave something alone must not set it to 0."""
    for path, put in (
        (f"/v1/items/{put_item(rest, on_hand=10)}", {"name": "Tea", "unit_price": 500}),
        (f"/v1/customers/{put_customer(rest, points=10)}", {"name": "Bo", "tier": "standard"}),
    ):
        before = rest.get(path)
        answer = rest.put(path, json=put)
        if "etag" in before.headers:
            number = {"on_hand", "points"} & before.json().keys()
            assert {name: answer.json()[name] for name in number} == dict.fromkeys(number, 10)
        else:
            assert (answer.status_code, answer.json()["type"]) == (501, "/problems/service-too-old")
            assert rest.get(path).json() == before.json()
