"""What is read from headers."""

import asyncio

import httpx
import pytest
from starlette.requests import Request

from souk_gateway.headers import idempotency_key, preferred_wait_s


def request(name: str, *values: str) -> Request:
    return Request({"type": "http", "headers": [(name.encode(), value.encode("latin-1")) for value in values]})


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=2"], 2),
        (["wait=0"], 0),
        (["wait=5"], 5),
        (["wait=6"], 5),
        (["wait=999999999"], 5),
        ([' WAIT = "3" ; of=patience'], 3),
        (["respond-async, wait=1"], 1),
        (["return=minimal", "wait=1"], 1),
        (['quoted="x, wait=4", wait=1'], 1),
        (["wait=1, wait=2"], 1),
        (['quoted="a \\" b, wait=4", wait=1'], 1),
        (['a="b" c, wait=1'], 1),
        ([",,, wait=1"], 1),
    ],
)
def test_a_wait_is_understood_as_preferences_are_written(values: list[str], seconds: int) -> None:
    assert preferred_wait_s(request("prefer", *values)) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", 'wait="1', "wait=x, wait=2", "await=2", '=,;,"'),
        *('a="b, wait=2', 'a="b\\', f"a={'b' * 1000}, wait=2"),
    ],
)
def test_a_wait_that_makes_no_sense_is_ignored(value: str) -> None:
    assert preferred_wait_s(request("prefer", value)) is None


def test_without_preferences_nobody_waits() -> None:
    assert preferred_wait_s(request("accept", "wait=2")) is None


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("a", "a"),
        ('"a"', "a"),
        ("k" * 255, "k" * 255),
        ('"' + "k" * 255 + '"', "k" * 255),
        ('"' + '\\"' * 255 + '"', '"' * 255),
        (r'"\\ and \""', '\\ and "'),
        ('a"b"', 'a"b"'),
        (r"a\b", r"a\b"),
    ],
)
def test_a_key_may_be_quoted_or_bare(value: str, key: str) -> None:
    assert idempotency_key(request("idempotency-key", value)) == key


@pytest.mark.parametrize("value", ['\\"', '"\\"', '"', "\\", ",", '",', "wait=", ";"])
async def test_a_long_preference_holds_up_nobody(client: httpx.AsyncClient, value: str) -> None:
    headers = {"Prefer": '"' + value * (15_000 // len(value))}
    async with asyncio.timeout(30):
        answers = await asyncio.gather(
            *(client.post("/v1/orders", json={}, headers=headers) for _ in range(30)), client.get("/health/live")
        )
    assert [answer.status_code for answer in answers] == [400] * 30 + [200]
