"""Lists of orders, a page at a time, over thousands of them."""

import base64
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from souk_contracts.orders.v1 import ListRequest, OrdersStub
from souk_orders import limits, tables
from souk_orders.domain import InvalidArgument, Line, Order, Refusal, RefusedOrder, Status, Terms
from souk_orders.service import Orders
from souk_orders.statements import Row, Session, Statement, deleting
from souk_orders.storage import _INSERT_ORDERS, _UPDATE_ORDERS, SqlStorage


def token_before_1_2(created_at_us: int, order_id: str) -> str:
    """As orders 1.0 and 1.1 make it."""
    return base64.urlsafe_b64encode(f"{created_at_us} {order_id}".encode()).decode().rstrip("=")


def position_before_1_2(token: str) -> limits.Position:
    """As orders 1.0 and 1.1 read it."""
    padded = token + "=" * (-len(token) % 4)
    text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    found = re.fullmatch("([0-9]{1,19}) ([0-9a-f-]{36})", text)
    assert found
    return int(found[1]), found[2]


CUSTOMERS = ("c-0", "c-1", "c-2")
FILTERS = [(customer, status) for customer in ("", "c-1") for status in (None, Status.CONFIRMED)]


def some_orders(count: int, terms: Terms) -> list[Order]:
    """The newest last; ten share each microsecond. Customers and statuses take turns."""
    kinds = itertools.cycle(itertools.product(CUSTOMERS, Status))
    return [
        Order(
            f"{n * 7919 % 2**32:08x}-0000-4000-8000-{n:012x}",
            bytes(32),
            terms._replace(customer_id=customer),
            status,
            "",
            created_at_us=n // 10,
        )
        for n, (customer, status) in zip(range(count), kinds, strict=False)
    ]


def fill(storage: SqlStorage, orders: Sequence[Order]) -> None:
    """Beside the orders there is a refused one for each."""
    refusal = Refusal("OUT_OF_STOCK", "", {})
    refused = [
        RefusedOrder(f"{order.order_id[:-1]}g", bytes(32), order.terms.customer_id, refusal, order.created_at_us)
        for order in orders
        if order.order_id.endswith("0")
    ]
    rows = [*map(tables.order_row, orders), *map(tables.order_row, refused)]
    with storage._database.write() as session:
        session.change(_INSERT_ORDERS, rows)


async def all_pages(orders: Orders, customer_id: str, status: Status | None, size: int) -> list[Sequence[Order]]:
    pages, token = [], ""
    while True:
        page, token = await orders.orders(customer_id, status, size, token)
        pages.append(page)
        if not token:
            return pages


@pytest.mark.parametrize(("customer_id", "status"), FILTERS)
async def test_the_pages_hold_every_order_once_the_newest_first(
    storage: SqlStorage, orders: Orders, terms: Terms, customer_id: str, status: Status | None
) -> None:
    there = some_orders(3000, terms)
    fill(storage, there)
    wanted = [
        order for order in there if customer_id in ("", order.terms.customer_id) and status in (None, order.status)
    ]
    wanted.sort(key=lambda order: (order.created_at_us, order.order_id), reverse=True)
    pages = await all_pages(orders, customer_id, status, size=77)
    assert [order for page in pages for order in page] == wanted
    assert all(len(page) == 77 for page in pages[:-1])


async def test_orders_that_are_placed_while_someone_reads_on_shift_nothing(
    storage: SqlStorage, orders: Orders, terms: Terms
) -> None:
    there = some_orders(40, terms)
    fill(storage, there[:30])
    first, token = await orders.orders("", None, 10, "")
    fill(storage, there[30:])
    second, _ = await orders.orders("", None, 20, token)
    assert {order.order_id for order in (*first, *second)} == {order.order_id for order in there[:30]}


@pytest.mark.parametrize(("before", "meanwhile"), list(itertools.permutations([Status.ACCEPTED, Status.CONFIRMED])))
async def test_an_order_whose_status_changes_while_a_page_is_read_is_on_it_once(
    open_storage: Callable[[], SqlStorage],
    terms: Terms,
    monkeypatch: pytest.MonkeyPatch,
    before: Status,
    meanwhile: Status,
) -> None:
    storage, other = open_storage(), open_storage()
    (order,) = some_orders(1, terms)
    fill(storage, [order._replace(status=before)])
    change = {"order_id": order.order_id, "status": meanwhile.value, "status_reason": "", "steps": ""}
    read = Session.rows

    def read_and_change(session: Session, statement: Statement, **parameters: object) -> list[Row]:
        found = read(session, statement, **parameters)
        with other._database.write() as writing:
            writing.change(_UPDATE_ORDERS, [change])
        return found

    monkeypatch.setattr(Session, "rows", read_and_change)
    assert await storage.orders("", None, limits.START, 10) == [order._replace(status=before)]
    assert await storage.orders("", None, limits.START, 10) == [order._replace(status=meanwhile)]


async def test_a_last_page_that_is_full_has_no_next_one(storage: SqlStorage, orders: Orders, terms: Terms) -> None:
    fill(storage, some_orders(20, terms))
    assert [len(page) for page in await all_pages(orders, "", None, size=10)] == [10, 10]
    assert await all_pages(orders, "nobody", None, size=10) == [[]]


@pytest.mark.parametrize(("customer_id", "status"), FILTERS)
@pytest.mark.parametrize("after", [limits.START, (200, "00000000-0000-4000-8000-000000000000")])
async def test_a_page_is_a_stretch_of_an_index_with_neither_scan_nor_sort(
    storage: SqlStorage,
    terms: Terms,
    customer_id: str,
    status: Status | None,
    after: limits.Position,
    plans_of: Callable[[type[Session]], Any],
) -> None:
    fill(storage, some_orders(3000, terms))
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE orders"))
    plans = plans_of(Session)
    await storage.orders(customer_id, status, after, 50)
    assert len(plans.all) == (len(Status) if status is None else 1)
    for plan in plans.all:
        if storage._database.embedded:
            filters = ["status", *(["customer_id"] if customer_id else [])]
            index = "_".join(["orders_by", *filters, "created_at"])
            terms_ = " AND ".join([*(f"{name}=?" for name in filters), "(created_at_us,order_id)<(?,?)"])
            assert plan.endswith(f"\nSEARCH orders USING INDEX {index} ({terms_})")
        else:
            # Which of the indexes is PostgreSQL's to choose: where a third of the orders is a customer's, any will do.
            assert re.search(r"\nLimit\n *->  Index Scan Backward using orders_by_", plan)


async def test_a_page_of_very_long_orders_ends_early_and_nothing_is_lost(
    storage: SqlStorage, orders: Orders, terms: Terms
) -> None:
    lines = tuple(Line(f"s{n}", "Name", 1, 1) for n in range(limits.MAX_LINES))
    there = some_orders(90, terms._replace(lines=lines))
    fill(storage, there)
    pages = await all_pages(orders, "", None, size=500)
    assert [len(page) for page in pages] == [40, 40, 10]


async def test_a_page_of_long_orders_with_long_notes_fits_into_a_message(stub: OrdersStub, storage: SqlStorage) -> None:
    # So many lines that a page's limits of lines and of orders would meet, were there no notes.
    count = limits.MAX_PAGE_LINES // limits.MAX_PAGE
    lines = tuple(Line(f"{n:064}", "🍵" * 200, 1_000_000, limits.MAX_PRICE) for n in range(count))
    figures = (50, 10**15, 10**15, limits.MAX_POINTS_EARNED)
    terms = Terms("c" * 64, "EUR", lines, *figures, without_loyalty=False, note="🔔" * limits.MAX_NOTE)
    fill(storage, [order._replace(terms=terms, status_reason="R" * 64) for order in some_orders(500, terms)])
    first = await stub.list(ListRequest(page_size=500))
    rest = await stub.list(ListRequest(page_size=500, page_token=first.next_page_token))
    assert len({order.id for order in (*first.orders, *rest.orders)}) == 500
    assert rest.next_page_token == ""


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        "\n",
        token_before_1_2(2**63, "00000000-0000-4000-8000-000000000000"),
        token_before_1_2(1, "00000000-0000-4000-8000-00000000000"),
        token_before_1_2(-1, "00000000-0000-4000-8000-000000000000"),
        token_before_1_2(1, "00000000-0000-4000-8000-000000000000") + "\n",
        token_before_1_2(1, "00000000-0000--" + "0" * 21),
    ],
)
async def test_a_page_token_that_was_not_given_is_refused(orders: Orders, token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await orders.orders("", None, 10, token)
    assert caught.value.metadata == {"field": "page_token"}


@pytest.mark.parametrize(("customer_id", "status"), FILTERS)
async def test_a_page_token_is_for_one_list_only(
    storage: SqlStorage, orders: Orders, terms: Terms, customer_id: str, status: Status | None
) -> None:
    fill(storage, some_orders(200, terms))
    _, token = await orders.orders(customer_id, status, 5, "")
    for other in itertools.product(("", *CUSTOMERS), (None, *Status)):
        if other == (customer_id, status):
            assert await orders.orders(*other, 5, token)
        else:
            with pytest.raises(InvalidArgument, match="other filters") as caught:
                await orders.orders(*other, 5, token)
            assert caught.value.metadata == {"field": "page_token"}


@pytest.mark.parametrize(("customer_id", "status"), FILTERS)
@pytest.mark.parametrize("reads", ["before 1.2", "after 1.2"])
async def test_versions_before_1_2_go_on_where_this_one_stopped_and_the_other_way_round(
    storage: SqlStorage, orders: Orders, terms: Terms, customer_id: str, status: Status | None, reads: str
) -> None:
    there = some_orders(300, terms)
    # Some that no mark fits between.
    there += [order._replace(order_id=f"00000000-0000-4000-8000-{n:012x}") for n, order in enumerate(there[:100])]
    there = list({order.order_id: order for order in there}.values())
    fill(storage, there)
    wanted = await storage.orders(customer_id, status, limits.START, 1000)
    found: list[Order] = []
    token = ""
    while True:
        if reads == "before 1.2":
            after = position_before_1_2(token) if token else limits.START
            page = list((await storage.orders(customer_id, status, after, 8))[:7])
            _, token = await orders.orders(customer_id, status, 7, token)
        else:
            given, token = await orders.orders(customer_id, status, 7, token)
            page = list(given)
            token = token and token_before_1_2(page[-1].created_at_us, page[-1].order_id)
        found += page
        if not token:
            break
    assert found == wanted


async def test_a_last_order_that_is_deleted_meanwhile_is_no_matter(
    storage: SqlStorage, orders: Orders, terms: Terms
) -> None:
    there = some_orders(20, terms)
    fill(storage, there)
    first, token = await orders.orders("", None, 10, "")
    with storage._database.write() as session:
        session.change(deleting(tables.orders), [{"order_id": first[-1].order_id}])
    rest, _ = await orders.orders("", None, 10, token)
    assert {order.order_id for order in (*first, *rest)} == {order.order_id for order in there}
