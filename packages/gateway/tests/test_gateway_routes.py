"""REST over a real gateway and real gRPC servers: what is answered to good requests, and how things fail."""

import asyncio
import logging
import re
import socket
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_services import NEW_YEAR_US, Faults, Shop, gateway
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from souk_contracts.errors import Refused
from souk_contracts.loyalty.v1 import Tier
from souk_contracts.orders.v1 import HistoryEntry, Order, OrdersServicer, OrderStatus
from souk_gateway import __version__
from souk_gateway.edge import Edge
from souk_gateway.models import rfc3339

TEA = {"customer_id": "c-1", "lines": [{"sku": "tea", "quantity": 2}]}
NOBODY = "00000000-0000-4000-8000-000000000000"


def assert_problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    members: dict[str, Any] = answer.json()
    assert (answer.status_code, members["type"]) == (status, f"/problems/{reason}"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert members["status"] == status
    assert members["title"]
    assert members["detail"]
    assert members["instance"] == urlsplit(str(answer.request.url)).path
    return members


async def called(faults: Faults, call: str) -> None:
    """Returns once a service was called so."""
    async with asyncio.timeout(60):
        while call not in faults.calls:
            faults.called.clear()
            await faults.called.wait()


async def ready(client: httpx.AsyncClient, service: str, state: str) -> None:
    """Returns once the gateway sees a service in a state."""
    async with asyncio.timeout(60):
        # Asked again and again: a client gets no event when a channel's state changes.
        while (await client.get("/health/ready")).json()["services"][service] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_an_order_is_placed_and_can_be_read(client: httpx.AsyncClient) -> None:
    placed = await client.post("/v1/orders", json={**TEA, "redeem_points": 10})
    order = placed.json()
    assert placed.status_code == 201
    assert order == {
        "id": order["id"],
        "status": "ACCEPTED",
        "status_reason": None,
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [{"sku": "tea", "name": "Green tea", "quantity": 2, "unit_price": 450, "line_total": 900}],
        "subtotal": 900,
        "discount": 90,
        "discount_percent": 10,
        "points_redeemed": 10,
        "points_earned": 8,
        "total": 800,
        "without_loyalty": False,
        "created_at": "2026-01-01T00:00:00.000006Z",
    }
    assert placed.headers["location"] == f"/v1/orders/{order['id']}"
    assert "idempotency-replayed" not in placed.headers
    read = await client.get(placed.headers["location"])
    assert (read.status_code, read.json()) == (200, {**order, "history": []})
    assert (await client.get(f"/v1/orders/{order['id'].upper()}")).json() == read.json()


async def test_a_note_is_shown_wherever_its_order_is(client: httpx.AsyncClient) -> None:
    note = "Please ring twice.\nТретий этаж 🛎"
    placed = await client.post("/v1/orders", json={**TEA, "note": note})
    path = placed.headers["location"]
    answers = [placed.json(), (await client.get(path)).json(), *(await client.get("/v1/orders")).json()["orders"]]
    assert [order["note"] for order in answers] == [note] * 3
    assert "note" not in (await client.post("/v1/orders", json={**TEA, "note": ""})).json()


async def test_a_note_is_part_of_the_request_that_a_key_is_for(client: httpx.AsyncClient) -> None:
    key, noted = {"Idempotency-Key": "K"}, {**TEA, "note": "Please ring twice."}
    first = await client.post("/v1/orders", json=noted, headers=key)
    assert (await client.post("/v1/orders", json=noted, headers=key)).json() == first.json()
    assert_problem(await client.post("/v1/orders", json=TEA, headers=key), 422, "key-reused")


async def test_the_order_of_the_lines_is_part_of_the_request_that_a_key_is_for(client: httpx.AsyncClient) -> None:
    lines = [{"sku": "tea", "quantity": 1}, {"sku": "demo", "quantity": 1}]
    key = {"Idempotency-Key": "K"}
    first = await client.post("/v1/orders", json={**TEA, "lines": lines}, headers=key)
    assert first.status_code == 201
    answer = await client.post("/v1/orders", json={**TEA, "lines": lines[::-1]}, headers=key)
    assert_problem(answer, 422, "key-reused")


async def test_what_a_service_before_1_1_does_not_keep_is_not_in_the_answer(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    shop.orders.is_1_0 = shop.reservations.is_1_0 = shop.loyalty.is_1_0 = True
    placed = await client.post("/v1/orders", json={**TEA, "note": "Please ring twice."})
    assert (placed.status_code, "note" in placed.json()) == (201, False)
    item = {"name": "Cup", "unit_price": 1200, "on_hand": 5, "description": "Blue"}
    put = await client.put("/v1/items/cup", json=item)
    assert (put.status_code, "description" in put.json()) == (200, False)
    customer = {"name": "Bo", "tier": "gold", "points": 7, "tier_expires_at": "2030-01-01T00:00:00Z"}
    put = await client.put("/v1/customers/c-2", json=customer)
    assert (put.status_code, "tier_expires_at" in put.json()) == (200, False)


@pytest.mark.parametrize("path", ["/v1/%6Frders", "/v1/order%73?page_size=1"])
async def test_a_path_may_be_encoded_where_it_need_not_be(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_ids_of_dots_that_there_are_can_still_be_listed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/orders?customer_id=..")).json() == {"orders": [], "next_page_token": None}


@pytest.mark.parametrize("name", ["日本茶", "شاي أخضر", "Thé d’été", "👩‍🌾🏴󠁧󠁢󠁥󠁮󠁧󠁿", "a  b", "\u200cمی‌خواهم"])
async def test_names_of_all_languages_are_kept(client: httpx.AsyncClient, name: str) -> None:
    put = await client.put("/v1/items/cup", json={"name": name, "unit_price": 1, "on_hand": 1})
    assert (put.status_code, put.json()["name"]) == (200, name)


@pytest.mark.parametrize(
    ("method", "path", "caching"),
    [
        *(("GET", path, "no-store") for path in ("/v1/orders", "/v1/items", "/v1/customers", "/v1/customers/c-1")),
        *(("GET", path, "no-store") for path in ("/v1/orders/17", "/nowhere", "/", "/health/live", "/v1/versions")),
        *(("POST", path, "no-store") for path in ("/v1/orders", "/order?name=test")),
        *(("GET", path, "no-cache") for path in ("/docs", "/openapi.json")),
    ],
)
async def test_no_answer_is_stored_or_taken_for_another_type(
    client: httpx.AsyncClient, method: str, path: str, caching: str
) -> None:
    answer = await client.request(method, path, json=TEA if method == "POST" else None)
    assert answer.headers.get_list("cache-control") == [caching]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_an_order_shows_its_history_and_a_list_does_not(client: httpx.AsyncClient, shop: Shop) -> None:
    path = (await client.post("/v1/orders", json=TEA)).headers["location"]
    shop.orders.histories[path.rpartition("/")[2]] = [
        HistoryEntry(step="ACCEPTED", at_us=NEW_YEAR_US, served_by="orders/1.2.3"),
        HistoryEntry(step="CANCELLED", at_us=NEW_YEAR_US + 1, served_by="orders/1.2.4", detail="OUT_OF_STOCK"),
    ]
    assert (await client.get(path)).json()["history"] == [
        {"step": "ACCEPTED", "at": "2026-01-01T00:00:00.000006Z", "by": "orders/1.2.3"},
        {"step": "CANCELLED", "at": "2026-01-01T00:00:00.000007Z", "by": "orders/1.2.4", "detail": "OUT_OF_STOCK"},
    ]
    assert "history" not in (await client.get("/v1/orders")).json()["orders"][0]


@pytest.mark.parametrize("status", [OrderStatus.CONFIRMED, OrderStatus.CANCELLED])
async def test_an_answer_that_may_wait_shows_the_order_once_it_is_settled(
    client: httpx.AsyncClient, shop: Shop, status: OrderStatus
) -> None:
    answer = asyncio.create_task(client.post("/v1/orders", json=TEA, headers={"Prefer": "wait=60"}))
    await called(shop.orders.faults, "get")
    (order_id,) = shop.orders.decided
    shop.orders.settle(order_id, status)
    assert (await answer).status_code == 201
    assert (await answer).json()["status"] == status.name
    assert (await answer).headers["preference-applied"] == "wait=5"


async def test_an_answer_waits_no_longer_than_it_was_asked_to(shop: Shop) -> None:
    # Longer than the deadline, though: the client would wait.
    async with gateway(shop, deadline_s=2) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        answer = await client.post("/v1/orders", json=TEA, headers={"Prefer": "wait=3"})
    assert (answer.status_code, answer.json()["status"]) == (201, "ACCEPTED")
    assert answer.headers["preference-applied"] == "wait=3"


async def test_an_order_is_placed_also_where_nobody_can_tell_when_it_is_settled(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    shop.orders.faults.fail["get"] = RuntimeError("gone")
    answer = await client.post("/v1/orders", json=TEA, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (201, "ACCEPTED")
    assert "preference-applied" not in answer.headers


async def test_an_answer_does_not_wait_for_what_is_settled_or_was_refused(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    shop.orders.confirm_at_once = True
    settled = await client.post("/v1/orders", json=TEA, headers={"Prefer": "wait=5"})
    assert (settled.json()["status"], settled.headers["preference-applied"]) == ("CONFIRMED", "wait=5")
    refused = await client.post("/v1/orders", json={**TEA, "customer_id": "x"}, headers={"Prefer": "wait=5"})
    assert "preference-applied" not in refused.headers
    assert "get" not in shop.orders.faults.calls


async def test_quotes_are_not_part_of_a_key(client: httpx.AsyncClient) -> None:
    keys = ['"cart 17"', "cart 17", r'"a\"b\\"', 'a"b\\']
    ids = [(await client.post("/v1/orders", json=TEA, headers={"Idempotency-Key": key})).json()["id"] for key in keys]
    assert ids[0] == ids[1] != ids[2] == ids[3]


async def test_an_answer_names_the_versions_that_served_it(client: httpx.AsyncClient) -> None:
    placed = await client.post("/v1/orders", json=TEA)
    served_by = f"gateway/{__version__} reservations/1.2.3 loyalty/1.2.3 orders/1.2.3"
    assert placed.headers["souk-served-by"] == served_by
    missing = await client.get("/v1/items/nothing")
    assert missing.headers["souk-served-by"] == f"gateway/{__version__} reservations/1.2.3"
    assert (await client.get("/nowhere")).headers["souk-served-by"] == f"gateway/{__version__}"


async def test_a_key_gives_the_same_order_again(client: httpx.AsyncClient, shop: Shop) -> None:
    key = {"Idempotency-Key": "cart 17"}
    first = await client.post("/v1/orders", json=TEA, headers=key)
    shop.orders.order(first.json()["id"]).status = OrderStatus.CONFIRMED
    second = await client.post("/v1/orders", json=TEA, headers=key)
    assert second.status_code == 201
    assert second.json() == {**first.json(), "status": "CONFIRMED"}
    assert second.headers["idempotency-replayed"] == "true"
    assert shop.reservations.items["tea"].held == 2


async def test_a_key_gives_the_same_refusal_again(client: httpx.AsyncClient) -> None:
    wanted = {**TEA, "lines": [{"sku": "tea", "quantity": 1001}]}
    key = {"Idempotency-Key": "K"}
    first = await client.post("/v1/orders", json=wanted, headers=key)
    members = assert_problem(first, 409, "out-of-stock")
    assert (members["sku"], members["requested"], members["available"]) == ("tea", 1001, 1000)
    assert "idempotency-replayed" not in first.headers
    await client.post("/v1/items/tea/restock", json={"quantity": 1})
    second = await client.post("/v1/orders", json=wanted, headers=key)
    assert second.json() == first.json()
    assert second.headers["idempotency-replayed"] == "true"


async def test_a_key_of_another_request_is_refused(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "K"}
    await client.post("/v1/orders", json=TEA, headers=key)
    assert_problem(await client.post("/v1/orders", json={**TEA, "redeem_points": 1}, headers=key), 422, "key-reused")


async def test_a_key_in_flight_is_told_when_to_come_back(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.reservations.faults.fail["reserve"] = Refused(
        StatusCode.ABORTED, "reservations.souk", "BUSY", "another request with this key is in flight"
    )
    answer = await client.post("/v1/orders", json=TEA, headers={"Idempotency-Key": "K"})
    assert_problem(answer, 409, "busy")
    assert answer.headers["retry-after"] == "1"
    assert shop.orders.decided == {}


async def test_goods_that_others_hold_are_refused_in_passing(client: httpx.AsyncClient, shop: Shop) -> None:
    key = {"Idempotency-Key": "K"}
    shop.reservations.faults.fail["reserve"] = Refused(
        StatusCode.ABORTED,
        "reservations.souk",
        "HELD_BY_OTHERS",
        "others hold some",
        {"sku": "tea", "requested": "2", "available": "1"},
    )
    answer = await client.post("/v1/orders", json=TEA, headers=key)
    members = assert_problem(answer, 409, "held-by-others")
    assert (members["sku"], members["requested"], members["available"]) == ("tea", 2, 1)
    assert answer.headers["retry-after"] == "1"
    assert shop.orders.decided == {}
    shop.reservations.faults.fail.clear()
    assert (await client.post("/v1/orders", json=TEA, headers=key)).status_code == 201


async def test_an_order_that_orders_has_lost_is_said_to_be_lost_and_stays_as_it_is(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    key = {"Idempotency-Key": "K"}
    assert (await client.post("/v1/orders", json=TEA, headers=key)).status_code == 201
    (order_id,) = shop.orders.decided
    shop.reservations.faults.fail["reserve"] = Refused(
        StatusCode.FAILED_PRECONDITION, "reservations.souk", "SETTLED", "it is sold", {"state": "CONFIRMED"}
    )
    again = await client.post("/v1/orders", json=TEA, headers=key)
    assert (again.status_code, again.json()["id"]) == (201, order_id)
    assert again.headers["idempotency-replayed"] == "true"
    assert_problem(await client.post("/v1/orders", json={**TEA, "note": "x"}, headers=key), 422, "key-reused")
    shop.orders.decided.clear()
    lost = await client.post("/v1/orders", json=TEA, headers=key)
    assert order_id in assert_problem(lost, 503, "order-lost")["detail"]
    assert lost.headers["retry-after"] == "60"
    assert shop.orders.decided == {}
    assert "refuse" not in shop.orders.faults.calls


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "K"}])
async def test_nothing_is_reserved_while_orders_is_away(
    client: httpx.AsyncClient, shop: Shop, headers: dict[str, str]
) -> None:
    await ready(client, "orders", "SERVING")
    await shop.close("orders")
    await ready(client, "orders", "NOT_SERVING")
    assert_problem(await client.post("/v1/orders", json=TEA, headers=headers), 503, "unavailable")
    assert shop.reservations.faults.calls == []


async def test_orders_are_listed_by_customer_and_status_a_page_at_a_time(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/v1/orders", json=TEA)).json()["id"] for _ in range(3)]
    await client.post("/v1/orders", json={**TEA, "customer_id": "guest"})
    await client.post(f"/v1/orders/{ids[0]}/cancel")
    wanted = {"customer_id": "c-1", "status": "ACCEPTED", "page_size": "1"}
    first = (await client.get("/v1/orders", params=wanted)).json()
    second = (await client.get("/v1/orders", params={**wanted, "page_token": first["next_page_token"]})).json()
    assert [order["id"] for order in [*first["orders"], *second["orders"]]] == ids[1:]
    assert second["next_page_token"] is None


async def test_an_order_is_cancelled_with_a_reason(client: httpx.AsyncClient) -> None:
    order = (await client.post("/v1/orders", json=TEA)).json()
    cancelled = await client.post(f"/v1/orders/{order['id']}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json() == {**order, "status": "CANCELLED", "status_reason": "CUSTOMER"}


async def test_an_order_that_is_not_confirmed_cannot_be_completed(client: httpx.AsyncClient, shop: Shop) -> None:
    path = (await client.post("/v1/orders", json=TEA)).headers["location"]
    members = assert_problem(await client.post(f"{path}/complete"), 409, "wrong-status")
    assert members["current_status"] == "ACCEPTED"
    shop.orders.order(path.rpartition("/")[2]).status = OrderStatus.CONFIRMED
    assert (await client.post(f"{path}/complete")).json()["status"] == "COMPLETED"


async def test_items_are_put_read_restocked_and_listed(client: httpx.AsyncClient) -> None:
    wanted = {"name": "Cup ☕", "unit_price": 1200, "on_hand": 5}
    put = await client.put("/v1/items/cup", json=wanted)
    item = {"sku": "cup", **wanted, "currency": "EUR", "held": 0, "available": 5, "sold": 0}
    assert (put.status_code, put.json()) == (200, item)
    restocked = await client.post("/v1/items/cup/restock", json={"quantity": 3})
    assert restocked.json() == {**item, "on_hand": 8, "available": 8}
    assert (await client.get("/v1/items/cup")).json() == restocked.json()
    page = (await client.get("/v1/items?page_size=2")).json()
    assert [each["sku"] for each in page["items"]] == ["cup", "demo"]
    rest = (await client.get("/v1/items", params={"page_token": page["next_page_token"]})).json()
    assert [each["sku"] for each in rest["items"]] == ["tea"]
    assert rest["next_page_token"] is None


async def test_a_description_is_kept_until_it_is_put_anew(client: httpx.AsyncClient) -> None:
    async def put(**description: str) -> str | None:
        wanted = {"name": "Cup", "unit_price": 1200, "on_hand": 5, **description}
        item = (await client.put("/v1/items/cup", json=wanted)).json()
        assert (await client.get("/v1/items/cup")).json() == item
        found: str | None = item.get("description")
        return found

    assert [await put(), await put(description="Blue"), await put(), await put(description="")] == [
        None,
        "Blue",
        "Blue",
        None,
    ]


async def test_fewer_pieces_than_are_held_cannot_be_put(client: httpx.AsyncClient) -> None:
    await client.post("/v1/orders", json=TEA)
    answer = await client.put("/v1/items/tea", json={"name": "Tea", "unit_price": 1, "on_hand": 1})
    assert assert_problem(answer, 409, "on-hand-below-held")["held"] == 2


async def test_customers_are_put_read_and_listed(client: httpx.AsyncClient) -> None:
    put = await client.put("/v1/customers/c-2", json={"name": "Bo", "tier": "silver", "points": 7})
    customer = {"id": "c-2", "name": "Bo", "tier": "silver", "discount_percent": 5, "points": 7, "points_held": 0}
    assert (put.status_code, put.json()) == (200, customer)
    assert (await client.get("/v1/customers/c-2")).json() == customer
    page = (await client.get("/v1/customers")).json()
    assert [each["id"] for each in page["customers"]] == ["c-1", "c-2", "guest"]
    assert page["next_page_token"] is None


async def test_a_tiers_expiry_is_kept_until_it_is_put_anew(client: httpx.AsyncClient) -> None:
    async def put(**expiry: str | None) -> str | None:
        wanted = {"name": "Bo", "tier": "silver", "points": 7, **expiry}
        customer = (await client.put("/v1/customers/c-2", json=wanted)).json()
        assert (await client.get("/v1/customers/c-2")).json() == customer
        found: str | None = customer.get("tier_expires_at")
        return found

    assert await put() is None
    assert await put(tier_expires_at="2027-01-01T01:30:00+01:30") == "2027-01-01T00:00:00.000000Z"
    assert await put() == "2027-01-01T00:00:00.000000Z"
    assert await put(tier_expires_at="9999-12-31T23:59:59.999999Z") == "9999-12-31T23:59:59.999999Z"
    assert await put(tier_expires_at=None) is None


async def test_what_is_unknown_is_404_in_a_path_and_422_in_a_body(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get(f"/v1/orders/{NOBODY}"), 404, "unknown-order")
    assert_problem(await client.post(f"/v1/orders/{NOBODY}/cancel"), 404, "unknown-order")
    assert_problem(await client.get("/v1/items/nothing"), 404, "unknown-sku")
    assert_problem(await client.post("/v1/items/nothing/restock", json={"quantity": 1}), 404, "unknown-sku")
    assert_problem(await client.get("/v1/customers/nobody"), 404, "unknown-customer")
    lines = [{"sku": "nothing", "quantity": 1}]
    unknown = await client.post("/v1/orders", json={**TEA, "lines": lines})
    assert assert_problem(unknown, 422, "unknown-sku")["sku"] == "nothing"
    assert_problem(await client.post("/v1/orders", json={**TEA, "customer_id": "nobody"}), 422, "unknown-customer")


async def test_too_many_points_are_refused(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/v1/orders", json={**TEA, "redeem_points": 501}), 409, "insufficient-points")
    await client.put("/v1/customers/c-1", json={"name": "Ada", "tier": "gold", "points": 1000})
    answer = await client.post("/v1/orders", json={**TEA, "redeem_points": 811})
    assert assert_problem(answer, 422, "redeem-exceeds-total")["payable"] == 810


async def test_the_prototypes_request_is_answered_as_it_was(client: httpx.AsyncClient, shop: Shop) -> None:
    answer = await client.post("/order?name=test&completed=false")
    (order_id,) = shop.orders.decided
    assert answer.status_code == 200
    assert answer.json() == {"notificationType": "ORDER_NOTIFICATION_TYPE_ENUM_OK", "order": {"uuid": order_id}}
    order = shop.orders.order(order_id)
    assert (order.customer_id, [(line.sku, line.quantity) for line in order.lines]) == ("guest", [("demo", 1)])
    assert order.status is OrderStatus.ACCEPTED


async def test_the_prototypes_request_completes_an_order_once_it_is_confirmed(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    answer = asyncio.create_task(client.post("/order?name=test&completed=true"))
    await called(shop.orders.faults, "get")
    (order_id,) = shop.orders.decided
    shop.orders.settle(order_id, OrderStatus.CONFIRMED)
    assert (await answer).json()["order"]["uuid"] == order_id
    assert shop.orders.order(order_id).status is OrderStatus.COMPLETED


async def test_the_prototypes_request_leaves_an_order_that_is_not_confirmed_in_time(shop: Shop) -> None:
    async with gateway(shop, deadline_s=2) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        answer = await client.post("/order?name=test&completed=true")
    assert answer.status_code == 200
    assert shop.orders.order(answer.json()["order"]["uuid"]).status is OrderStatus.ACCEPTED


async def test_the_prototypes_request_is_refused_where_there_is_no_demo_item(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    del shop.reservations.items["demo"]
    assert_problem(await client.post("/order?name=test"), 422, "unknown-sku")


async def test_a_status_and_a_tier_of_a_newer_service_are_unknown(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.orders.decided[NOBODY] = (b"", Order(id=NOBODY, status=OrderStatus(77)))
    shop.loyalty.accounts["c-1"].tier = Tier(77)
    assert (await client.get(f"/v1/orders/{NOBODY}")).json()["status"] == "UNKNOWN"
    assert (await client.get("/v1/customers/c-1")).json()["tier"] == "unknown"


@pytest.mark.parametrize("service", ["orders", "reservations", "loyalty"])
async def test_one_service_away_leaves_the_others_and_needs_no_restart(
    client: httpx.AsyncClient, shop: Shop, service: str
) -> None:
    reads = {"orders": "/v1/orders", "reservations": "/v1/items", "loyalty": "/v1/customers"}
    await ready(client, service, "SERVING")
    await shop.close(service)
    await ready(client, service, "NOT_SERVING")
    for name, path in reads.items():
        answer = await client.get(path)
        if name == service:
            assert service in assert_problem(answer, 503, "unavailable")["detail"]
            assert answer.headers["retry-after"] == "1"
        else:
            assert answer.status_code == 200
    assert_problem(await client.post("/v1/orders", json=TEA), 503, "unavailable")
    assert (await client.get("/health/live")).json() == {"status": "LIVE"}
    versions = (await client.get("/v1/versions")).json()
    everyone = {"gateway": __version__, "orders": "1.2.3", "reservations": "1.2.3", "loyalty": "1.2.3"}
    assert versions == {**everyone, service: None}
    await shop.open(service, getattr(shop, service))
    await ready(client, service, "SERVING")
    assert (await client.post("/v1/orders", json=TEA)).status_code == 201
    assert (await client.get("/v1/versions")).json() == everyone


async def test_nothing_is_reserved_while_loyalty_is_away(client: httpx.AsyncClient, shop: Shop) -> None:
    await ready(client, "loyalty", "SERVING")
    await shop.close("loyalty")
    await ready(client, "loyalty", "NOT_SERVING")
    assert_problem(await client.post("/v1/orders", json=TEA), 503, "unavailable")
    assert shop.reservations.faults.calls == []


async def test_an_order_goes_without_loyalty_where_that_is_allowed(shop: Shop) -> None:
    async with gateway(shop, loyalty_required=False) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        await ready(client, "loyalty", "SERVING")
        await shop.close("loyalty")
        await ready(client, "loyalty", "NOT_SERVING")
        placed = await client.post("/v1/orders", json=TEA)
        assert placed.status_code == 201
        assert placed.json()["without_loyalty"]
        assert placed.json()["total"] == 900
        assert_problem(await client.post("/v1/orders", json={**TEA, "redeem_points": 1}), 503, "unavailable")


async def test_a_service_that_takes_too_long_is_503_when_the_deadline_has_passed(shop: Shop) -> None:
    shop.reservations.faults.gates["reserve"] = asyncio.Event()
    async with gateway(shop, deadline_s=0.3) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        answer = await client.post("/v1/orders", json=TEA, headers={"Idempotency-Key": "K"})
        members = assert_problem(answer, 503, "unavailable")
        assert members["detail"] == "reservations did not answer in time; try again in a moment"
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("code", "reason", "problem"),
    [
        (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", "storage-unavailable"),
        (StatusCode.ABORTED, "HOLD_EXPIRING", "hold-expiring"),
        (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_AT_ONCE", "unavailable"),
    ],
)
async def test_what_passes_is_503(
    client: httpx.AsyncClient, shop: Shop, code: StatusCode, reason: str, problem: str
) -> None:
    shop.orders.faults.fail["create"] = Refused(code, "orders.souk", reason, "in a moment")
    answer = await client.post("/v1/orders", json=TEA, headers={"Idempotency-Key": "K"})
    assert assert_problem(answer, 503, problem)["detail"] == "in a moment"
    assert answer.headers["retry-after"] == "1"


async def test_a_failing_service_is_503_and_its_inside_is_not_told(client: httpx.AsyncClient, shop: Shop) -> None:
    shop.orders.faults.fail["get"] = RuntimeError("secret")
    answer = await client.get(f"/v1/orders/{NOBODY}")
    assert assert_problem(answer, 503, "unavailable")["detail"] == "orders does not answer; try again in a moment"


async def test_a_call_that_a_service_does_not_have_is_503(client: httpx.AsyncClient, shop: Shop) -> None:
    await shop.close("orders")

    await shop.open("orders", OrdersServicer())  # the contract's base, which serves nothing
    await ready(client, "orders", "SERVING")
    assert_problem(await client.get("/v1/orders"), 503, "unavailable")


async def test_what_nobody_foresaw_is_logged_and_answered_without_the_inside(
    client: httpx.AsyncClient, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.orders.decided[NOBODY] = (b"", Order(id=NOBODY, created_at_us=2**62))
    answer = await client.get(f"/v1/orders/{NOBODY}")
    assert "OverflowError" not in answer.text
    assert_problem(answer, 500, "internal")
    assert "OverflowError" in caplog.text


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59, 999999)))  # noqa: DTZ001
def test_a_time_is_told_to_the_microsecond(time: datetime) -> None:
    time_us = (time.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert rfc3339(time_us) == time.isoformat(timespec="microseconds") + "Z"


async def test_what_fails_amid_its_answer_is_not_answered_again() -> None:
    class Half:
        async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise LookupError("on purpose")

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope = {"type": "http", "method": "GET", "path": "/half", "raw_path": b"/half", "headers": []}
    with pytest.raises(LookupError):
        await Edge([Route("/half", Half())], deadline_s=1.0)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_each_request_leaves_a_line_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "souk_gateway.access")
    order_id = (await client.post("/v1/orders", json=TEA)).json()["id"]
    await client.get("/v1/items/%0Aforged?x=%0A")
    await client.get("/health/live")
    lines = [re.sub(r"\d+ ms", "N ms", each.message) for each in caplog.records if each.name.endswith(".access")]
    assert lines == [
        f"POST /v1/orders 201 N ms {order_id} gateway/{__version__} reservations/1.2.3 loyalty/1.2.3 orders/1.2.3",
        f"GET /v1/items/%0Aforged 400 N ms /problems/invalid-argument gateway/{__version__}",
    ]


async def test_pages_of_other_origins_may_read_answers_only_where_they_are_named(shop: Shop) -> None:
    origin = {"Origin": "https://shop.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
    async with (
        gateway(shop, cors_origins=("https://shop.example",)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        preflight = await client.options("/v1/orders", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        answer = await client.post("/v1/orders", json={}, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        exposed = answer.headers["access-control-expose-headers"]
        assert exposed == "ETag, Location, Idempotency-Replayed, Preference-Applied, Retry-After, Souk-Served-By"
        foreign = await client.get("/v1/items", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_without_origins_no_other_page_may_read_answers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/items", headers={"Origin": "https://shop.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_a_request_in_flight_is_answered_before_the_gateway_stops(shop: Shop) -> None:
    opened = shop.reservations.faults.gates["reserve"] = asyncio.Event()

    async def open_once_nobody_listens(port: int) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    return opened.set()
                await asyncio.sleep(0.01)

    async with httpx.AsyncClient() as client:
        async with gateway(shop) as url:
            answer = asyncio.create_task(client.post(f"{url}/v1/orders", json=TEA))
            await shop.reservations.faults.called.wait()
            opener = asyncio.create_task(open_once_nobody_listens(urlsplit(url).port or 0))
        await opener
        assert (await answer).status_code == 201
