"""A row that is damaged: what needs it fails, and says so; all others are as if it were not there."""

import uuid
from collections.abc import Callable

import grpc
import pytest
from sqlalchemy import text

from souk_contracts.errors import refusal_of
from souk_contracts.loyalty.v1 import ConfirmRequest, LoyaltyStub
from souk_loyalty.domain import Account, Damaged, Hold, State
from souk_loyalty.rules import Tier
from souk_loyalty.service import Confirm, ExpireDue, Forget, Loyalty, PlaceHold, PutAccount, Release
from souk_loyalty.storage import SqlStorage


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def put(customer_id: str) -> PutAccount:
    return PutAccount(customer_id, "Ada", Tier.GOLD, 100, 0)


def hold(order_id: str, customer_id: str = "c-1", ttl_us: int = 10) -> PlaceHold:
    return PlaceHold(order_id, customer_id, 1000, 10, ttl_us)


def damage(storage: SqlStorage, change: str) -> None:
    with storage._database.begin() as connection:
        connection.execute(text(f"UPDATE {change}"))


@pytest.mark.parametrize(
    ("database_url", "field", "value"),
    [
        ("sqlite", "state", "'GONE'"),
        ("sqlite", "points_redeemed", "'some'"),
        ("sqlite", "customer_id", "x'00'"),
        ("postgresql", "state", "'GONE'"),
    ],
    indirect=["database_url"],
)
async def test_a_damaged_hold_fails_alone_and_names_itself(
    storage: SqlStorage, field: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = new_ids(2)
    await storage.execute([put("c-1"), hold(bad), hold(good)])
    damage(storage, f"holds SET {field} = {value} WHERE order_id = '{bad}'")
    with pytest.raises(Damaged, match=f"the stored hold {bad} is damaged: its field {field} cannot be read"):
        await storage.hold(bad)
    assert f"the stored hold {bad} is damaged: its field {field} cannot be read" in caplog.text
    held = await storage.hold(good)
    confirmed = Confirm(good, "c-1", held.points_redeemed, held.points_earned)
    outcomes = await storage.execute(
        [hold(bad), Confirm(bad, "c-1", 10, 9), Release(bad), Forget((bad, good)), confirmed]
    )
    assert [type(each) for each in outcomes[:3]] == [Damaged] * 3
    assert sorted(outcomes[3]) == sorted([bad, good])  # type: ignore[arg-type]
    assert outcomes[4] is None
    assert (await storage.hold(good)).state is State.CONFIRMED


@pytest.mark.parametrize(
    ("database_url", "field", "value"),
    [
        ("sqlite", "tier", "'WOOD'"),
        ("sqlite", "points", "'many'"),
        ("sqlite", "name", "CAST(x'ff' AS TEXT)"),
        ("postgresql", "tier", "'WOOD'"),
    ],
    indirect=["database_url"],
)
async def test_a_damaged_account_fails_alone_and_names_itself(
    storage: SqlStorage, field: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    customers = [f"c-{n}" for n in range(1, 6)]
    await storage.execute([put(customer_id) for customer_id in customers])
    held, other, another = new_ids(3)
    await storage.execute([hold(held, "c-3")])
    damage(storage, f"accounts SET {field} = {value} WHERE customer_id = 'c-3'")
    with pytest.raises(Damaged, match=f"the stored account c-3 is damaged: its field {field} cannot be read"):
        await storage.account("c-3")
    assert f"the stored account c-3 is damaged: its field {field} cannot be read" in caplog.text
    outcomes = await storage.execute(
        [hold(other, "c-3"), put("c-3"), Confirm(held, "c-3", 10, 9), Release(held), hold(another), put("c-1")]
    )
    assert [type(each) for each in outcomes] == [Damaged, Damaged, Damaged, Damaged, Hold, Account]
    listed: list[str] = []
    while page := await storage.accounts(listed[-1] if listed else "", 2):
        listed += [account.customer_id for account in page]
    assert listed == ["c-1", "c-2", "c-4", "c-5"]
    assert len(await storage.accounts("", 4)) == 4  # a page is as long as was asked for


async def test_more_damaged_holds_than_expire_at_once_hold_up_no_other(
    storage: SqlStorage, advance: Callable[[float], None]
) -> None:
    ids = new_ids(8)
    await storage.execute([put("c-1"), *(hold(each, ttl_us=1) for each in ids)])
    good = ids.pop()
    for order_id in ids:
        damage(storage, f"holds SET customer_id = 'c-2', expires_at_us = 1 WHERE order_id = '{order_id}'")
    await storage.execute([put("c-2")])
    damage(storage, "accounts SET tier = 'WOOD' WHERE customer_id = 'c-2'")
    advance(1)
    ended = [(await storage.execute([ExpireDue(3)]))[0] for _ in range(4)]
    assert sum(count for count in ended if isinstance(count, int)) == 1
    assert (await storage.hold(good)).state is State.EXPIRED
    with storage._database.begin() as connection:
        due = connection.execute(text(f"SELECT expires_at_us FROM holds WHERE order_id != '{good}'")).scalars()
        assert set(due) == {1_031_000_000}


async def test_on_the_wire_a_damaged_row_is_data_loss_with_its_name_and_no_answer_to_a_confirm(
    stub: LoyaltyStub, storage: SqlStorage
) -> None:
    (order_id,) = new_ids(1)
    await storage.execute([put("c-1"), hold(order_id, ttl_us=10**9)])
    damage(storage, "accounts SET tier = 'WOOD'")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.confirm(ConfirmRequest(order_id=order_id, customer_id="c-1", points_redeemed=10, points_earned=9))
    refusal = refusal_of(failed.value)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "RECORD_DAMAGED")
    assert refusal.metadata == {"record": "account", "id": "c-1", "damaged_field": "tier"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_list_goes_on_after_an_account_that_is_damaged_meanwhile(storage: SqlStorage) -> None:
    await storage.execute([put(customer_id) for customer_id in ("c-1", "c-2", "c-3")])
    loyalty = Loyalty(storage, hold_ttl_s=60)
    _, token = await loyalty.accounts(2, "")
    damage(storage, "accounts SET points = 'many' WHERE customer_id = 'c-2'")
    rest, _ = await loyalty.accounts(2, token)
    assert [account.customer_id for account in rest] == ["c-3"]
