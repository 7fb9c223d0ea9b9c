"""What is new in version 1.1, end to end, against every deployment."""

import httpx
import pytest

from tests.e2e.test_orders import order, placed, put_customer, put_item

EXPIRED, FAR_AWAY = "2001-01-01T00:00:00Z", "2999-12-31T23:59:59.000000Z"


@pytest.mark.needs(gateway="1.1.0", orders="1.1.0")
def test_a_note_stays_with_its_order(rest: httpx.Client) -> None:
    body = {"customer_id": put_customer(rest), "lines": [{"sku": put_item(rest), "quantity": 1}], "note": "Ring twice"}
    order_id = placed(rest.post("/v1/orders", json=body))["id"]
    assert rest.get(f"/v1/orders/{order_id}").json()["note"] == "Ring twice"
    assert rest.post(f"/v1/orders/{order_id}/cancel").json()["note"] == "Ring twice"


@pytest.mark.needs(gateway="1.1.0", loyalty="1.1.0")
def test_a_tier_counts_until_it_expires(rest: httpx.Client) -> None:
    tea, customer = put_item(rest, unit_price=1000), put_customer(rest)
    path = f"/v1/customers/{customer}"
    for expires_at, percent in ((FAR_AWAY, 10), (EXPIRED, 0), (None, 10)):
        gold = {"name": "Amina", "tier": "gold", "points": 0, "tier_expires_at": expires_at}
        assert rest.put(path, json=gold).json()["discount_percent"] == percent
        assert placed(order(rest, customer, {tea: 1}))["discount_percent"] == percent
    assert "tier_expires_at" not in rest.get(path).json()


@pytest.mark.needs(gateway="1.1.0", loyalty="1.1.0", reservations="1.1.0")
def test_a_put_of_a_client_of_1_0_erases_nothing(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    item = {"name": "Tea", "unit_price": 450, "on_hand": 10}
    silver = {"name": "Amina", "tier": "silver", "points": 5}
    rest.put(f"/v1/items/{tea}", json={**item, "description": "First flush"})
    rest.put(f"/v1/customers/{customer}", json={**silver, "tier_expires_at": FAR_AWAY})
    assert rest.put(f"/v1/items/{tea}", json=item).json()["description"] == "First flush"
    assert rest.put(f"/v1/customers/{customer}", json=silver).json()["tier_expires_at"] == FAR_AWAY
