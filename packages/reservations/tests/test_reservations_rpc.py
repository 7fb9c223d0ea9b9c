"""The service over a real server on loopback, and as a process."""

import inspect
import uuid
from collections.abc import Awaitable
from dataclasses import replace

import grpc
import pytest

from souk_contracts.channel import served_by
from souk_contracts.errors import Refused, refusal_of
from souk_contracts.reservations.v1 import (
    ConfirmRequest,
    ErrorReason,
    GetItemRequest,
    GetReservationRequest,
    Item,
    ItemEdit,
    Line,
    ListItemsRequest,
    PutItemRequest,
    QuotedLine,
    ReleaseRequest,
    ReservationsStub,
    ReservationState,
    ReserveRequest,
    RestockItemRequest,
    RestockOnce,
)
from souk_reservations import __version__, domain
from souk_reservations.service import PutItem
from souk_reservations.servicer import STATUSES
from souk_reservations.storage import SqlStorage

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
TWO_TEAS = [Line(sku="tea", quantity=2)]


async def refused(call: Awaitable[object]) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = refusal_of(caught.value)
    assert refusal is not None, caught.value
    assert refusal.domain == "reservations.souk"
    return refusal


async def test_a_description_is_kept_until_it_is_put_anew(stub: ReservationsStub) -> None:
    async def put(description: str | None) -> str:
        wanted = PutItemRequest(sku="tea", name="Tea", unit_price=450, on_hand=10, description=description)
        item = (await stub.put_item(wanted)).item
        assert item == (await stub.get_item(GetItemRequest(sku="tea"))).item
        assert [item] == (await stub.list_items(ListItemsRequest())).items
        assert item is not None
        return item.description

    text = "First flush,\nhand-picked 🍃"
    assert [await put(each) for each in (None, text, None, "")] == ["", text, text, ""]
    await put(text)
    await stub.reserve(ReserveRequest(order_id=ORDER, lines=TWO_TEAS))
    assert await put(None) == text


async def test_a_page_of_the_longest_descriptions_fits_into_a_message_and_nothing_is_lost(
    stub: ReservationsStub, storage: SqlStorage
) -> None:
    skus = [f"{n:064}" for n in range(500)]
    put = [PutItem(sku, "🍵" * 200, 10**9, 10**9, "🍃" * 2000) for sku in skus]
    await storage.execute(put)
    first = await stub.list_items(ListItemsRequest(page_size=500))
    rest = await stub.list_items(ListItemsRequest(page_size=500, page_token=first.next_page_token))
    assert len(first.items) == 400
    assert [item.sku for item in (*first.items, *rest.items)] == skus
    assert rest.next_page_token == ""


async def test_an_order_goes_its_way(stub: ReservationsStub) -> None:
    await stub.put_item(PutItemRequest(sku="tea", name="Tea", unit_price=450, on_hand=10))
    quote = await stub.reserve(ReserveRequest(order_id=ORDER, lines=TWO_TEAS))
    assert quote.lines == [QuotedLine(sku="tea", name="Tea", quantity=2, unit_price=450)]
    assert (quote.currency, quote.expires_at_us) == ("EUR", 1_060_000_000)
    held = (await stub.get_reservation(GetReservationRequest(order_id=ORDER))).reservation
    assert held is not None
    assert (held.state, held.lines) == (ReservationState.HELD, TWO_TEAS)
    answer = await stub.confirm(ConfirmRequest(order_id=ORDER, lines=TWO_TEAS))
    assert (answer.confirmed, answer.reason, answer.detail) == (True, ErrorReason.UNSPECIFIED, "")
    item = (await stub.get_item(GetItemRequest(sku="tea"))).item
    assert item is not None
    assert replace(item, revision="") == Item(
        sku="tea", name="Tea", unit_price=450, currency="EUR", on_hand=8, held=0, available=8, sold=2
    )
    await stub.release(ReleaseRequest(order_id=ORDER))
    answer = await stub.confirm(ConfirmRequest(order_id=ORDER, lines=TWO_TEAS))
    assert (answer.confirmed, answer.reason) == (False, ErrorReason.SETTLED)
    restocked = await stub.restock_item(RestockItemRequest(sku="tea", quantity=5))
    assert restocked.item is not None
    assert restocked.item.available == 15
    assert len((await stub.list_items(ListItemsRequest())).items) == 1


async def test_every_refusal_reaches_the_client_with_its_code_and_reason(stub: ReservationsStub) -> None:
    await stub.put_item(PutItemRequest(sku="tea", name="Tea", unit_price=450, on_hand=3))
    other = str(uuid.uuid4())
    expensive = [Line(sku=f"lamp-{n}", quantity=1_000_000) for n in range(10)]
    for line in expensive:
        await stub.put_item(PutItemRequest(sku=line.sku, name="Lamp", unit_price=10**9, on_hand=10**9))
    await stub.reserve(ReserveRequest(order_id=ORDER, lines=TWO_TEAS))
    await stub.release(ReleaseRequest(order_id=other))
    await stub.restock_item(RestockItemRequest(sku="tea", once=RestockOnce(request_id=other, quantity=1)))
    calls: dict[str, tuple[Awaitable[object], grpc.StatusCode]] = {
        "BUSY": (
            stub.reserve(ReserveRequest(order_id=ORDER, lines=[Line(sku="tea", quantity=1)])),
            grpc.StatusCode.ABORTED,
        ),
        "SETTLED": (
            stub.reserve(ReserveRequest(order_id=other, lines=TWO_TEAS)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "HELD_BY_OTHERS": (
            stub.reserve(ReserveRequest(order_id=str(uuid.uuid4()), lines=[Line(sku="tea", quantity=3)])),
            grpc.StatusCode.ABORTED,
        ),
        "OUT_OF_STOCK": (
            stub.reserve(ReserveRequest(order_id=str(uuid.uuid4()), lines=[Line(sku="tea", quantity=5)])),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "UNKNOWN_SKU": (stub.get_item(GetItemRequest(sku="mug")), grpc.StatusCode.NOT_FOUND),
        "UNKNOWN_RESERVATION": (
            stub.get_reservation(GetReservationRequest(order_id=str(uuid.uuid4()))),
            grpc.StatusCode.NOT_FOUND,
        ),
        "ON_HAND_BELOW_HELD": (
            stub.put_item(PutItemRequest(sku="tea", name="Tea", unit_price=450, on_hand=1)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "ON_HAND_ABOVE_LIMIT": (
            stub.restock_item(RestockItemRequest(sku="tea", quantity=1_000_000_000)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "LIMIT_EXCEEDED": (
            stub.reserve(ReserveRequest(order_id=str(uuid.uuid4()), lines=expensive)),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "PRECONDITION_FAILED": (
            stub.put_item(
                PutItemRequest(sku="tea", name="Tea", unit_price=1, on_hand=-1, edit=ItemEdit(must_be_new=True))
            ),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "KEY_REUSED": (
            stub.restock_item(RestockItemRequest(sku="tea", once=RestockOnce(request_id=other, quantity=2))),
            grpc.StatusCode.ALREADY_EXISTS,
        ),
        "INVALID_ARGUMENT": (
            stub.restock_item(RestockItemRequest(sku="tea", quantity=0)),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    }
    for reason, (call, code) in calls.items():
        refusal = await refused(call)
        assert (refusal.reason, refusal.code) == (reason, code)
    assert {*calls, "UNSPECIFIED", "STORAGE_UNAVAILABLE", "OVERLOADED", "RECORD_DAMAGED"} == {
        reason.name for reason in ErrorReason
    }


async def test_a_lost_database_is_unavailable_and_says_so(stub: ReservationsStub, storage: SqlStorage) -> None:
    storage._writer.close()
    refusal = await refused(stub.release(ReleaseRequest(order_id=ORDER)))
    assert (refusal.reason, refusal.code) == ("STORAGE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ReserveRequest(lines=TWO_TEAS), "order_id"),
        (ReserveRequest(order_id="no uuid", lines=TWO_TEAS), "order_id"),
        (ReserveRequest(order_id=ORDER.upper(), lines=TWO_TEAS), "order_id"),
        (ReserveRequest(order_id=ORDER), "lines"),
        (ReserveRequest(order_id=ORDER, lines=[Line(sku=f"s{n}", quantity=1) for n in range(101)]), "lines"),
        (ReserveRequest(order_id=ORDER, lines=TWO_TEAS * 2), "lines"),
        (ReserveRequest(order_id=ORDER, lines=[Line(sku="tea", quantity=0)]), "quantity"),
        (ReserveRequest(order_id=ORDER, lines=[Line(sku="tea", quantity=-1)]), "quantity"),
        (ReserveRequest(order_id=ORDER, lines=[Line(sku="tea", quantity=1_000_001)]), "quantity"),
        (ReserveRequest(order_id=ORDER, lines=[Line(sku="té", quantity=1)]), "sku"),
        (PutItemRequest(sku="x" * 65, name="X", unit_price=1, on_hand=1), "sku"),
        (PutItemRequest(sku="x", name=" ", unit_price=1, on_hand=1), "name"),
        (PutItemRequest(sku="x", name="a\0b", unit_price=1, on_hand=1), "name"),
        (PutItemRequest(sku="x", name="X", unit_price=-1, on_hand=1), "unit_price"),
        (PutItemRequest(sku="x", name="X", unit_price=1, on_hand=-1), "on_hand"),
        (PutItemRequest(sku="x", name="X", unit_price=1, on_hand=1, description="x" * 2001), "description"),
        (PutItemRequest(sku="x", name="X", unit_price=1, on_hand=1, description="a\0b"), "description"),
        (ListItemsRequest(page_size=501), "page_size"),
        (ListItemsRequest(page_token="\n"), "page_token"),
        (ListItemsRequest(page_token="no-item"), "page_token"),
        (PutItemRequest(sku="..", name="Tea", unit_price=1, on_hand=1), "sku"),
        (PutItemRequest(sku=".", name="Tea", unit_price=1, on_hand=1), "sku"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(
    stub: ReservationsStub,
    request_: ReserveRequest | PutItemRequest | ListItemsRequest,
    field: str,
) -> None:
    call: Awaitable[object]
    match request_:
        case ReserveRequest():
            call = stub.reserve(request_)
        case PutItemRequest():
            call = stub.put_item(request_)
        case ListItemsRequest():
            call = stub.list_items(request_)
    refusal = await refused(call)
    assert (refusal.reason, refusal.metadata) == ("INVALID_ARGUMENT", {"field": field})
    assert (await stub.list_items(ListItemsRequest())).items == []


async def test_every_answer_names_the_version(stub: ReservationsStub) -> None:
    call = stub.list_items(ListItemsRequest())
    await call
    assert await served_by(call) == f"reservations/{__version__}"


def test_every_domain_error_has_a_status() -> None:
    errors = {
        value
        for value in vars(domain).values()
        if inspect.isclass(value) and issubclass(value, domain.DomainError) and value is not domain.DomainError
    }
    assert errors == set(STATUSES)
    assert {reason for _, reason in STATUSES.values()} == set(ErrorReason) - {ErrorReason.UNSPECIFIED}
