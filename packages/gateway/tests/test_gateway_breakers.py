"""Breakers: when they open, whom they let through, and when they close."""

import logging

import pytest

from souk_gateway.breakers import Breaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """With the longest of its pauses, a second."""
    return Breaker("loyalty", clock, jitter=lambda: 1.0)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_ten_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, 9)
    assert breaker.allows()
    assert not breaker.is_open()
    breaker.failed()
    assert breaker.is_open()
    assert not breaker.allows()


def test_calls_that_fail_together_as_a_batch_count_once(breaker: Breaker) -> None:
    for batch in (object() for _ in range(9)):
        for _ in range(128):
            breaker.failed(batch)
    assert not breaker.is_open()
    breaker.failed(object())
    assert breaker.is_open()


def test_batches_that_fail_in_turn_count_once_each(breaker: Breaker) -> None:
    batches = [object() for _ in range(9)]
    for batch in batches * 128:
        breaker.failed(batch)
    assert not breaker.is_open()
    breaker.succeeded()
    for batch in batches:  # anew
        breaker.failed(batch)
    breaker.failed()
    assert breaker.is_open()


def test_the_rest_of_the_batch_that_opened_it_does_not_make_its_pause_longer(breaker: Breaker, clock: Clock) -> None:
    *_, last = batches = [object() for _ in range(10)]
    for batch in batches:
        breaker.failed(batch)
    clock.now_s += 0.9
    breaker.failed(last)
    clock.now_s += 0.2
    assert breaker.allows()


def test_an_answer_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    fail(breaker, 9)
    breaker.succeeded()
    fail(breaker, 9)
    assert breaker.allows()


def test_one_probe_at_a_time_is_let_through_after_a_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 10)
    clock.now_s = 0.999
    assert not breaker.allows()
    clock.now_s = 1.0
    assert not breaker.is_open()
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    assert breaker.is_open()


def test_a_probe_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 10)
    clock.now_s = 1.0
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    clock.now_s = 2.0
    assert breaker.allows()


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 10)
    clock.now_s = 1.0
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(3))
    fail(breaker, 9)
    assert breaker.allows()


def test_a_probe_that_tells_nothing_makes_way_for_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 10)
    clock.now_s = 1.0
    assert breaker.allows()
    breaker.gave_up()
    assert breaker.allows()


def test_jitter_shortens_a_pause_by_up_to_a_half(clock: Clock) -> None:
    breaker = Breaker("loyalty", clock, jitter=lambda: 0.0)
    fail(breaker, 10)
    clock.now_s = 0.5
    assert breaker.allows()


def test_an_outage_is_told_in_three_lines_however_long_it_is(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fail(breaker, 30)  # those that were under way, too
    for second in range(1, 10):
        clock.now_s = second
        assert breaker.allows()
        breaker.failed()
    breaker.succeeded()
    breaker.succeeded()
    assert caplog.messages == [
        "loyalty failed to answer 10 calls in a row; its calls pause for a moment",
        "trying loyalty again, one call at a time",
        "loyalty answers again",
    ]
