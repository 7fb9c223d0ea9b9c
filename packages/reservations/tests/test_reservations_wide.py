"""Answers as long as the contract allows, many of them at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from souk_contracts.carrier import Answer
from souk_contracts.errors import refusal_of
from souk_contracts.reservations.v1 import (
    Line,
    ListItemsRequest,
    PutItemRequest,
    ReservationsStub,
    ReserveRequest,
)

Request = TypeVar("Request")
Response = TypeVar("Response")

WIDE = "\U0001f375"
"""A character of four bytes."""
IDS = [f"00000000-0000-4000-8000-{number:012}" for number in range(200)]


def skus(count: int) -> list[str]:
    return [f"{number:0>64}" for number in range(count)]


async def answered(
    call: Callable[[Sequence[Request]], Awaitable[Sequence[Answer[Response]]]], requests: Sequence[Request]
) -> list[Response]:
    """The answers to all requests; again to those that a busy machine has turned away."""
    answers: dict[int, Response] = {}
    async with asyncio.timeout(200):
        while left := [place for place in range(len(requests)) if place not in answers]:
            for place, answer in zip(left, await call([requests[each] for each in left]), strict=True):
                if isinstance(answer.result, Exception):
                    assert isinstance(answer.result, grpc.aio.AioRpcError)
                    refusal = refusal_of(answer.result)  # none where a message is too long
                    assert refusal is not None, answer.result
                    assert refusal.reason == "OVERLOADED"
                else:
                    answers[place] = answer.result
    return [answers[place] for place in range(len(requests))]


async def put(stub: ReservationsStub, count: int, description: str | None) -> None:
    requests = [
        PutItemRequest(sku=sku, name=WIDE * 200, unit_price=1, on_hand=1_000_000, description=description)
        for sku in skus(count)
    ]
    await answered(lambda some: stub.put_item_all(some, timeout_s=60), requests)


async def test_two_hundred_orders_of_a_hundred_lines_with_long_names_are_reserved_at_the_same_time(
    stub: ReservationsStub,
) -> None:
    await put(stub, 100, None)
    lines = [Line(sku=sku, quantity=1) for sku in skus(100)]
    requests = [ReserveRequest(order_id=each, lines=lines) for each in IDS]
    answers = await answered(lambda some: stub.reserve_all(some, timeout_s=60), requests)
    assert [len(answer.lines) for answer in answers] == [100] * 200


async def test_several_pages_of_the_widest_rows_are_read_at_the_same_time(stub: ReservationsStub) -> None:
    await put(stub, 500, WIDE * 1600)
    requests = [ListItemsRequest(page_size=500)] * 4
    for answer in await answered(lambda some: stub.list_items_all(some, timeout_s=60), requests):
        assert [item.sku for item in answer.items] == skus(500)
        assert answer.next_page_token == ""
