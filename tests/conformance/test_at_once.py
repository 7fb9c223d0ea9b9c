"""Twenty calls at once: whatever their order, the outcome is that of some order of one after another."""

import asyncio
from collections import Counter
from uuid import uuid4

import grpc

from souk_contracts.errors import refusal_of
from tests.conformance.participants import Balance, Participant, State

TWENTY = 20


async def held_or_refused(participant: Participant, order_id: str, account: str, amount: int) -> str:
    try:
        await participant.hold(order_id, account, amount)
    except grpc.aio.AioRpcError as error:
        refused = refusal_of(error)
        return refused.reason if refused is not None else error.code().name
    return "HELD"


async def test_of_twenty_orders_at_once_as_many_get_a_hold_as_there_is_to_hold(participant: Participant) -> None:
    account, orders = await participant.account(7), [str(uuid4()) for _ in range(TWENTY)]
    answers = await asyncio.gather(*(held_or_refused(participant, order, account, 1) for order in orders))
    assert Counter(answers) == {"HELD": 7, "HELD_BY_OTHERS": TWENTY - 7}
    assert await participant.balance(account) == Balance(7, 7)


async def test_of_twenty_orders_at_once_as_many_are_confirmed_as_there_is_to_take(participant: Participant) -> None:
    account, orders = await participant.account(7), [str(uuid4()) for _ in range(TWENTY)]
    answers = await asyncio.gather(*(participant.confirm(order, account, 1) for order in orders))
    assert Counter(answers) == {"": 7, participant.insufficient: TWENTY - 7}
    assert await participant.balance(account) == Balance(0, 0)


async def test_twenty_holds_of_one_order_are_one_hold(participant: Participant) -> None:
    account, order_id = await participant.account(10), str(uuid4())
    quotes = await asyncio.gather(*(participant.hold(order_id, account, 6) for _ in range(TWENTY)))
    assert all(quote.content == quotes[0].content for quote in quotes)
    assert await participant.balance(account) == Balance(10, 6)


async def test_of_twenty_holds_with_different_content_one_wins_and_the_others_are_busy(
    participant: Participant,
) -> None:
    account, order_id = await participant.account(100), str(uuid4())
    amounts = range(1, TWENTY + 1)
    answers = await asyncio.gather(*(held_or_refused(participant, order_id, account, amount) for amount in amounts))
    assert Counter(answers) == {"HELD": 1, "BUSY": TWENTY - 1}
    assert await participant.balance(account) == Balance(100, 1 + answers.index("HELD"))


async def test_twenty_confirms_of_one_order_take_once(participant: Participant) -> None:
    account, order_id = await participant.account(10), str(uuid4())
    await participant.hold(order_id, account, 6)
    answers = await asyncio.gather(*(participant.confirm(order_id, account, 6) for _ in range(TWENTY)))
    assert set(answers) == {""}
    assert await participant.balance(account) == Balance(4, 0)


async def test_twenty_releases_of_one_order_give_back_once(participant: Participant) -> None:
    account, order_id = await participant.account(10), str(uuid4())
    assert await participant.confirm(order_id, account, 6) == ""
    await asyncio.gather(*(participant.release(order_id) for _ in range(TWENTY)))
    assert await participant.balance(account) == Balance(10, 0)


async def test_whatever_meets_a_release_it_ends_closed_with_everything_back(participant: Participant) -> None:
    account, orders = await participant.account(1000), [str(uuid4()) for _ in range(TWENTY)]
    calls = [
        call
        for order in orders
        for call in (
            held_or_refused(participant, order, account, 6),
            participant.confirm(order, account, 6),
            participant.release(order),
            participant.confirm(order, account, 5),
        )
    ]
    await asyncio.gather(*calls)
    assert {await participant.state(order) for order in orders} == {State.CLOSED}
    assert await participant.balance(account) == Balance(1000, 0)


async def test_what_is_forgotten_and_held_anew_at_once_is_held_once_or_not_at_all(participant: Participant) -> None:
    for _ in range(5):
        account, order_id = await participant.account(10), str(uuid4())
        await participant.release(order_id)
        forgets = [participant.forget(order_id) for _ in range(TWENTY)]
        holds = [held_or_refused(participant, order_id, account, 6) for _ in range(TWENTY)]
        _, answers = await asyncio.gather(asyncio.gather(*forgets), asyncio.gather(*holds))
        assert {*answers} <= {"HELD", "SETTLED"}
        state = State.HELD if "HELD" in answers else State.NONE
        assert await participant.state(order_id) is state
        assert await participant.balance(account) == Balance(10, 6 if state is State.HELD else 0)
