"""A row of a database stays locked: orders that need it are told to come again, and all others are placed."""

import asyncio

import httpx
import psycopg
import pytest

from tests.faults.conftest import on
from tests.faults.proxy import GrpcProxy
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import Souk

pytestmark = on("postgresql")

_CLIENTS, _EACH = 16, 6


@pytest.mark.parametrize("what", ["item", "customer"])
async def test_a_row_that_stays_locked_stops_no_order_that_does_not_need_it(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, what: str
) -> None:
    tea, mug = await put_item(rest, 1000), await put_item(rest, 1000)
    ada, bob = await put_customer(rest, 1000), await put_customer(rest, 1000)
    needing = [Request(bob, {tea: 1}) if what == "item" else Request(ada, {mug: 1}) for _ in range(_CLIENTS)]
    others = [[Request(bob, {mug: 1}) for _ in range(_EACH)] for _ in range(_CLIENTS)]
    service, query, key = {
        "item": ("reservations", "SELECT sku FROM items WHERE sku = %s FOR UPDATE", tea),
        "customer": ("loyalty", "SELECT customer_id FROM accounts WHERE customer_id = %s FOR UPDATE", ada),
    }[what]

    async def one_after_the_other(requests: list[Request]) -> list[int]:
        return [(await request.send(rest)).status_code for request in requests]

    with psycopg.connect(souk.services[service].database_url) as somebody:
        assert somebody.execute(query, [key]).fetchall() == [(key,)]
        refused, found = await asyncio.gather(
            asyncio.gather(*(request.send(rest) for request in needing)),
            asyncio.gather(*map(one_after_the_other, others)),
        )
        somebody.rollback()
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    placed = [status == 201 for statuses in found for status in statuses]
    assert sum(placed) >= 0.8 * len(placed)
    for request in needing:
        assert (await request.place(rest)).status_code == 201
    await souk.settle()
