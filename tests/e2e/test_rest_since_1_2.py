"""What the REST interface no longer takes since version 1.2, end to end, against every deployment."""

import httpx
import pytest

from tests.e2e.test_orders import order, placed, put_customer, put_item


def refused(answer: httpx.Response, status: int, field: str | None = None) -> None:
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text


@pytest.mark.needs(gateway="1.2.0", orders="1.2.0")
def test_a_page_token_of_orders_is_for_the_same_filters_only(rest: httpx.Client) -> None:
    tea, customer, other = put_item(rest), put_customer(rest), put_customer(rest)
    for each in (customer, other):
        for _ in range(2):
            placed(order(rest, each, {tea: 1}))
    query = {"customer_id": customer, "page_size": "1"}
    token = {"page_token": rest.get("/v1/orders", params=query).json()["next_page_token"]}
    assert len(rest.get("/v1/orders", params={**query, **token}).json()["orders"]) == 1
    refused(rest.get("/v1/orders", params=token), 400, "page_token")
    refused(rest.get("/v1/orders", params={**query, **token, "customer_id": other}), 400, "page_token")
    refused(rest.get("/v1/orders", params={**query, **token, "status": "CANCELLED"}), 400, "page_token")


@pytest.mark.needs(gateway="1.2.0", reservations="1.2.0", loyalty="1.2.0")
def test_a_page_token_of_one_list_is_none_of_another(rest: httpx.Client) -> None:
    for _ in range(2):
        put_item(rest)
        put_customer(rest)
    for path, other in (("/v1/items", "/v1/customers"), ("/v1/customers", "/v1/items")):
        token = {"page_token": rest.get(path, params={"page_size": "1"}).json()["next_page_token"]}
        assert rest.get(path, params=token).status_code == 200
        refused(rest.get(other, params=token), 400, "page_token")
        refused(rest.get("/v1/orders", params=token), 400, "page_token")
        refused(rest.get(path, params={"page_token": "never-put"}), 400, "page_token")


@pytest.mark.needs(gateway="1.2.0")
def test_an_encoded_slash_does_not_lead_to_another_path(rest: httpx.Client) -> None:
    tea = put_item(rest, on_hand=5)
    assert rest.post(f"/v1/items/{tea}%2Frestock", json={"quantity": 1}).status_code == 405
    assert rest.get(f"/v1/items/{tea}").json()["on_hand"] == 5


@pytest.mark.needs(gateway="1.2.0", reservations="1.2.0")
def test_a_restock_above_the_limit_contradicts_what_is_there(rest: httpx.Client) -> None:
    tea = put_item(rest, on_hand=10**9)
    answer = rest.post(f"/v1/items/{tea}/restock", json={"quantity": 1})
    refused(answer, 409)
    assert (answer.json()["type"], answer.json()["on_hand"]) == ("/problems/on-hand-above-limit", 10**9)
