"""Placing orders, end to end, against every deployment."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.deployments import Deployment, wait_until

Json = Any


def put_item(rest: httpx.Client, *, on_hand: int = 10, unit_price: int = 450) -> str:
    """A new item; gives its SKU."""
    sku = f"item-{uuid4().hex[:12]}"
    answer = rest.put(f"/v1/items/{sku}", json={"name": "Tea", "unit_price": unit_price, "on_hand": on_hand})
    assert answer.status_code == 200, answer.text
    return sku


def put_customer(rest: httpx.Client, *, tier: str = "standard", points: int = 0) -> str:
    """A new customer; gives the id."""
    customer_id = f"customer-{uuid4().hex[:12]}"
    answer = rest.put(f"/v1/customers/{customer_id}", json={"name": "Amina", "tier": tier, "points": points})
    assert answer.status_code == 200, answer.text
    return customer_id


def order(
    rest: httpx.Client, customer_id: str, lines: dict[str, int], *, redeem: int = 0, key: str | None = None
) -> httpx.Response:
    body = {
        "customer_id": customer_id,
        "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
        "redeem_points": redeem,
    }
    return rest.post("/v1/orders", json=body, headers={"Idempotency-Key": key} if key else {})


def placed(answer: httpx.Response) -> Json:
    assert answer.status_code == 201, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, reason: str) -> Json:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"].endswith(f"/{reason}"), problem
    assert problem["status"] == status
    return problem


def stock(rest: httpx.Client, sku: str) -> tuple[int, int, int, int]:
    item = rest.get(f"/v1/items/{sku}").json()
    return item["on_hand"], item["held"], item["available"], item["sold"]


def points(rest: httpx.Client, customer_id: str) -> tuple[int, int]:
    customer = rest.get(f"/v1/customers/{customer_id}").json()
    return customer["points"], customer["points_held"]


def status(rest: httpx.Client, order_id: str) -> str:
    return str(rest.get(f"/v1/orders/{order_id}").json()["status"])


def wait_for_status(rest: httpx.Client, order_id: str, wanted: str) -> None:
    wait_until(lambda: status(rest, order_id) == wanted, f"the order {order_id} to be {wanted}")


def test_an_order_takes_goods_and_points_and_says_what_it_cost(rest: httpx.Client) -> None:
    tea, mug = put_item(rest, unit_price=450), put_item(rest, unit_price=999)
    customer = put_customer(rest, tier="gold", points=300)
    answer = order(rest, customer, {tea: 2, mug: 1}, redeem=100)
    body = placed(answer)
    assert answer.headers["location"] == f"/v1/orders/{body['id']}"
    assert body["created_at"].endswith("Z")
    del body["created_at"]
    order_id = body.pop("id")
    assert body == {
        "status": body["status"],
        "status_reason": None,
        "customer_id": customer,
        "currency": "EUR",
        "lines": [
            {"sku": tea, "name": "Tea", "quantity": 2, "unit_price": 450, "line_total": 900},
            {"sku": mug, "name": "Tea", "quantity": 1, "unit_price": 999, "line_total": 999},
        ],
        "subtotal": 1899,
        "discount_percent": 10,
        "discount": 189,
        "points_redeemed": 100,
        "points_earned": 16,
        "total": 1610,
        "without_loyalty": False,
    }
    wait_for_status(rest, order_id, "CONFIRMED")
    assert stock(rest, tea) == (8, 0, 8, 2)
    assert stock(rest, mug) == (9, 0, 9, 1)
    assert points(rest, customer) == (300 - 100 + 16, 0)


def test_a_cancelled_order_gives_goods_and_points_back(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest, tier="silver", points=50)
    order_id = placed(order(rest, customer, {tea: 4}, redeem=50))["id"]
    wait_for_status(rest, order_id, "CONFIRMED")
    for _ in range(2):
        answer = rest.post(f"/v1/orders/{order_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    wait_until(lambda: stock(rest, tea) == (10, 0, 10, 0), "the goods to be back")
    wait_until(lambda: points(rest, customer) == (50, 0), "the points to be back")
    refused(rest.post(f"/v1/orders/{order_id}/complete"), 409, "wrong-status")


def test_a_completed_order_cannot_be_cancelled(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    order_id = placed(order(rest, customer, {tea: 1}))["id"]
    wait_for_status(rest, order_id, "CONFIRMED")
    assert rest.post(f"/v1/orders/{order_id}/complete").json()["status"] == "COMPLETED"
    refused(rest.post(f"/v1/orders/{order_id}/cancel"), 409, "wrong-status")
    assert stock(rest, tea) == (9, 0, 9, 1)


def test_what_cannot_be_had_is_refused_and_leaves_everything_as_it_was(rest: httpx.Client) -> None:
    tea, customer = put_item(rest, on_hand=3, unit_price=100), put_customer(rest, points=500)
    problem = refused(order(rest, customer, {tea: 4}), 409, "out-of-stock")
    assert (problem["sku"], problem["available"]) == (tea, 3)
    assert "3 are available" in problem["detail"]
    refused(order(rest, customer, {tea: 1, "no-such-item": 1}), 422, "unknown-sku")
    refused(order(rest, "no-such-customer", {tea: 1}), 422, "unknown-customer")
    refused(order(rest, customer, {tea: 1}, redeem=501), 422, "redeem-exceeds-total")
    refused(order(rest, put_customer(rest, points=5), {tea: 1}, redeem=6), 409, "insufficient-points")
    wait_until(lambda: stock(rest, tea) == (3, 0, 3, 0), "every hold to be released")
    assert points(rest, customer) == (500, 0)
    assert rest.get("/v1/orders", params={"customer_id": customer}).json()["orders"] == []


def test_one_key_is_one_order(rest: httpx.Client) -> None:
    tea, customer, key = put_item(rest), put_customer(rest), str(uuid4())
    first = order(rest, customer, {tea: 2}, key=key)
    wait_for_status(rest, placed(first)["id"], "CONFIRMED")
    again = order(rest, customer, {tea: 2}, key=key)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert placed(again) == {**placed(first), "status": "CONFIRMED"}
    refused(order(rest, customer, {tea: 1}, key=key), 422, "key-reused")
    assert stock(rest, tea) == (8, 0, 8, 2)
    assert len(rest.get("/v1/orders", params={"customer_id": customer}).json()["orders"]) == 1


def test_a_refusal_is_kept_for_its_key(rest: httpx.Client) -> None:
    tea, customer, key = put_item(rest, on_hand=1), put_customer(rest), str(uuid4())
    first = refused(order(rest, customer, {tea: 2}, key=key), 409, "out-of-stock")
    assert rest.post(f"/v1/items/{tea}/restock", json={"quantity": 5}).status_code == 200
    again = order(rest, customer, {tea: 2}, key=key)
    assert refused(again, 409, "out-of-stock") == first
    assert again.headers["idempotency-replayed"] == "true"
    placed(order(rest, customer, {tea: 2}, key=str(uuid4())))


def test_of_two_hundred_at_once_fifty_get_the_fifty_pieces(rest: httpx.Client) -> None:
    tea, customer = put_item(rest, on_hand=50), put_customer(rest)

    def one(_: int) -> tuple[int, str]:
        # With a key, so that a client that is told to try again joins what it holds, and nothing is held in vain.
        answer = order(rest, customer, {tea: 1}, key=str(uuid4()))
        return answer.status_code, str(answer.json().get("id", answer.json().get("type")))

    with ThreadPoolExecutor(200) as clients:
        answers = list(clients.map(one, range(200)))
    codes = [code for code, _ in answers]
    assert (codes.count(201), codes.count(409)) == (50, 150), answers
    kinds = {kind.rpartition("/")[2] for code, kind in answers if code == 409}
    assert kinds <= {"out-of-stock", "held-by-others"}  # some came while others held the last pieces
    wait_until(lambda: stock(rest, tea) == (0, 0, 0, 50), "all fifty to be sold")


def test_many_with_one_key_at_once_place_one_order(rest: httpx.Client) -> None:
    tea, customer, key = put_item(rest), put_customer(rest), str(uuid4())

    def one(_: int) -> tuple[int, str]:
        answer = order(rest, customer, {tea: 1}, key=key)
        return answer.status_code, str(answer.json().get("id", answer.json().get("type")))

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(one, range(32)))
    assert {code for code, _ in answers} <= {201, 409}, answers
    assert len({order_id for code, order_id in answers if code == 201}) == 1
    wait_until(lambda: stock(rest, tea) == (9, 0, 9, 1), "one piece to be sold")


def test_orders_are_listed_the_newest_first_a_page_at_a_time(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    made = [placed(order(rest, customer, {tea: 1}))["id"] for _ in range(5)]
    wait_for_status(rest, made[0], "CONFIRMED")
    rest.post(f"/v1/orders/{made[0]}/cancel")
    found, query = [], {"customer_id": customer, "page_size": "2"}
    while True:
        page = rest.get("/v1/orders", params=query).json()
        assert len(page["orders"]) <= 2
        found += [each["id"] for each in page["orders"]]
        if page["next_page_token"] is None:
            break
        query["page_token"] = page["next_page_token"]
    assert found == made[::-1]
    cancelled = rest.get("/v1/orders", params={"customer_id": customer, "status": "CANCELLED"}).json()
    assert [each["id"] for each in cancelled["orders"]] == [made[0]]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": 1}], "gift": true}', "gift"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": "1"}]}', "quantity"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": 0}]}', "quantity"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": -1}]}', "quantity"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": 1e99}]}', "quantity"),
        (b'{"customer_id": "c", "lines": [{"sku": "tea", "quantity": 99999999999}]}', "quantity"),
        (b'{"customer_id": "c", "lines": [{"sku": "t", "quantity": 1}, {"sku": "t", "quantity": 2}]}', "'t'"),
        (b'{"customer_id": "c", "lines": []}', "lines"),
        (b'{"lines": [{"sku": "tea", "quantity": 1}]}', "customer_id"),
    ],
)
def test_bad_input_is_told_what_to_mend(rest: httpx.Client, body: bytes, word: str) -> None:
    answer = rest.post("/v1/orders", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert word in answer.json()["detail"]


def test_too_much_input_is_refused(rest: httpx.Client) -> None:
    lines = [{"sku": f"s{n}", "quantity": 1} for n in range(101)]
    answer = rest.post("/v1/orders", json={"customer_id": "c", "lines": lines})
    assert (answer.status_code, "100" in answer.json()["detail"]) == (400, True)
    answer = rest.post("/v1/orders", content=b" " * 70_000, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "65536 bytes" in answer.json()["detail"]) == (413, True)


def test_what_is_on_hand_can_be_corrected_and_what_is_unknown_is_404(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    placed(order(rest, customer, {tea: 4}))
    wait_until(lambda: stock(rest, tea) == (6, 0, 6, 4), "the pieces to be sold")
    answer = rest.put(f"/v1/items/{tea}", json={"name": "Tea", "unit_price": 1, "on_hand": 2})
    assert answer.json()["on_hand"] == 2
    assert rest.get("/v1/items/no-such-item").status_code == 404
    assert rest.get("/v1/customers/no-such-customer").status_code == 404
    assert rest.get(f"/v1/orders/{uuid4()}").status_code == 404


def test_the_prototypes_request_is_still_taken(rest: httpx.Client) -> None:
    rest.put("/v1/items/demo", json={"name": "Demo item", "unit_price": 100, "on_hand": 10})
    rest.put("/v1/customers/guest", json={"name": "Guest", "tier": "standard", "points": 0})
    answer = rest.post("/order", params={"name": "test", "completed": "false"})
    body = answer.json()
    assert (answer.status_code, list(body)) == (200, ["notificationType", "order"])
    assert body["notificationType"] == "ORDER_NOTIFICATION_TYPE_ENUM_OK"
    assert list(body["order"]) == ["uuid"]
    wait_for_status(rest, body["order"]["uuid"], "CONFIRMED")
    completed = rest.post("/order", params={"name": "test", "completed": "true"}).json()["order"]["uuid"]
    assert status(rest, completed) == "COMPLETED"


def test_every_service_that_serves_names_its_version(rest: httpx.Client) -> None:
    versions = rest.get("/v1/versions").json()
    assert {*versions} == {"gateway", "orders", "reservations", "loyalty"}
    form = re.compile(r"\d+\.\d+\.\d+(\.dev\d+\+[a-z0-9.]+)?")
    assert [each for each in versions.values() if not form.fullmatch(each)] == []
    tea, customer = put_item(rest), put_customer(rest)
    served = order(rest, customer, {tea: 1}).headers["souk-served-by"].split()
    assert {each.partition("/")[0] for each in served} == {*versions}


def test_its_contract_and_a_page_to_try_it_are_there(rest: httpx.Client) -> None:
    contract = rest.get("/openapi.json").json()
    assert contract["openapi"].startswith("3.1")
    assert "/v1/orders" in contract["paths"]
    page = rest.get("/docs")
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_an_outage_of_loyalty_is_felt_by_those_who_need_it_only(deployment: Deployment, rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest, tier="gold")
    order_id = placed(order(rest, customer, {tea: 1}))["id"]
    wait_for_status(rest, order_id, "CONFIRMED")
    deployment.kill("loyalty")
    try:
        ready = rest.get("/health/ready")
        assert (ready.status_code, ready.json()["services"]["loyalty"]) == (200, "NOT_SERVING")
        assert rest.get(f"/v1/orders/{order_id}").status_code == 200
        assert rest.get(f"/v1/items/{tea}").status_code == 200
        assert rest.post(f"/v1/items/{tea}/restock", json={"quantity": 1}).status_code == 200
        answer = order(rest, customer, {tea: 1}, key=(key := str(uuid4())))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert rest.get(f"/v1/customers/{customer}").status_code == 503
    finally:
        deployment.revive("loyalty")
    wait_until(lambda: order(rest, customer, {tea: 1}, key=key).status_code == 201, "the retry to be taken")
    wait_until(lambda: stock(rest, tea)[1:] == (0, 9, 2), "one more piece to be sold")


def test_an_answer_may_wait_for_the_order_to_be_confirmed_and_its_history_tells_by_whom(rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    wanted = {"customer_id": customer, "lines": [{"sku": tea, "quantity": 1}]}
    answer = rest.post("/v1/orders", json=wanted, headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["status"]) == (201, "CONFIRMED")
    assert answer.headers["preference-applied"] == "wait=5"
    steps = rest.get(answer.headers["location"]).json()["history"]
    assert {step["step"]: step["by"].partition("/")[0] for step in steps} == {
        "ACCEPTED": "orders",
        "RESERVATIONS_CONFIRMED": "reservations",
        "LOYALTY_CONFIRMED": "loyalty",
        "CONFIRMED": "orders",
    }
    versions = rest.get("/v1/versions").json()
    assert all(step["by"] == "/".join((name, versions[name])) for step in steps if (name := step["by"].split("/")[0]))


def test_what_was_ordered_is_there_after_a_stop_and_a_start(deployment: Deployment, rest: httpx.Client) -> None:
    tea, customer = put_item(rest), put_customer(rest)
    body = placed(order(rest, customer, {tea: 3}))
    deployment.stop()
    deployment.start()
    found = rest.get(f"/v1/orders/{body['id']}").json()
    assert found.pop("history")[0]["step"] == "ACCEPTED"
    assert {**found, "status": body["status"]} == body
    wait_for_status(rest, body["id"], "CONFIRMED")
    assert stock(rest, tea) == (7, 0, 7, 3)
