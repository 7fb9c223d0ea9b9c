"""A disk without room: a clear 503, nothing lost, and it goes on as soon as there is room."""

import contextlib
import resource
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.conftest import on
from tests.faults.proxy import GrpcProxy
from tests.faults.shopping import Request, put_customer, put_item
from tests.faults.souk import BACKENDS, Souk

pytestmark = [
    on("sqlite"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a running process may write"),
]


@contextlib.contextmanager
def no_room(souk: Souk[GrpcProxy], name: str) -> Iterator[None]:
    """Every write of the service's process to a file fails, whichever and wherever."""
    pid = souk.services[name].pid
    usual = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("name", BACKENDS)
async def test_a_service_that_cannot_write_says_so_and_goes_on_when_it_can(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, name: str
) -> None:
    tea, customer = await put_item(rest, 10), await put_customer(rest, 100)
    before = Request(customer, {tea: 1}, redeem_points=10)
    during = Request(customer, {tea: 2}, redeem_points=20)
    assert (await before.place(rest)).status_code == 201
    await souk.settle()
    with no_room(souk, name):
        for _ in range(3):
            answer = await during.send(rest)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["type"] in ("/problems/storage-unavailable", "/problems/unavailable")
        read = await rest.get(f"/v1/orders/{before.order_id}")
        # Once orders says that it is not serving, nobody reads there either.
        assert read.json().get("status") == "CONFIRMED" or (name == "orders" and read.status_code == 503), read.text
        await souk.services[name].not_serving()
        assert (await rest.get("/health/ready")).json()["services"][name] == "NOT_SERVING"
    await souk.services[name].serving()
    assert (await during.place(rest)).status_code == 201
    await souk.settle()
    item, account = await rest.get(f"/v1/items/{tea}"), await rest.get(f"/v1/customers/{customer}")
    assert (item.json()["on_hand"], item.json()["sold"]) == (7, 3)
    assert account.json()["points_held"] == 0


@pytest.mark.parametrize("name", ["reservations", "loyalty"])
async def test_an_order_waits_for_the_room_to_confirm_it(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, name: str
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=20)
    kept = souk.proxies["orders", name].keep("Confirm", request.order_id)
    assert (await request.place(rest)).status_code == 201
    await kept.there()
    with no_room(souk, name), pytest.raises(Exception, match="the database cannot be used"):
        await kept.deliver()
    await souk.settle()
    assert (await rest.get(f"/v1/orders/{request.order_id}")).json()["status"] == "CONFIRMED"
