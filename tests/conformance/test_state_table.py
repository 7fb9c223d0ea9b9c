"""Every cell of the state table that reservations and loyalty share: each call in each state, once and again.

Six of ten are held at first, and what an order says may be something else than what was held for it.
"""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import grpc
import pytest

from tests.conformance.participants import Balance, Participant, State, refusal

TEN, SIX = 10, 6

Path = Callable[[Participant, str, str], Awaitable[None]]


async def _nothing(participant: Participant, order_id: str, account: str) -> None: ...


async def _held(participant: Participant, order_id: str, account: str) -> None:
    await participant.hold(order_id, account, SIX)


async def _confirmed(participant: Participant, order_id: str, account: str) -> None:
    await participant.hold(order_id, account, SIX)
    assert await participant.confirm(order_id, account, SIX) == ""


async def _confirmed_unheld(participant: Participant, order_id: str, account: str) -> None:
    assert await participant.confirm(order_id, account, SIX) == ""


async def _released(participant: Participant, order_id: str, account: str) -> None:
    await participant.release(order_id)


async def _held_and_released(participant: Participant, order_id: str, account: str) -> None:
    await participant.hold(order_id, account, SIX)
    await participant.release(order_id)


async def _confirmed_and_released(participant: Participant, order_id: str, account: str) -> None:
    await _confirmed(participant, order_id, account)
    await participant.release(order_id)


async def _told_no(participant: Participant, order_id: str, account: str) -> None:
    assert await participant.confirm(order_id, account, TEN + 1) == participant.insufficient


async def _held_and_told_no(participant: Participant, order_id: str, account: str) -> None:
    await participant.hold(order_id, account, SIX)
    assert await participant.confirm(order_id, account, TEN + 1) == participant.insufficient


WAYS_TO_CONFIRMED = [_confirmed, _confirmed_unheld]
WAYS_TO_CLOSED = [_released, _held_and_released, _confirmed_and_released, _told_no, _held_and_told_no]


async def stands(participant: Participant, order_id: str, state: State, account: str, balance: Balance) -> None:
    assert await participant.state(order_id) is state
    assert await participant.balance(account) == balance


# No row


async def test_a_hold_sets_aside_and_takes_nothing(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))
    assert await participant.held_for(order_id) == (account, SIX)


async def test_a_hold_of_more_than_is_free_is_refused_and_leaves_no_row(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(str(uuid4()), account, SIX)
    passing, lasting = grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION
    for amount, code, reason in [
        (5, passing, "HELD_BY_OTHERS"),
        (TEN, passing, "HELD_BY_OTHERS"),
        (TEN + 1, lasting, participant.insufficient),
    ]:
        no = await refusal(participant.hold(order_id, account, amount))
        assert (no.code, no.domain, no.reason) == (code, participant.domain, reason)
        assert no.metadata == {participant.account_field: account, "requested": str(amount), "available": "4"}
    await stands(participant, order_id, State.NONE, account, Balance(TEN, SIX))


async def test_a_hold_on_what_does_not_exist_is_refused_and_leaves_no_row(participant: Participant) -> None:
    unknown, order_id = f"unknown-{uuid4().hex[:12]}", str(uuid4())
    no = await refusal(participant.hold(order_id, unknown, 1))
    assert (no.code, no.domain, no.reason) == (
        grpc.StatusCode.NOT_FOUND,
        participant.domain,
        participant.unknown_account,
    )
    assert no.metadata == {participant.account_field: unknown}
    assert await participant.state(order_id) is State.NONE


async def test_a_refused_hold_may_be_placed_again(participant: Participant) -> None:
    account, order_id = await participant.account(5), str(uuid4())
    await refusal(participant.hold(order_id, account, SIX))
    await participant.put(account, TEN)
    await participant.hold(order_id, account, SIX)
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))


async def test_a_confirm_without_a_hold_takes_what_the_order_says(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    assert await participant.confirm(order_id, account, SIX) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(4, 0))


async def test_a_confirm_without_a_hold_takes_nothing_that_is_held_for_others(participant: Participant) -> None:
    account, order_id, other = await participant.account(TEN), str(uuid4()), str(uuid4())
    await participant.hold(other, account, SIX)
    assert await participant.confirm(order_id, account, 5) == participant.insufficient
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, SIX))
    assert await participant.state(other) is State.HELD


async def test_a_confirm_of_what_does_not_exist_is_told_no_for_ever(participant: Participant) -> None:
    unknown, order_id = f"unknown-{uuid4().hex[:12]}", str(uuid4())
    assert await participant.confirm(order_id, unknown, 1) == participant.unknown_account
    assert await participant.state(order_id) is State.CLOSED


async def test_a_release_that_comes_before_anything_shuts_the_door(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.release(order_id)
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))
    assert await participant.confirm(order_id, account, SIX) == "SETTLED"
    assert (await refusal(participant.hold(order_id, account, SIX))).reason == "SETTLED"
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))


# HELD


async def test_the_same_hold_again_gives_the_same_quote_and_its_time_starts_anew(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    first = await participant.hold(order_id, account, SIX)
    again = await participant.hold(order_id, account, SIX)
    assert again.content == first.content
    assert again.expires_at_us > first.expires_at_us
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))


@pytest.mark.parametrize("amount", [1, 5, 7, TEN + 1])
async def test_a_hold_with_other_content_is_busy_and_changes_nothing(participant: Participant, amount: int) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    no = await refusal(participant.hold(order_id, account, amount))
    assert (no.code, no.domain, no.reason) == (grpc.StatusCode.ABORTED, participant.domain, "BUSY")
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))


async def test_a_hold_of_something_else_is_busy_and_changes_nothing(participant: Participant) -> None:
    account, other, order_id = await participant.account(TEN), await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    assert (await refusal(participant.hold(order_id, other, SIX))).reason == "BUSY"
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))
    assert await participant.balance(other) == Balance(TEN, 0)


@pytest.mark.parametrize("amount", [1, SIX, 7, TEN])
async def test_a_confirm_takes_exactly_what_the_order_says_whatever_was_held(
    participant: Participant, amount: int
) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    assert await participant.confirm(order_id, account, amount) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN - amount, 0))
    assert await participant.held_for(order_id) == (account, amount)


async def test_a_confirm_takes_from_where_the_order_says_and_lets_the_hold_go(participant: Participant) -> None:
    account, other, order_id = await participant.account(TEN), await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    assert await participant.confirm(order_id, other, 3) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN, 0))
    assert await participant.balance(other) == Balance(TEN - 3, 0)


async def test_a_live_hold_of_what_the_order_says_is_never_refused(participant: Participant) -> None:
    account, order_id = await participant.account(SIX), str(uuid4())
    await participant.hold(order_id, account, SIX)
    for _ in range(3):
        assert (await refusal(participant.hold(str(uuid4()), account, 1))).reason == "HELD_BY_OTHERS"
        assert await participant.confirm(str(uuid4()), account, 1) == participant.insufficient
    assert await participant.confirm(order_id, account, SIX) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(0, 0))


async def test_a_confirm_of_more_than_there_is_drops_the_hold_and_is_told_no(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    assert await participant.confirm(order_id, account, TEN + 1) == participant.insufficient
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))


async def test_a_release_gives_a_hold_back(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    await participant.release(order_id)
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))


async def test_what_is_held_cannot_be_put_away(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    no = await refusal(participant.put(account, 5))
    assert (no.code, no.domain, no.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        participant.domain,
        participant.below_held,
    )
    assert no.metadata == {participant.account_field: account, "held": str(SIX)}
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))
    await participant.put(account, SIX)
    await stands(participant, order_id, State.HELD, account, Balance(SIX, SIX))


# CONFIRMED


@pytest.mark.parametrize("way", WAYS_TO_CONFIRMED)
async def test_what_is_confirmed_is_confirmed_once(participant: Participant, way: Path) -> None:
    account, other, order_id = await participant.account(TEN), await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    for amount in (SIX, 1, TEN + 1):
        assert await participant.confirm(order_id, account, amount) == ""
    assert await participant.confirm(order_id, other, 2) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN - SIX, 0))
    assert await participant.balance(other) == Balance(TEN, 0)
    assert await participant.held_for(order_id) == (account, SIX)


@pytest.mark.parametrize("way", WAYS_TO_CONFIRMED)
async def test_what_is_confirmed_cannot_be_held_again(participant: Participant, way: Path) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    for amount in (SIX, 1):
        no = await refusal(participant.hold(order_id, account, amount))
        assert (no.code, no.domain, no.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            participant.domain,
            "SETTLED",
        )
    await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN - SIX, 0))


@pytest.mark.parametrize("way", WAYS_TO_CONFIRMED)
async def test_what_was_confirmed_is_given_back_once(participant: Participant, way: Path) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    for _ in range(3):
        await participant.release(order_id)
        await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))


# CLOSED


@pytest.mark.parametrize("way", WAYS_TO_CLOSED)
async def test_what_is_closed_stays_closed(participant: Participant, way: Path) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))
    for amount in (SIX, 1):
        assert await participant.confirm(order_id, account, amount) == "SETTLED"
        no = await refusal(participant.hold(order_id, account, amount))
        assert (no.code, no.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SETTLED")
        await participant.release(order_id)
    await stands(participant, order_id, State.CLOSED, account, Balance(TEN, 0))


# Forgotten


async def test_what_never_was_can_be_forgotten(participant: Participant) -> None:
    order_id = str(uuid4())
    assert await participant.forget(order_id) == set()
    assert await participant.state(order_id) is State.NONE


async def test_a_hold_is_not_forgotten(participant: Participant) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await participant.hold(order_id, account, SIX)
    for _ in range(2):
        assert await participant.forget(order_id) == {order_id}
        await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))
    assert await participant.confirm(order_id, account, SIX) == ""


@pytest.mark.parametrize("way", WAYS_TO_CONFIRMED)
async def test_what_is_confirmed_is_not_forgotten(participant: Participant, way: Path) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    for _ in range(2):
        assert await participant.forget(order_id) == {order_id}
        await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN - SIX, 0))
        assert await participant.held_for(order_id) == (account, SIX)


@pytest.mark.parametrize("way", WAYS_TO_CLOSED)
async def test_what_is_closed_is_forgotten_and_its_id_may_be_used_anew(participant: Participant, way: Path) -> None:
    account, order_id = await participant.account(TEN), str(uuid4())
    await way(participant, order_id, account)
    for _ in range(2):
        assert await participant.forget(order_id) == set()
        await stands(participant, order_id, State.NONE, account, Balance(TEN, 0))
    await participant.hold(order_id, account, SIX)
    await stands(participant, order_id, State.HELD, account, Balance(TEN, SIX))
    assert await participant.confirm(order_id, account, SIX) == ""
    await stands(participant, order_id, State.CONFIRMED, account, Balance(TEN - SIX, 0))


async def test_many_are_forgotten_in_one_call_and_those_that_stay_are_named(participant: Participant) -> None:
    account, ids = await participant.account(1000), [str(uuid4()) for _ in range(1000)]
    held, confirmed, closed, *_ = ids
    await participant.hold(held, account, 1)
    assert await participant.confirm(confirmed, account, 2) == ""
    await participant.release(closed)
    assert await participant.forget(*ids) == {held, confirmed}
    assert [await participant.state(each) for each in ids[:3]] == [State.HELD, State.CONFIRMED, State.NONE]
    assert await participant.balance(account) == Balance(998, 1)


async def test_nothing_at_all_may_be_forgotten_to_see_whether_one_can(participant: Participant) -> None:
    assert await participant.forget() == set()


@pytest.mark.parametrize("wrong", [["order-1"], [str(uuid4()) for _ in range(1000)]], ids=["no UUID", "too many"])
async def test_a_call_that_cannot_be_meant_forgets_nothing(participant: Participant, wrong: list[str]) -> None:
    closed = str(uuid4())
    await participant.release(closed)
    no = await refusal(participant.forget(closed, *wrong))
    assert (no.code, no.domain, no.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        participant.domain,
        "INVALID_ARGUMENT",
    )
    assert await participant.state(closed) is State.CLOSED


# What cannot be meant


@pytest.mark.parametrize(
    "order_id", ["", "order-1", "FDA4381D-00EF-44BE-AC33-E002E16638B9", "2cf77c3270b2443b97197298714eece2"]
)
async def test_an_order_id_that_is_no_uuid_is_refused_by_name(participant: Participant, order_id: str) -> None:
    account = await participant.account(TEN)
    calls = (
        participant.hold(order_id, account, 1),
        participant.confirm(order_id, account, 1),
        participant.release(order_id),
        participant.held_for(order_id),
    )
    for call in calls:
        no = await refusal(call)
        assert (no.code, no.domain, no.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            participant.domain,
            "INVALID_ARGUMENT",
        )
        assert no.metadata == {"field": "order_id"}
    assert await participant.balance(account) == Balance(TEN, 0)


async def test_what_nobody_reserved_is_not_found(participant: Participant) -> None:
    assert await participant.state(str(uuid4())) is State.NONE
