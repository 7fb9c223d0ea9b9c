"""Histories that random faults hardly ever meet, each directed by hand: one for every rule that they would break."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import httpx
import psycopg
import pytest
from auditor.findings import Code
from psycopg.types.json import Json

from souk_contracts.orders.v1 import CreateResponse, OrderStatus
from tests.faults.conftest import on
from tests.faults.processes import until
from tests.faults.proxy import GrpcProxy
from tests.faults.shopping import Request, put_customer, put_item, status_of
from tests.faults.souk import Souk

pytestmark = on("sqlite", "postgresql")

SHORT = {"SOUK_HOLD_TTL_S": "1", "SOUK_JANITOR_PERIOD_S": "0.1", "SOUK_HOLD_MARGIN_S": "0"}
USUAL = {"SOUK_HOLD_TTL_S": "60", "SOUK_JANITOR_PERIOD_S": "1", "SOUK_HOLD_MARGIN_S": "10"}


async def restart(souk: Souk[GrpcProxy], settings: dict[str, str]) -> None:
    await asyncio.gather(*(souk.services[name].restart(**settings) for name in ("orders", "reservations", "loyalty")))


async def reaches(rest: httpx.AsyncClient, order_id: str, status: str) -> None:
    async def is_there() -> bool:
        return await status_of(rest, order_id) == status

    await until(is_there, f"the order to be {status}")


def state(souk: Souk[GrpcProxy], order_id: str) -> str:
    """Of the order's reservation."""
    query = "SELECT state FROM reservations WHERE order_id = :id"
    return "".join(row.state for row in souk.rows("reservations", query, id=order_id))


async def on_hand(rest: httpx.AsyncClient, sku: str) -> tuple[int, int, int]:
    item = (await rest.get(f"/v1/items/{sku}")).json()
    return item["on_hand"], item["held"], item["sold"]


async def test_a_confirm_that_comes_after_its_release_finds_the_door_shut(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    await restart(souk, SHORT)
    try:
        tea = await put_item(rest, 10)
        request = Request(await put_customer(rest, 100), {tea: 2})
        relay = souk.proxies["orders", "reservations"]
        late = relay.keep("Confirm", request.order_id)
        lost = relay.lose_calls("Release", request.order_id)  # so that the hold expires first
        assert (await request.place(rest)).status_code == 201
        await late.there()
        assert (await rest.post(f"/v1/orders/{request.order_id}/cancel")).status_code == 200
        await lost.done()

        async def is_expired() -> bool:
            return state(souk, request.order_id) == "EXPIRED"

        await until(is_expired, "the hold to expire")
        relay.forget()
        await souk.settle()  # the Release is sent again, and arrives
        await late.deliver()
        assert await on_hand(rest, tea) == (10, 0, 0)
        await souk.settle()
    finally:
        await restart(souk, USUAL)


async def test_a_confirm_that_comes_before_its_release_is_undone(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 10)
    request = Request(await put_customer(rest, 100), {tea: 2}, redeem_points=7)
    late = [souk.proxies["orders", to].keep("Confirm", request.order_id) for to in ("reservations", "loyalty")]
    lost = [souk.proxies["orders", to].keep("Release", request.order_id) for to in ("reservations", "loyalty")]
    assert (await request.place(rest)).status_code == 201
    for message in late:
        await message.there()
    assert (await rest.post(f"/v1/orders/{request.order_id}/cancel")).status_code == 200
    for message in lost:
        await message.there()
    for message in late:
        await message.deliver()
    assert await on_hand(rest, tea) == (8, 0, 2)
    await souk.settle()  # by the Release, sent again
    assert await on_hand(rest, tea) == (10, 0, 0)
    for message in lost:
        await message.deliver()
    await souk.settle()


FAILS = {
    "sqlite": "CREATE TRIGGER fails BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'it fails'); END",
    "postgresql": """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'it fails' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER fails BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION fail()""",
}
HEAL = {"sqlite": "DROP TRIGGER fails", "postgresql": "DROP FUNCTION fail CASCADE"}


@contextmanager
def outbox_failing(url: str) -> Iterator[None]:
    """Nothing can be written into the outbox, and only there."""
    backend, _, path = url.partition(":///")
    backend = backend.partition(":")[0]
    opened = sqlite3.connect(path, timeout=10) if backend == "sqlite" else psycopg.connect(url)
    with closing(opened) as connection:
        connection.execute(FAILS[backend])
        connection.commit()
        try:
            yield
        finally:
            connection.execute(HEAL[backend])
            connection.commit()


async def test_an_order_and_what_must_be_told_of_it_are_written_together_or_not_at_all(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2})

    with outbox_failing(souk.services["orders"].database_url):
        assert (await request.send(rest)).status_code == 503
        assert not souk.rows("orders", "SELECT 1 FROM orders WHERE order_id = :id", id=request.order_id)
    assert (await request.place(rest)).status_code == 201
    await reaches(rest, request.order_id, "CONFIRMED")
    await souk.settle()


async def test_a_create_that_comes_late_finds_what_became_of_the_order(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 10)
    request = Request(await put_customer(rest, 100), {tea: 2})
    late = souk.proxies["gateway", "orders"].keep("Create", request.order_id)
    first = asyncio.create_task(request.send(rest))
    await late.there()
    assert (await request.place(rest)).status_code == 201
    await reaches(rest, request.order_id, "CONFIRMED")
    assert (await rest.post(f"/v1/orders/{request.order_id}/cancel")).status_code == 200
    await souk.settle()
    answer = CreateResponse.parse(await late.deliver())
    assert answer.order is not None
    assert (answer.replayed, answer.order.status, answer.order.status_reason) == (
        True,
        OrderStatus.CANCELLED,
        "CUSTOMER",
    )
    await souk.settle()
    order = (await rest.get(f"/v1/orders/{request.order_id}")).json()
    assert (order["status"], order["status_reason"]) == ("CANCELLED", "CUSTOMER")
    assert await on_hand(rest, tea) == (10, 0, 0)
    assert (await first).status_code == 201  # the gateway asked again, and was told what there is


async def test_a_create_that_comes_after_a_refusal_takes_no_order(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 10)
    request = Request(await put_customer(rest, 100), {tea: 2}, redeem_points=50)
    # The first attempt holds everything, and its Create is late; meanwhile the holds are gone, and a second is refused.
    await restart(souk, SHORT)
    try:
        late = souk.proxies["gateway", "orders"].keep("Create", request.order_id)
        first = asyncio.create_task(request.send(rest))
        await late.there()

        async def is_expired() -> bool:
            return state(souk, request.order_id) == "EXPIRED"

        await until(is_expired, "the hold to expire")
        await rest.put(f"/v1/items/{tea}", json={"name": "Tea", "unit_price": 450, "on_hand": 1})
        answer = await request.place(rest)
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/out-of-stock")
        await late.deliver()
        assert await status_of(rest, request.order_id) == ""
        await souk.settle()
        assert (await first).status_code in (409, 503)  # the gateway asked again, after the refusal or before it
    finally:
        await restart(souk, USUAL)


async def test_a_gateway_that_gives_up_leaves_the_order_to_orders(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 10)
    request = Request(await put_customer(rest, 100), {tea: 2})
    late = souk.proxies["orders", "reservations"].keep("Confirm", request.order_id)
    souk.proxies["gateway", "orders"].lose_answers("Create", request.order_id)
    assert (await request.send(rest)).status_code == 503
    souk.proxies["gateway", "orders"].forget()
    await late.there()
    assert state(souk, request.order_id) == "HELD"
    await late.deliver()
    await reaches(rest, request.order_id, "CONFIRMED")
    assert await on_hand(rest, tea) == (8, 0, 2)
    answer = await request.place(rest)
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (201, "true")
    await souk.settle()


async def test_a_retry_joins_the_hold_of_an_attempt_that_gave_up(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 2)
    request = Request(await put_customer(rest, 100), {tea: 2}, redeem_points=100)
    for edge, method in ((("gateway", "reservations"), "Reserve"), (("gateway", "loyalty"), "Hold")):
        souk.proxies[edge].lose_answers(method, request.order_id)
        assert (await request.send(rest)).status_code == 503
        souk.proxies[edge].forget()
    souk.proxies["gateway", "orders"].lose_calls("Create", request.order_id)
    assert (await request.send(rest)).status_code == 503
    souk.proxies["gateway", "orders"].forget()
    assert state(souk, request.order_id) == "HELD"
    assert (await request.place(rest)).status_code == 201
    await souk.settle()
    assert await on_hand(rest, tea) == (0, 0, 2)


async def test_a_service_that_is_away_before_the_order_is_waited_for_with_the_same_key(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 100)
    for name in ("reservations", "loyalty", "orders"):
        request = Request(customer, {tea: 1}, redeem_points=1)
        souk.services[name].kill()
        answer = await request.send(rest)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable"), answer.text
        assert int(answer.headers["retry-after"]) >= 1
        await souk.services[name].start()
        assert (await request.place(rest)).status_code == 201
    await souk.settle()
    assert await on_hand(rest, tea) == (7, 0, 3)


async def test_what_was_held_for_an_order_that_never_came_is_free_again(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    await restart(souk, SHORT)
    try:
        tea, customer = await put_item(rest, 10), await put_customer(rest, 100)
        request = Request(customer, {tea: 4}, redeem_points=40)
        souk.proxies["gateway", "orders"].lose_calls("Create", request.order_id)
        assert (await request.send(rest)).status_code == 503
        await souk.settle()  # nobody asks again
        assert await on_hand(rest, tea) == (10, 0, 0)
        account = (await rest.get(f"/v1/customers/{customer}")).json()
        assert (account["points"], account["points_held"]) == (100, 0)
    finally:
        await restart(souk, USUAL)


@pytest.mark.parametrize("name", ["reservations", "loyalty"])
async def test_a_service_that_is_away_after_the_order_confirms_it_when_it_is_back(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, name: str
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=30)
    kept = souk.proxies["orders", name].keep("Confirm", request.order_id)
    assert (await request.place(rest)).status_code == 201
    await kept.there()
    souk.services[name].kill()
    assert await status_of(rest, request.order_id) == "ACCEPTED"
    await souk.services[name].start()
    await reaches(rest, request.order_id, "CONFIRMED")
    await souk.settle()


async def test_an_order_goes_without_loyalty_where_that_is_away_and_not_required(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 100, tier="gold")
    await souk.services["gateway"].restart(SOUK_LOYALTY_REQUIRED="false")
    souk.services["loyalty"].kill()
    try:
        answer = await Request(customer, {tea: 2}).place(rest)
        assert (answer.status_code, answer.json()["discount"], answer.json()["without_loyalty"]) == (201, 0, True)
        with_points = Request(customer, {tea: 2}, redeem_points=1)
        refused = await with_points.send(rest)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    finally:
        await souk.services["loyalty"].start()
        await souk.services["gateway"].restart(SOUK_LOYALTY_REQUIRED="true")
    assert (await with_points.place(rest)).status_code == 201
    await souk.settle()
    assert (await rest.get(f"/v1/orders/{answer.json()['id']}")).json()["status"] == "CONFIRMED"


async def test_a_refusal_that_was_answered_stands_after_a_restock(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea = await put_item(rest, 1)
    request = Request(await put_customer(rest, 100), {tea: 2})
    first = await request.place(rest)
    assert (first.status_code, first.json()["type"]) == (409, "/problems/out-of-stock")
    await rest.post(f"/v1/items/{tea}/restock", json={"quantity": 5})
    again = await request.place(rest)
    assert (again.status_code, again.json()) == (409, first.json())
    await souk.settle()
    assert await on_hand(rest, tea) == (6, 0, 0)


async def test_an_order_whose_goods_went_to_others_is_cancelled_and_its_points_come_back(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    await restart(souk, SHORT)
    try:
        tea, customer = await put_item(rest, 2), await put_customer(rest, 100)
        request = Request(customer, {tea: 2}, redeem_points=100)
        kept = souk.proxies["orders", "reservations"].keep("Confirm", request.order_id)
        assert (await request.place(rest)).status_code == 201
        await kept.there()

        async def is_expired() -> bool:
            return state(souk, request.order_id) != "HELD"

        souk.services["orders"].kill()
        await until(is_expired, "the hold to expire")
        assert (await rest.put(f"/v1/items/{tea}", json={"name": "Tea", "unit_price": 1, "on_hand": 1})).is_success
        await souk.services["orders"].start()
        await reaches(rest, request.order_id, "CANCELLED")
        await souk.settle()
        assert (await rest.get(f"/v1/customers/{customer}")).json()["points"] == 100
        answer = await request.place(rest)
        assert (answer.status_code, answer.json()["status_reason"]) == (201, "OUT_OF_STOCK")
    finally:
        await restart(souk, USUAL)


async def test_what_others_hold_is_refused_in_passing_and_can_be_had_with_the_same_key(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    await restart(souk, SHORT)
    try:
        tea, customer = await put_item(rest, 2), await put_customer(rest, 100)
        goods = Request(await put_customer(rest, 0), {tea: 2})
        points = Request(customer, {await put_item(rest, 2): 1}, redeem_points=100)
        orders = souk.proxies["gateway", "orders"]
        for theirs, ours in (
            (goods, Request(customer, {tea: 1})),
            (points, Request(customer, {await put_item(rest, 1): 1}, redeem_points=100)),
        ):
            late = orders.lose_calls("Create", theirs.order_id)
            sent = asyncio.create_task(theirs.send(rest))
            await late.done()
            answer = await ours.send(rest)
            assert (answer.status_code, answer.json()["type"]) == (409, "/problems/held-by-others")
            assert answer.headers["retry-after"] == "1"
            assert (await sent).status_code == 503
            assert (await ours.place(rest)).status_code == 201  # once the hold has expired
        await souk.settle()
    finally:
        await restart(souk, USUAL)


async def test_orders_for_customers_that_do_not_exist_keep_no_goods_from_others(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 0)

    async def ask_in_vain(times: int) -> None:
        for _ in range(times):
            answer = await Request(f"nobody-{uuid4().hex[:12]}", {tea: 10}).place(rest)
            assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-customer")

    await ask_in_vain(1)
    await souk.settle()
    crowd = [asyncio.create_task(ask_in_vain(20)) for _ in range(8)]
    honest = [await Request(customer, {tea: 1}).send(rest) for _ in range(5)]
    await asyncio.gather(*crowd)
    assert [answer.status_code for answer in honest] == [201] * 5
    await souk.settle()
    assert await on_hand(rest, tea) == (5, 0, 5)


async def test_an_order_that_orders_has_lost_is_neither_refused_nor_released(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 100)
    request = Request(customer, {tea: 2}, redeem_points=30)
    assert (await request.place(rest)).status_code == 201
    await reaches(rest, request.order_id, "CONFIRMED")
    await souk.settle()
    with order_gone(souk.services["orders"].database_url, request.order_id):
        for _ in range(2):
            answer = await request.send(rest)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/order-lost")
            assert request.order_id in answer.json()["detail"]
        assert not souk.rows("orders", "SELECT 1 FROM orders WHERE order_id = :id", id=request.order_id)
        assert await on_hand(rest, tea) == (8, 0, 2)
        found = {(finding.code, finding.id) for finding in souk.audit(settle_s=0.1).findings}
        assert found == {
            (Code.RESERVATION_WITHOUT_ORDER, request.order_id),
            (Code.HOLD_WITHOUT_ORDER, request.order_id),
        }
    again = await request.place(rest)
    assert (again.status_code, again.json()["status"]) == (201, "CONFIRMED")
    assert again.headers["idempotency-replayed"] == "true"
    await souk.settle()


@contextmanager
def order_gone(url: str, order_id: str) -> Iterator[None]:
    """The database of orders is as it was before the order; at the end it is as it was after it."""
    backend, _, path = url.partition(":///")
    mark = "?" if backend == "sqlite" else "%s"
    opened = sqlite3.connect(path, timeout=10) if backend == "sqlite" else psycopg.connect(url)
    with closing(opened) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM orders WHERE order_id = {mark}", [order_id])
        (row,) = cursor.fetchall()
        names = ", ".join(column[0] for column in cursor.description or ())
        cursor.execute(f"DELETE FROM orders WHERE order_id = {mark}", [order_id])
        connection.commit()
        try:
            yield
        finally:
            values = [Json(value) if isinstance(value, list) else value for value in row]
            cursor.execute(f"INSERT INTO orders ({names}) VALUES ({', '.join([mark] * len(row))})", values)
            connection.commit()
