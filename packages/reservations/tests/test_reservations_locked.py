"""Rows that another process keeps locked (PostgreSQL): who needs them waits, and everybody else is served."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import pytest
from sqlalchemy import insert, select, text

from souk_contracts.errors import refusal_of
from souk_contracts.reservations import v1 as wire
from souk_reservations.domain import InvalidArgument, Item, Line, Overloaded, Reservation, State
from souk_reservations.migrate import migrate
from souk_reservations.service import Command, Confirm, ExpireDue, Forget, PutItem, Release, Reservations, Reserve
from souk_reservations.storage import SqlStorage, items, reservations

TTL_US = 60_000_000


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def migrated(self, migrate: Callable[[str], None]) -> str: ...


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


def reserve(sku: str, order_id: str = "") -> Reserve:
    return Reserve(order_id or str(uuid.uuid4()), (Line(sku, 1),), TTL_US)


@contextmanager
def locked(storage: SqlStorage, table: Any, key: Any, value: str) -> Iterator[None]:
    """Another process's transaction that has locked a row, and goes on for as long as the block."""
    with storage._database.begin() as connection:
        assert len(connection.execute(select(table).where(key == value).with_for_update()).all()) == 1
        yield


@pytest.fixture(autouse=True)
async def stocked(storage: SqlStorage) -> None:
    await storage.execute([PutItem("tea", "Tea", 450, 1000), PutItem("mug", "Mug", 900, 1000)])


async def test_an_item_that_is_locked_holds_up_only_who_wants_it(storage: SqlStorage) -> None:
    alone, wanted = [reserve("mug") for _ in range(20)], [reserve("tea"), reserve("mug"), reserve("tea")]
    with locked(storage, items, items.c.sku, "tea"):
        first, *others = await asyncio.gather(storage.execute(wanted), *(storage.execute([each]) for each in alone))
    assert [type(outcome) for outcome in first] == [Overloaded, Reservation, Overloaded]
    assert [type(outcome) for (outcome,) in others] == [Reservation] * 20
    assert (await storage.item("mug")).held == 21
    assert (await storage.item("tea")).held == 0
    assert [type(outcome) for outcome in await storage.execute(wanted)] == [Reservation] * 3
    assert (await storage.item("tea")).held == 2


async def test_who_waits_for_a_row_gets_it_when_it_is_free(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("souk_reservations.writer._PATIENCE_S", 3600.0)
    with locked(storage, items, items.c.sku, "tea"):
        waiting = asyncio.create_task(storage.execute([reserve("mug"), reserve("tea"), reserve("mug")]))
        for _ in range(3):  # meanwhile
            (outcome,) = await storage.execute([reserve("mug")])
            assert isinstance(outcome, Reservation)
        assert not waiting.done()
    outcomes = await asyncio.wait_for(waiting, 60)
    assert [outcome.lines[0].sku for outcome in outcomes if isinstance(outcome, Reservation)] == ["mug", "tea", "mug"]
    assert (await storage.item("mug")).held == 5


async def test_what_is_set_aside_is_answered_before_the_writer_closes(
    open_storage: Callable[[], SqlStorage], storage: SqlStorage
) -> None:
    other = open_storage()
    with locked(storage, items, items.c.sku, "tea"):
        waiting = asyncio.create_task(other.execute([reserve("tea")]))
        await other.execute([reserve("mug")])
        await asyncio.to_thread(other._writer.close)
        assert isinstance((await asyncio.wait_for(waiting, 60))[0], Overloaded)


async def test_a_confirm_that_meets_a_lock_is_no_no(storage: SqlStorage, stub: wire.ReservationsStub) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([reserve("tea", order_id)])
    request = wire.ConfirmRequest(order_id=order_id, lines=[wire.Line(sku="tea", quantity=1)])
    for table, key, value in (
        (items, items.c.sku, "tea"),
        (reservations, reservations.c.order_id, order_id),
    ):
        with locked(storage, table, key, value):
            with pytest.raises(grpc.aio.AioRpcError) as alone:
                await stub.confirm(request)
            (answer,) = await stub.confirm_all([request])
        assert isinstance(answer.result, grpc.aio.AioRpcError)
        for error in (alone.value, answer.result):
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            refusal = refusal_of(error)
            assert refusal is not None
            assert refusal.reason == "OVERLOADED"
    assert (await storage.reservation(order_id)).state is State.HELD
    assert (await stub.confirm(request)).confirmed


async def test_each_kind_of_command_waits_for_the_rows_that_it_needs(
    storage: SqlStorage, advance: Callable[[float], None]
) -> None:
    tea, mug = str(uuid.uuid4()), str(uuid.uuid4())
    await storage.execute([reserve("tea", tea), reserve("mug", mug)])
    line = (Line("tea", 1),)
    needing: list[Command] = [
        Release(tea),
        Confirm(tea, line),
        PutItem("tea", "Tea", 1, 1000),
        Forget((mug, tea)),
        reserve("tea"),
    ]
    with locked(storage, items, items.c.sku, "tea"):
        outcomes = await storage.execute([*needing, Forget((mug,)), PutItem("mug", "Mug", 1, 1000)])
        assert [type(outcome) for outcome in outcomes] == [Overloaded] * len(needing) + [list, Item]
        advance(61)
        assert await storage.execute([ExpireDue(10)]) == [1]
    assert await storage.execute([ExpireDue(10)]) == [1]
    with locked(storage, reservations, reservations.c.order_id, tea):
        (outcome,) = await storage.execute([Release(tea)])
        assert isinstance(outcome, Overloaded)


async def test_an_order_that_another_process_is_about_to_write_holds_up_nobody_else(storage: SqlStorage) -> None:
    order_id = str(uuid.uuid4())
    row = {"order_id": order_id, "state": "CLOSED", "lines": [], "quote": [], "expires_at_us": 0}
    others = [reserve("mug") for _ in range(30)]
    with storage._database.begin() as connection:
        connection.execute(insert(reservations).values(row))
        first, *outcomes = await asyncio.gather(
            storage.execute([reserve("mug"), reserve("mug", order_id), reserve("mug")]),
            *(storage.execute([each]) for each in others),
        )
    assert [type(outcome) for outcome in first] == [Reservation, Overloaded, Reservation]
    assert [type(outcome) for (outcome,) in outcomes] == [Reservation] * 30
    assert (await storage.item("mug")).held == 32


async def test_a_table_that_is_locked_makes_all_wait_and_none_fail_otherwise(storage: SqlStorage) -> None:
    with storage._database.begin() as connection:
        connection.execute(text("LOCK TABLE items IN EXCLUSIVE MODE"))
        outcomes = await asyncio.gather(*(storage.execute([reserve("mug"), reserve("tea")]) for _ in range(20)))
    assert {type(outcome) for pair in outcomes for outcome in pair} == {Overloaded}
    assert [type(outcome) for outcome in await storage.execute([reserve("mug")])] == [Reservation]


async def test_nothing_new_is_begun_while_the_writer_is_far_behind(
    reservations: Reservations, storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("souk_reservations.service.LONGEST_LAG_S", 1e-9)
    begun, may_end = threading.Event(), threading.Event()

    def carry_out(*_: object) -> list[object]:
        begun.set()
        may_end.wait()
        return []

    with monkeypatch.context() as slow:
        slow.setattr(storage._writer, "_carry_out", carry_out)
        stuck = asyncio.create_task(storage.execute([]))
        await asyncio.to_thread(begun.wait)
    found = await reservations.reserve_all([(str(uuid.uuid4()), [Line("mug", 1)]), ("no id", [])])
    assert [type(each) for each in found] == [Overloaded, Overloaded]
    assert all(isinstance(each, Overloaded) and each.metadata == {"pause_ms": "250"} for each in found)
    released = asyncio.create_task(reservations.release(str(uuid.uuid4())))  # what ends something is begun all the same
    may_end.set()
    await asyncio.gather(stuck, released)
    while storage.lag_s():  # noqa: ASYNC110 (nobody tells of it)
        await asyncio.sleep(0.001)
    found = await reservations.reserve_all([(str(uuid.uuid4()), [Line("mug", 1)]), ("no id", [])])
    assert [type(each) for each in found] == [Reservation, InvalidArgument]
