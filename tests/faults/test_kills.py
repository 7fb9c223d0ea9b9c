"""Every step of an order, with either party killed (SIGKILL) at each of three points of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import pytest
from _pytest.mark import ParameterSet

from tests.conftest import LONG
from tests.faults.conftest import on
from tests.faults.processes import until
from tests.faults.proxy import GrpcProxy, Lose, Point
from tests.faults.shopping import Request, put_customer, put_item, status_of
from tests.faults.souk import Souk

pytestmark = on("sqlite", *(["postgresql"] if LONG else []))


@dataclass(frozen=True)
class Step:
    """A call of the saga or of the relay."""

    caller: str
    callee: str
    method: str

    def __str__(self) -> str:
        return f"{self.method} at {self.callee}"


RESERVE = Step("gateway", "reservations", "Reserve")
HOLD = Step("gateway", "loyalty", "Hold")
CREATE = Step("gateway", "orders", "Create")
REFUSE = Step("gateway", "orders", "Refuse")
RELAYED = [
    Step("orders", callee, method) for method in ("Confirm", "Release") for callee in ("reservations", "loyalty")
]


def cases(steps: list[Step], relay_killed_at: Sequence[Point] = ()) -> list[ParameterSet]:
    found = []
    for step in steps:
        for victim in (step.callee, step.caller):
            for point in Point:
                # What orders was sending when it was killed waits for its lease, so that each of these takes seconds.
                if not LONG and step in RELAYED and victim == "orders" and point not in relay_killed_at:
                    continue
                found.append(pytest.param(step, victim, point, id=f"{step}, {victim} killed {point}".replace(" ", "_")))
    return found


def kill(souk: Souk[GrpcProxy], step: Step, victim: str, point: Point) -> Callable[[], Awaitable[None]]:
    async def action() -> None:
        service = souk.services[victim]
        service.kill()
        service.spawn()
        if point is Point.COMMITTED and victim == step.callee:
            raise Lose  # what it had to say died with it

    return action


@pytest.mark.parametrize(("step", "victim", "point"), cases([RESERVE, HOLD, CREATE, *RELAYED[:2]], [Point.COMMITTED]))
async def test_an_order_is_placed_once_whoever_is_killed_when(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, step: Step, victim: str, point: Point
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=30)
    plan = souk.proxies[step.caller, step.callee].at(
        point, step.method, kill(souk, step, victim, point), request.order_id
    )
    answer = await request.place(rest)
    assert answer.status_code == 201, answer.text
    await plan.done()
    await souk.services[victim].serving()
    await souk.settle()
    await until(lambda: is_confirmed(rest, request.order_id), "the order to be CONFIRMED")
    again = await request.place(rest)
    assert (again.status_code, again.json()["id"]) == (201, request.order_id)
    assert again.headers["idempotency-replayed"] == "true"


async def is_confirmed(rest: httpx.AsyncClient, order_id: str) -> bool:
    return await status_of(rest, order_id) == "CONFIRMED"


@pytest.mark.parametrize(("step", "victim", "point"), cases([RESERVE, HOLD, REFUSE, *RELAYED[2:]]))
async def test_an_order_is_refused_once_whoever_is_killed_when(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, step: Step, victim: str, point: Point
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=101)
    plan = souk.proxies[step.caller, step.callee].at(
        point, step.method, kill(souk, step, victim, point), request.order_id
    )
    answer = await request.place(rest)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/insufficient-points")
    await plan.done()
    await souk.services[victim].serving()
    await souk.settle()
    assert (await request.place(rest)).json() == answer.json()
    assert await status_of(rest, request.order_id) == ""


@pytest.mark.parametrize(("step", "victim", "point"), cases(RELAYED[2:], [Point.COMMITTED]))
async def test_an_order_is_cancelled_once_whoever_is_killed_when(
    souk: Souk[GrpcProxy], rest: httpx.AsyncClient, step: Step, victim: str, point: Point
) -> None:
    request = Request(await put_customer(rest, 100), {await put_item(rest, 10): 2}, redeem_points=30)
    await request.place(rest)
    await until(lambda: is_confirmed(rest, request.order_id), "the order to be CONFIRMED")
    plan = souk.proxies[step.caller, step.callee].at(
        point, step.method, kill(souk, step, victim, point), request.order_id
    )
    assert (await rest.post(f"/v1/orders/{request.order_id}/cancel")).json()["status"] == "CANCELLED"
    await plan.done()
    await souk.services[victim].serving()
    await souk.settle()
    answer = await request.place(rest)
    assert (answer.status_code, answer.json()["status"]) == (201, "CANCELLED")
