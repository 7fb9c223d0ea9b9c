"""Restocks that are carried out once, however often they are asked for; and the currency that a database remembers."""

import asyncio
import uuid
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select
from test_reservations_rpc import refused

from souk_contracts.errors import Refused
from souk_contracts.reservations import v1 as wire
from souk_contracts.reservations.v1 import PutItemRequest, ReservationsStub, RestockItemRequest, RestockItemResponse
from souk_reservations.database import Database
from souk_reservations.domain import Item, KeyReused, OnHandAboveLimit
from souk_reservations.prune import KINDS, delete_old, prune
from souk_reservations.service import PutItem, RestockOnce
from souk_reservations.settings import Settings
from souk_reservations.statements import Session
from souk_reservations.storage import SqlStorage, journal, remembered_currency, restocks
from souk_reservations.writer import Clock

KEY = "5f0c8a9e-0000-4000-8000-00000000000a"
DAY_S = 86_400


async def put(stub: ReservationsStub, on_hand: int) -> None:
    await stub.put_item(PutItemRequest(sku="tea", name="Tea", unit_price=450, on_hand=on_hand))


async def restock(
    stub: ReservationsStub, quantity: int, *, key: str = KEY, sku: str = "tea"
) -> RestockItemResponse | Refused:
    once = wire.RestockOnce(request_id=key, quantity=quantity)
    call = stub.restock_item(RestockItemRequest(sku=sku, once=once))
    try:
        return await call
    except grpc.aio.AioRpcError:
        return await refused(call)


async def test_a_repeated_restock_adds_its_pieces_once_and_gets_the_same_answer(stub: ReservationsStub) -> None:
    await put(stub, 10)
    first = await restock(stub, 5)
    await put(stub, 3)
    again = await restock(stub, 5)
    assert isinstance(first, RestockItemResponse)
    assert isinstance(again, RestockItemResponse)
    assert first.item is not None
    assert (first.item.on_hand, first.replayed) == (15, False)
    assert (again.item, again.replayed) == (first.item, True)
    other = await restock(stub, 5, key=str(uuid.uuid4()))
    assert isinstance(other, RestockItemResponse)
    assert other.item is not None
    assert other.item.on_hand == 8


@pytest.mark.parametrize(("sku", "quantity"), [("tea", 6), ("mug", 5)])
async def test_a_key_belongs_to_one_restock(stub: ReservationsStub, sku: str, quantity: int) -> None:
    await put(stub, 10)
    await stub.put_item(PutItemRequest(sku="mug", name="Mug", unit_price=1, on_hand=1))
    await restock(stub, 5)
    other = await restock(stub, quantity, sku=sku)
    assert isinstance(other, Refused)
    assert (other.reason, other.code) == ("KEY_REUSED", grpc.StatusCode.ALREADY_EXISTS)
    assert [item.on_hand for item in (await stub.list_items(wire.ListItemsRequest())).items] == [1, 15]


async def test_a_refusal_is_kept_for_its_key(stub: ReservationsStub) -> None:
    unknown = [await restock(stub, 5), await restock(stub, 5)]
    await put(stub, 10**9 - 1)
    unknown.append(await restock(stub, 5))
    for each, replayed in zip(unknown, ({}, {"replayed": "true"}, {"replayed": "true"}), strict=True):
        assert isinstance(each, Refused)
        assert (each.reason, each.metadata) == ("UNKNOWN_SKU", {"sku": "tea", **replayed})
    key = str(uuid.uuid4())
    too_many = [await restock(stub, 5, key=key)]
    await put(stub, 1)
    too_many.append(await restock(stub, 5, key=key))
    about = {"sku": "tea", "on_hand": str(10**9 - 1)}
    for each, replayed in zip(too_many, ({}, {"replayed": "true"}), strict=True):
        assert isinstance(each, Refused)
        assert (each.reason, each.code) == ("ON_HAND_ABOVE_LIMIT", grpc.StatusCode.FAILED_PRECONDITION)
        assert each.metadata == {**about, **replayed}
    assert isinstance(too_many[0], Refused)
    assert isinstance(too_many[1], Refused)
    assert too_many[0].detail == too_many[1].detail


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RestockItemRequest(sku="tea", once=wire.RestockOnce(request_id="x", quantity=1)), "request_id"),
        (RestockItemRequest(sku="tea", once=wire.RestockOnce(request_id=KEY, quantity=0)), "once.quantity"),
        (RestockItemRequest(sku="tea", once=wire.RestockOnce(request_id=KEY, quantity=10**9 + 1)), "once.quantity"),
        (RestockItemRequest(sku="tea", quantity=1, once=wire.RestockOnce(request_id=KEY, quantity=1)), "quantity"),
        (RestockItemRequest(sku="tea"), "quantity"),
    ],
)
async def test_a_restock_that_cannot_be_meant_is_refused_by_name(
    stub: ReservationsStub, request_: RestockItemRequest, field: str
) -> None:
    await put(stub, 1)
    assert (await refused(stub.restock_item(request_))).metadata == {"field": field}


async def test_of_twenty_at_once_in_two_processes_one_adds_the_pieces(open_storage: Callable[[], SqlStorage]) -> None:
    storages = [open_storage(), open_storage()]
    await storages[0].execute([PutItem("tea", "Tea", 450, 10)])
    wanted = [RestockOnce(KEY, "tea", 5), RestockOnce(KEY, "tea", 6)]
    outcomes: list[Any] = await asyncio.gather(*(storages[n % 2].execute([wanted[n // 2 % 2]]) for n in range(20)))
    answers = [outcome for (outcome,) in outcomes if not isinstance(outcome, KeyReused)]
    assert [replayed for _, replayed in answers].count(False) == 1
    assert len({restock for restock, _ in answers}) == 1
    assert len(answers) == 10
    added = answers[0][0].quantity
    assert (await storages[1].item("tea")).on_hand == 10 + added
    with storages[0]._database.begin() as connection:
        assert connection.execute(select(func.sum(journal.c.pieces))).scalar_one() == 10 + added


async def test_what_is_decided_in_one_transaction_is_decided_once(storage: SqlStorage) -> None:
    once = RestockOnce(KEY, "tea", 5)
    too_many = RestockOnce(str(uuid.uuid4()), "tea", 10**9)
    outcomes: list[Any] = list(await storage.execute([PutItem("tea", "Tea", 450, 10), once, once, too_many, too_many]))
    _, (first, _), (second, replayed), (refusal, _), _ = outcomes
    assert first == second
    assert replayed
    assert first.answer == Item("tea", "Tea", 450, on_hand=15)
    assert isinstance(refusal.answer, OnHandAboveLimit)


async def test_answers_are_pruned_when_they_are_old_and_every_statement_goes_by_an_index(
    storage: SqlStorage,
    database_url: str,
    advance: Callable[[float], None],
    clock: Clock,
    plans_of: Callable[[type[Session]], Any],
) -> None:
    database = storage._database
    await storage.execute([PutItem("tea", "Tea", 450, 10)])
    await storage.execute([RestockOnce(str(uuid.uuid4()), "tea", 1) for _ in range(1203)])
    advance(DAY_S - 1)
    await storage.execute([RestockOnce(KEY, "tea", 5)])
    assert delete_old(database, KINDS[1], 1, clock) == 0
    advance(1)
    plans = plans_of(Session)
    prune(Settings(database_url=database_url), Namespace(days=1, dry_run=True), clock)
    assert delete_old(database, KINDS[1], 1, clock) == 1203
    ((_, replayed),) = await storage.execute([RestockOnce(KEY, "tea", 5)])  # type: ignore[misc]
    assert plans.missing(KINDS[1]) == []
    assert plans.reading_all == []
    assert replayed
    with database.begin() as connection:
        assert connection.execute(select(restocks.c.request_id)).all() == [(KEY,)]
    assert (await storage.item("tea")).on_hand == 10 + 1203 + 5


def test_a_database_remembers_its_first_currency(database_url: str) -> None:
    first, second = Database(database_url), Database(database_url)
    assert remembered_currency(first, "CHF") == "CHF"
    assert remembered_currency(second, "EUR") == "CHF"
    assert remembered_currency(first, "CHF") == "CHF"
    first.close()
    second.close()
