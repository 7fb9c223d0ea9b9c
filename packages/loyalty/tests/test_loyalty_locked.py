"""Rows that another process keeps locked (PostgreSQL): who needs them waits, and everybody else is served."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import pytest
from sqlalchemy import insert, select

from souk_contracts.errors import refusal_of
from souk_contracts.loyalty import v1 as wire
from souk_loyalty.domain import Account, Hold, InvalidArgument, Overloaded, State
from souk_loyalty.migrate import migrate
from souk_loyalty.rules import Tier
from souk_loyalty.service import Command, Confirm, ExpireDue, Forget, Loyalty, PlaceHold, PutAccount, Release
from souk_loyalty.storage import SqlStorage, accounts, holds

TTL_US = 60_000_000


class Server(Protocol):
    """The PostgreSQL server of the tests."""

    def migrated(self, migrate: Callable[[str], None]) -> str: ...


@pytest.fixture
def database_url(postgresql: Server) -> str:
    return postgresql.migrated(migrate)


def hold(customer_id: str, order_id: str = "") -> PlaceHold:
    return PlaceHold(order_id or str(uuid.uuid4()), customer_id, 1000, 1, TTL_US)


@contextmanager
def locked(storage: SqlStorage, table: Any, key: Any, value: str) -> Iterator[None]:
    """Another process's transaction that has locked a row, and goes on for as long as the block."""
    with storage._database.begin() as connection:
        assert len(connection.execute(select(table).where(key == value).with_for_update()).all()) == 1
        yield


@pytest.fixture(autouse=True)
async def opened(storage: SqlStorage) -> None:
    await storage.execute([PutAccount(each, each, Tier.GOLD, 1000, None) for each in ("ada", "bob")])


async def test_an_account_that_is_locked_holds_up_only_who_needs_it(storage: SqlStorage) -> None:
    alone, wanted = [hold("bob") for _ in range(20)], [hold("ada"), hold("bob"), hold("ada")]
    with locked(storage, accounts, accounts.c.customer_id, "ada"):
        first, *others = await asyncio.gather(storage.execute(wanted), *(storage.execute([each]) for each in alone))
    assert [type(outcome) for outcome in first] == [Overloaded, Hold, Overloaded]
    assert [type(outcome) for (outcome,) in others] == [Hold] * 20
    assert (await storage.account("bob")).points_held == 21
    assert (await storage.account("ada")).points_held == 0
    assert [type(outcome) for outcome in await storage.execute(wanted)] == [Hold] * 3
    assert (await storage.account("ada")).points_held == 2


async def test_a_confirm_that_meets_a_lock_is_no_no(storage: SqlStorage, stub: wire.LoyaltyStub) -> None:
    order_id = str(uuid.uuid4())
    await storage.execute([hold("ada", order_id)])
    request = wire.ConfirmRequest(order_id=order_id, customer_id="ada", points_redeemed=1, points_earned=9)
    for table, key, value in (
        (accounts, accounts.c.customer_id, "ada"),
        (holds, holds.c.order_id, order_id),
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
    assert (await storage.hold(order_id)).state is State.HELD
    assert (await stub.confirm(request)).confirmed


async def test_each_kind_of_command_waits_for_the_rows_that_it_needs(
    storage: SqlStorage, advance: Callable[[float], None]
) -> None:
    ada, bob = str(uuid.uuid4()), str(uuid.uuid4())
    await storage.execute([hold("ada", ada), hold("bob", bob)])
    needing: list[Command] = [
        Release(ada),
        Confirm(ada, "ada", 1, 9),
        PutAccount("ada", "Ada", Tier.GOLD, 1000, None),
        Forget((bob, ada)),
        hold("ada"),
    ]
    with locked(storage, accounts, accounts.c.customer_id, "ada"):
        outcomes = await storage.execute([*needing, Forget((bob,)), PutAccount("bob", "Bob", Tier.GOLD, 1000, None)])
        assert [type(outcome) for outcome in outcomes] == [Overloaded] * len(needing) + [list, Account]
        advance(61)
        assert await storage.execute([ExpireDue(10)]) == [1]
    assert await storage.execute([ExpireDue(10)]) == [1]
    with locked(storage, holds, holds.c.order_id, ada):
        (outcome,) = await storage.execute([Release(ada)])
        assert isinstance(outcome, Overloaded)


async def test_an_order_that_another_process_is_about_to_write_holds_up_nobody_else(storage: SqlStorage) -> None:
    order_id = str(uuid.uuid4())
    row = {column.name: 0 for column in holds.c} | {"order_id": order_id, "state": "CLOSED", "customer_id": "ada"}
    others = [hold("bob") for _ in range(30)]
    with storage._database.begin() as connection:
        connection.execute(insert(holds).values(row))
        first, *outcomes = await asyncio.gather(
            storage.execute([hold("bob"), hold("bob", order_id), hold("bob")]),
            *(storage.execute([each]) for each in others),
        )
    assert [type(outcome) for outcome in first] == [Hold, Overloaded, Hold]
    assert [type(outcome) for (outcome,) in outcomes] == [Hold] * 30
    assert (await storage.account("bob")).points_held == 32


async def test_nothing_new_is_begun_while_the_writer_is_far_behind(
    loyalty: Loyalty, storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("souk_loyalty.service.LONGEST_LAG_S", 1e-9)
    begun, may_end = threading.Event(), threading.Event()

    def carry_out(*_: object) -> list[object]:
        begun.set()
        may_end.wait()
        return []

    with monkeypatch.context() as slow:
        slow.setattr(storage._writer, "_carry_out", carry_out)
        stuck = asyncio.create_task(storage.execute([]))
        await asyncio.to_thread(begun.wait)
    found = await loyalty.place_all([(str(uuid.uuid4()), "bob", 1000, 1), ("no id", "bob", 0, 0)])
    assert [type(each) for each in found] == [Overloaded, Overloaded]
    assert all(isinstance(each, Overloaded) and each.metadata == {"pause_ms": "250"} for each in found)
    released = asyncio.create_task(loyalty.release(str(uuid.uuid4())))  # what ends something is begun all the same
    may_end.set()
    await asyncio.gather(stuck, released)
    while storage.lag_s():  # noqa: ASYNC110 (nobody tells of it)
        await asyncio.sleep(0.001)
    found = await loyalty.place_all([(str(uuid.uuid4()), "bob", 1000, 1), ("no id", "bob", 0, 0)])
    assert [type(each) for each in found] == [Hold, InvalidArgument]
