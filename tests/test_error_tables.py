"""Every refusal has its way from a service's domain to the client: both tables know it."""

import importlib

import pytest

from souk_gateway import problems


@pytest.mark.parametrize("service", ["orders", "reservations", "loyalty"])
def test_every_domain_error_of_a_service_has_a_rest_answer(service: str) -> None:
    statuses = importlib.import_module(f"souk_{service}.servicer").STATUSES
    domain = importlib.import_module(f"souk_{service}.domain")
    errors = {
        value
        for value in vars(domain).values()
        if isinstance(value, type) and issubclass(value, domain.DomainError) and value is not domain.DomainError
    }
    assert errors == set(statuses)
    for _code, reason in statuses.values():
        assert reason.name in problems.TABLE
