"""Settings that are misspelt."""

import pytest

from souk_contracts.settings import misspelt

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
    (sentence,) = misspelt([name, "PATH"], "orders", SETTINGS)
    assert sentence == f"{name} has no effect: orders has no setting of that name; did you mean {likely}?"


def test_a_services_own_setting_that_resembles_none_is_said() -> None:
    (sentence,) = misspelt(["SOUK_ORDERS_XYZZY_QUUX_PLUGH_FROBNICATE"], "orders", SETTINGS)
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
    assert list(misspelt([name], "orders", SETTINGS)) == []
