"""The service over a real server on loopback."""

import inspect
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from souk_contracts.channel import served_by
from souk_contracts.errors import Refused, refusal_of
from souk_contracts.orders.v1 import (
    CancelRequest,
    CompleteRequest,
    CreateRequest,
    ErrorReason,
    GetRequest,
    ListRequest,
    Order,
    OrderLine,
    OrdersStub,
    OrderStatus,
    Refusal,
    RefuseRequest,
)
from souk_orders import __version__, domain
from souk_orders.book import Participant
from souk_orders.service import Answered, Lease, Orders
from souk_orders.servicer import STATUSES
from souk_orders.storage import SqlStorage

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
PRINT = b"f" * 32
NOW_US = 1_000_000_000
MARGIN_US = 10_000_000
TEA = OrderLine(sku="tea", name="Tea", quantity=2, unit_price=450)
MUG = OrderLine(sku="mug", name="Mug", quantity=1, unit_price=900)
OUT_OF_STOCK = Refusal(reason="OUT_OF_STOCK", detail="none of 'tea' is left", metadata={"sku": "tea", "available": "0"})


def create(**changes: Any) -> CreateRequest:
    """Two teas and a mug, with 10 percent off and 20 points, whose holds last just long enough."""
    figures = {"discount_percent": 10, "discount": 180, "points_redeemed": 20, "points_earned": 16}
    fields = {
        "order_id": ORDER,
        "fingerprint": PRINT,
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [TEA, MUG],
        "holds_expire_at_us": NOW_US + MARGIN_US,
        **figures,
        **changes,
    }
    return CreateRequest(**fields)


def refuse(**changes: Any) -> RefuseRequest:
    fields = {"order_id": ORDER, "fingerprint": PRINT, "customer_id": "c-1", "refusal": OUT_OF_STOCK, **changes}
    return RefuseRequest(**fields)


async def refused(call: Awaitable[object]) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = refusal_of(caught.value)
    assert refusal is not None, caught.value
    assert refusal.domain == "orders.souk"
    return refusal


async def confirm(storage: SqlStorage) -> None:
    """As the relay does when both say yes."""
    for participant in Participant:
        (leased,) = await storage.execute([Lease(participant, 10, lease_us=1)])
        assert isinstance(leased, list)
        await storage.execute([Answered(delivery.message, no=None) for delivery in leased])


async def test_an_order_goes_its_way(stub: OrdersStub, storage: SqlStorage) -> None:
    created = await stub.create(create())
    order = Order(
        id=ORDER,
        status=OrderStatus.ACCEPTED,
        customer_id="c-1",
        currency="EUR",
        lines=[TEA, MUG],
        subtotal=1800,
        discount_percent=10,
        discount=180,
        points_redeemed=20,
        points_earned=16,
        total=1600,
        created_at_us=NOW_US,
    )
    assert (created.order, created.refusal, created.replayed) == (order, None, False)
    assert (await stub.get(GetRequest(order_id=ORDER))).order == order
    await confirm(storage)
    order.status = OrderStatus.CONFIRMED
    assert (await stub.get(GetRequest(order_id=ORDER))).order == order
    order.status = OrderStatus.COMPLETED
    assert (await stub.complete(CompleteRequest(order_id=ORDER))).order == order
    assert (await stub.complete(CompleteRequest(order_id=ORDER))).order == order
    again = await stub.create(create(holds_expire_at_us=0))
    assert (again.order, again.replayed) == (order, True)
    assert (await stub.list(ListRequest())).orders == [order]


async def test_a_cancelled_order_says_why(stub: OrdersStub) -> None:
    await stub.create(create())
    for _ in range(2):
        order = (await stub.cancel(CancelRequest(order_id=ORDER))).order
        assert order is not None
        assert (order.status, order.status_reason) == (OrderStatus.CANCELLED, "CUSTOMER")


async def test_a_refusal_is_given_again_word_for_word_and_is_no_order(stub: OrdersStub) -> None:
    first = await stub.refuse(refuse())
    assert (first.order, first.refusal, first.replayed) == (None, OUT_OF_STOCK, False)
    again = await stub.refuse(refuse(refusal=Refusal(reason="UNKNOWN_SKU", detail="other")))
    assert (again.order, again.refusal, again.replayed) == (None, OUT_OF_STOCK, True)
    created = await stub.create(create())
    assert (created.order, created.refusal, created.replayed) == (None, OUT_OF_STOCK, True)
    assert (await stub.list(ListRequest())).orders == []
    assert (await refused(stub.get(GetRequest(order_id=ORDER)))).reason == "UNKNOWN_ORDER"


async def test_a_refusal_that_comes_after_the_order_gives_the_order(stub: OrdersStub) -> None:
    order = (await stub.create(create())).order
    answer = await stub.refuse(refuse())
    assert (answer.order, answer.refusal, answer.replayed) == (order, None, True)


async def test_a_brief_answer_leaves_out_what_the_caller_knows_of_a_new_order(stub: OrdersStub) -> None:
    brief = await stub.create(create(brief=True))
    assert brief.order == Order(id=ORDER, status=OrderStatus.ACCEPTED, created_at_us=NOW_US)
    again = await stub.create(create(brief=True))
    assert again.replayed
    assert again.order is not None
    assert again.order == (await stub.get(GetRequest(order_id=ORDER))).order
    assert again.order.lines == [TEA, MUG]


async def test_a_note_stays_with_its_order(stub: OrdersStub) -> None:
    note = "Please ring twice.\nТретий этаж 🛎"
    assert (await stub.create(create(note=note))).order == (await stub.create(create())).order
    answers = [
        (await stub.get(GetRequest(order_id=ORDER))).order,
        *(await stub.list(ListRequest())).orders,
        (await stub.cancel(CancelRequest(order_id=ORDER))).order,
    ]
    assert [order.note for order in answers if order is not None] == [note] * 3


async def test_an_order_without_loyalty_says_so(stub: OrdersStub) -> None:
    zeros = {"discount_percent": 0, "discount": 0, "points_redeemed": 0, "points_earned": 0}
    order = (await stub.create(create(**zeros, without_loyalty=True))).order
    assert order is not None
    assert (order.without_loyalty, order.total) == (True, 1800)


async def test_every_refusal_reaches_the_client_with_its_code_and_reason(stub: OrdersStub) -> None:
    await stub.create(create())
    other = str(uuid.uuid4())
    calls: dict[str, tuple[Awaitable[object], grpc.StatusCode]] = {
        "KEY_REUSED": (stub.create(create(fingerprint=b"x" * 32)), grpc.StatusCode.ALREADY_EXISTS),
        "HOLD_EXPIRING": (
            stub.create(create(order_id=other, holds_expire_at_us=NOW_US + MARGIN_US - 1)),
            grpc.StatusCode.ABORTED,
        ),
        "UNKNOWN_ORDER": (stub.cancel(CancelRequest(order_id=other)), grpc.StatusCode.NOT_FOUND),
        "WRONG_STATUS": (stub.complete(CompleteRequest(order_id=ORDER)), grpc.StatusCode.FAILED_PRECONDITION),
        "INVALID_ARGUMENT": (stub.get(GetRequest(order_id="no uuid")), grpc.StatusCode.INVALID_ARGUMENT),
    }
    for reason, (call, code) in calls.items():
        refusal = await refused(call)
        assert (refusal.reason, refusal.code) == (reason, code)
    assert {*calls, "UNSPECIFIED", "STORAGE_UNAVAILABLE", "OVERLOADED", "RECORD_DAMAGED"} == {
        reason.name for reason in ErrorReason
    }
    wrong_status = await refused(stub.complete(CompleteRequest(order_id=ORDER)))
    assert wrong_status.metadata == {"status": "ACCEPTED"}


async def test_a_lost_database_is_unavailable_and_says_so(stub: OrdersStub, storage: SqlStorage) -> None:
    storage._writer.close()
    refusal = await refused(stub.create(create()))
    assert (refusal.reason, refusal.code) == ("STORAGE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


Call = Callable[[OrdersStub], Awaitable[object]]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda stub: stub.create(create(order_id=ORDER.upper())), "order_id"),
        (lambda stub: stub.create(create(fingerprint=b"f" * 31)), "fingerprint"),
        (lambda stub: stub.create(create(customer_id="")), "customer_id"),
        (lambda stub: stub.create(create(customer_id="c 1")), "customer_id"),
        (lambda stub: stub.create(create(currency="eur")), "currency"),
        (lambda stub: stub.create(create(lines=[])), "lines"),
        (lambda stub: stub.create(create(lines=[TEA, TEA])), "lines"),
        (
            lambda stub: stub.create(
                create(lines=[OrderLine(sku=f"s{n}", name="S", quantity=1, unit_price=0) for n in range(101)])
            ),
            "lines",
        ),
        (lambda stub: stub.create(create(lines=[OrderLine(sku="té", name="T", quantity=1)])), "sku"),
        (lambda stub: stub.create(create(lines=[OrderLine(sku="tea", name="", quantity=1)])), "name"),
        (lambda stub: stub.create(create(lines=[OrderLine(sku="tea", name="a\0b", quantity=1)])), "name"),
        (lambda stub: stub.create(create(lines=[OrderLine(sku="tea", name="T", quantity=0)])), "quantity"),
        (lambda stub: stub.create(create(lines=[OrderLine(sku="tea", name="T", quantity=1_000_001)])), "quantity"),
        (
            lambda stub: stub.create(create(lines=[OrderLine(sku="tea", name="T", quantity=1, unit_price=-1)])),
            "unit_price",
        ),
        (lambda stub: stub.create(create(discount_percent=101)), "discount_percent"),
        (lambda stub: stub.create(create(discount=-1)), "discount"),
        (lambda stub: stub.create(create(discount=181)), "discount"),
        (lambda stub: stub.create(create(points_redeemed=-1)), "points_redeemed"),
        (lambda stub: stub.create(create(points_redeemed=1621)), "points_redeemed"),
        (lambda stub: stub.create(create(points_earned=-1)), "points_earned"),
        (lambda stub: stub.create(create(without_loyalty=True)), "without_loyalty"),
        (lambda stub: stub.create(create(note="x" * 501)), "note"),
        (lambda stub: stub.create(create(note="a\0b")), "note"),
        (lambda stub: stub.refuse(refuse(order_id="")), "order_id"),
        (lambda stub: stub.refuse(refuse(fingerprint=b"")), "fingerprint"),
        (lambda stub: stub.refuse(refuse(customer_id="")), "customer_id"),
        (lambda stub: stub.refuse(refuse(refusal=None)), "refusal.reason"),
        (lambda stub: stub.refuse(refuse(refusal=Refusal(reason="lower"))), "refusal.reason"),
        (lambda stub: stub.refuse(refuse(refusal=Refusal(reason="A", detail="x" * 4001))), "refusal.detail"),
        (lambda stub: stub.refuse(refuse(refusal=Refusal(reason="A", metadata={"": "x"}))), "refusal.metadata"),
        (lambda stub: stub.list(ListRequest(customer_id="c 1")), "customer_id"),
        (lambda stub: stub.list(ListRequest(status=OrderStatus(99))), "status"),
        (lambda stub: stub.list(ListRequest(page_size=501)), "page_size"),
        (lambda stub: stub.list(ListRequest(page_size=-1)), "page_size"),
        (lambda stub: stub.list(ListRequest(page_token="x")), "page_token"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(stub: OrdersStub, call: Call, field: str) -> None:
    refusal = await refused(call(stub))
    assert (refusal.reason, refusal.metadata) == ("INVALID_ARGUMENT", {"field": field})
    assert (await stub.list(ListRequest())).orders == []


async def test_the_largest_order_there_may_be_is_taken(stub: OrdersStub) -> None:
    lines = [OrderLine(sku=f"{n:064}", name="茶" * 200, quantity=1_000_000, unit_price=90_000_000) for n in range(100)]
    zeros = {"discount_percent": 0, "discount": 0, "points_redeemed": 9 * 10**15, "points_earned": 10**15}
    order = (await stub.create(create(lines=lines, note="茶" * 500, **zeros))).order
    assert order is not None
    assert (order.subtotal, order.total, order.lines, order.note) == (9 * 10**15, 0, lines, "茶" * 500)


async def test_an_order_that_costs_more_than_can_be_counted_is_refused(stub: OrdersStub) -> None:
    lines = [OrderLine(sku=f"{n}", name="T", quantity=1_000_000, unit_price=10**9) for n in range(9)]
    rest = OrderLine(sku="rest", name="T", quantity=740_992, unit_price=10_000_000)
    zeros = {"discount_percent": 0, "discount": 0, "points_redeemed": 0, "points_earned": 0}
    refusal = await refused(stub.create(create(lines=[*lines, rest], **zeros)))
    assert (refusal.reason, refusal.metadata) == ("INVALID_ARGUMENT", {"field": "lines"})


async def test_lists_are_filtered_by_customer_and_status(stub: OrdersStub) -> None:
    ids = [f"5f0c8a9e-0000-4000-8000-00000000000{n}" for n in range(4)]
    for n, order_id in enumerate(ids):
        await stub.create(create(order_id=order_id, customer_id=f"c-{n % 2}"))
    await stub.cancel(CancelRequest(order_id=ids[0]))

    async def listed(request: ListRequest) -> list[str]:
        return [order.id for order in (await stub.list(request)).orders]

    assert await listed(ListRequest()) == ids[::-1]
    assert await listed(ListRequest(customer_id="c-0")) == [ids[2], ids[0]]
    assert await listed(ListRequest(status=OrderStatus.ACCEPTED)) == [ids[3], ids[2], ids[1]]
    assert await listed(ListRequest(customer_id="c-0", status=OrderStatus.CANCELLED)) == [ids[0]]
    first = await stub.list(ListRequest(page_size=3))
    last = await stub.list(ListRequest(page_size=3, page_token=first.next_page_token))
    assert ([order.id for order in last.orders], last.next_page_token) == ([ids[0]], "")


async def test_what_is_new_to_tell_wakes_the_relay_and_a_replay_does_not(
    orders: Orders, wakes: Callable[[], int]
) -> None:
    line = domain.Line("tea", "Tea", 1, 450)
    terms = domain.Terms("c-1", "EUR", (line,), 0, 0, 0, 0, without_loyalty=False)
    for expected in (1, 1):
        await orders.create(ORDER, PRINT, terms, NOW_US + MARGIN_US)
        assert wakes() == expected
    await orders.cancel(ORDER)
    assert wakes() == 2
    await orders.refuse(str(uuid.uuid4()), PRINT, "c-1", domain.Refusal("OUT_OF_STOCK", "", {}))
    assert wakes() == 3


async def test_every_answer_names_the_version(stub: OrdersStub) -> None:
    call = stub.list(ListRequest())
    await call
    assert await served_by(call) == f"orders/{__version__}"


def test_every_domain_error_has_a_status() -> None:
    errors = {
        value
        for value in vars(domain).values()
        if inspect.isclass(value) and issubclass(value, domain.DomainError) and value is not domain.DomainError
    }
    assert errors == set(STATUSES)
    assert {reason for _, reason in STATUSES.values()} == set(ErrorReason) - {ErrorReason.UNSPECIFIED}
