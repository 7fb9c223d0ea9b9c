"""Environment variables without an effect."""

import pytest

from souk_contracts.settings import without_effect

SETTINGS = ["SOUK_ORDERS_DATABASE_URL", "SOUK_DATABASE_URL", "SOUK_HOLD_TTL_S", "SOUK_ORDERS_HOLD_TTL_S", "SOUK_HTTP2"]


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("SOUK_ORDERS_DATABSE_URL", "SOUK_ORDERS_DATABASE_URL"),
        ("SOUK_ORDERS_URL", "SOUK_ORDERS_DATABASE_URL"),
        ("SOUK_HOLD_TTL", "SOUK_HOLD_TTL_S"),
        ("SOUK_HOLDTTL_S", "SOUK_HOLD_TTL_S"),
        ("souk_hold_ttl_s", "SOUK_HOLD_TTL_S"),
        ("SOUK-HOLD-TTL-S", "SOUK_HOLD_TTL_S"),
        ("SOUK_HTTP", "SOUK_HTTP2"),
    ],
)
def test_a_misspelt_setting_is_said_with_the_likely_one(name: str, likely: str) -> None:
    (sentence,) = without_effect({name: "1", "PATH": "/bin"}, "orders", SETTINGS)
    assert sentence == f"{name} has no effect: orders has no setting of that name; did you mean {likely}?"


def test_a_services_own_setting_that_resembles_none_is_said() -> None:
    (sentence,) = without_effect({"SOUK_ORDERS_XYZZY_QUUX_PLUGH_FROBNICATE": "1"}, "orders", SETTINGS)
    assert sentence.endswith("has no setting of that name")


@pytest.mark.parametrize(
    "name",
    [
        *SETTINGS,
        "SOUK_ORDERS_TARGET",  # the gateway's
        "SOUK_RESERVATIONS_DATABASE_URL",
        "SOUK_LOYALTY_HOLD_TTL_S",
        "SOUK_PORT",  # of ./scripts/up
        "SOUK_VENV",
        "PATH",
        "DATABASE_URL",
    ],
)
def test_what_belongs_to_others_is_not(name: str) -> None:
    assert list(without_effect({name: "1"}, "orders", SETTINGS)) == []


@pytest.mark.parametrize("zone", ["Europe/Berlin", ":Asia/Kolkata", "CET-1CEST"])
def test_a_time_zone_is_said_to_have_no_effect(zone: str) -> None:
    assert list(without_effect({"TZ": zone}, "orders", SETTINGS)) == [
        f"TZ={zone} has no effect: the times in this log are UTC"
    ]


@pytest.mark.parametrize("zone", ["", "UTC", "Etc/UTC", ":UTC", "UTC0", "GMT"])
def test_utc_is_not(zone: str) -> None:
    assert list(without_effect({"TZ": zone}, "orders", SETTINGS)) == []
