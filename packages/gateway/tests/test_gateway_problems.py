"""The one table from reasons to REST answers."""

import msgspec
import pytest

from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders import v1 as orders
from souk_contracts.reservations import v1 as reservations
from souk_gateway.problems import BY_NAME, TABLE, kind_of, problem

REASONS = sorted(
    {
        str(reason.name)
        for contract in (loyalty, orders, reservations)
        for reason in contract.ErrorReason
        if reason is not contract.ErrorReason.UNSPECIFIED
    }
)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_the_contracts_is_in_the_table(reason: str) -> None:
    assert 400 <= TABLE[reason].status < 600
    assert (TABLE[reason].status == 500) == (reason == "RECORD_DAMAGED")


@pytest.mark.parametrize("kind", TABLE.values(), ids=lambda kind: kind.reason)
def test_every_kind_has_a_title_and_advice_and_a_page(kind: object) -> None:
    row = msgspec.to_builtins(kind)
    assert row["title"]
    assert row["advice"].endswith(".")
    assert BY_NAME[TABLE[row["reason"]].name] is kind


@pytest.mark.parametrize("kind", TABLE.values(), ids=lambda kind: kind.reason)
def test_whatever_passes_says_when_to_try_again(kind: object) -> None:
    row = msgspec.to_builtins(kind)
    # What has an unknown outcome and would do harm twice is not for a machine to repeat.
    passes = row["reason"] in ("BUSY", "HELD_BY_OTHERS") or (
        row["status"] == 503 and row["reason"] != "OUTCOME_UNKNOWN"
    )
    assert (row["retry_after_s"] is not None) == passes


@pytest.mark.parametrize(
    ("reason", "status", "status_in_path"),
    [
        ("OUT_OF_STOCK", 409, 409),
        ("INSUFFICIENT_POINTS", 409, 409),
        ("REDEEM_EXCEEDS_TOTAL", 422, 422),
        ("UNKNOWN_SKU", 422, 404),
        ("UNKNOWN_CUSTOMER", 422, 404),
        ("UNKNOWN_ORDER", 404, 404),
        ("WRONG_STATUS", 409, 409),
        ("ON_HAND_BELOW_HELD", 409, 409),
        ("ON_HAND_ABOVE_LIMIT", 409, 409),
        ("POINTS_BELOW_HELD", 409, 409),
        ("BUSY", 409, 409),
        ("HELD_BY_OTHERS", 409, 409),
        ("ORDER_LOST", 503, 503),
        ("KEY_REUSED", 422, 422),
        ("SETTLED", 409, 409),
        ("HOLD_EXPIRING", 503, 503),
        ("STORAGE_UNAVAILABLE", 503, 503),
        ("UNAVAILABLE", 503, 503),
        ("INVALID_ARGUMENT", 400, 400),
    ],
)
def test_reasons_have_their_statuses(reason: str, status: int, status_in_path: int) -> None:
    assert problem(TABLE[reason], "", instance="/").status_code == status
    assert problem(TABLE[reason], "", instance="/", in_path=True).status_code == status_in_path


@pytest.mark.parametrize(
    ("category", "status", "status_in_path", "retry_after"),
    [
        ("INVALID_ARGUMENT", 400, 400, None),
        ("OUT_OF_RANGE", 400, 400, None),
        ("NOT_FOUND", 422, 404, None),
        ("FAILED_PRECONDITION", 409, 409, None),
        ("ALREADY_EXISTS", 409, 409, None),
        ("ABORTED", 409, 409, "1"),
        ("", 409, 409, None),
    ],
)
def test_a_reason_of_a_newer_service_follows_its_grpc_status(
    category: str, status: int, status_in_path: int, retry_after: str | None
) -> None:
    kind = kind_of("MOON_TOO_FULL", category)
    answer = problem(kind, "wait", instance="/v1/orders")
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry_after
    assert problem(kind, "wait", instance="/v1/orders", in_path=True).status_code == status_in_path
    assert msgspec.json.decode(bytes(answer.body))["type"] == "/problems/moon-too-full"
    assert msgspec.json.decode(bytes(answer.body))["title"] == "Moon too full"


def test_what_a_problem_is_about_stands_in_members_of_its_own() -> None:
    answer = problem(
        TABLE["OUT_OF_STOCK"],
        "only 1 of 7 is there",
        instance="/v1/orders",
        metadata={"sku": "7", "requested": "2", "available": "1"},
    )
    assert answer.media_type == "application/problem+json"
    assert msgspec.json.decode(bytes(answer.body)) == {
        "type": "/problems/out-of-stock",
        "title": "Out of stock",
        "status": 409,
        "detail": "only 1 of 7 is there",
        "instance": "/v1/orders",
        "sku": "7",
        "requested": 2,
        "available": 1,
    }


def test_metadata_never_takes_the_place_of_a_standard_member() -> None:
    answer = problem(TABLE["WRONG_STATUS"], "it is CANCELLED", instance="/", metadata={"status": "CANCELLED"})
    members = msgspec.json.decode(bytes(answer.body))
    assert members["status"] == 409
    assert members["current_status"] == "CANCELLED"
