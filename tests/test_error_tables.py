"""Every refusal has its way from a service's domain to the client: both tables know it."""

import importlib

import pytest

from souk_contracts.errors import row_of
from souk_gateway import problems


def descendants(family: type[Exception]) -> set[type[Exception]]:
    """Its subclasses, and theirs."""
    return {each for child in family.__subclasses__() for each in (child, *descendants(child))}


@pytest.mark.parametrize("service", ["orders", "reservations", "loyalty"])
def test_every_domain_error_of_a_service_has_a_rest_answer(service: str) -> None:
    statuses = importlib.import_module(f"souk_{service}.servicer").STATUSES
    domain = importlib.import_module(f"souk_{service}.domain")
    errors = {each for each in descendants(domain.DomainError) if each.__module__.startswith("souk_")}
    for error in errors:
        assert row_of(statuses, error.__new__(error))
    assert set(statuses) <= errors
    for _code, reason in statuses.values():
        assert reason.name in problems.TABLE


def test_an_error_without_a_row_has_that_of_the_nearest_of_its_bases() -> None:
    class Own(LookupError):
        pass

    class Nearer(Own, ValueError):
        pass

    table: dict[type[Exception], int] = {LookupError: 1, Exception: 2, ValueError: 3}
    assert [row_of(table, error) for error in (Own(), Nearer(), ValueError(), OSError())] == [1, 1, 3, 2]
    with pytest.raises(KeyError, match="OSError has no row"):
        row_of({LookupError: 1}, OSError())


@pytest.mark.parametrize("service", ["orders", "reservations", "loyalty"])
def test_a_kind_of_refusal_that_the_service_does_not_name_yet_is_refused_as_what_it_is_a_kind_of(service: str) -> None:
    servicer = importlib.import_module(f"souk_{service}.servicer")
    domain = importlib.import_module(f"souk_{service}.domain")
    narrower = type("Narrower", (domain.InvalidArgument,), {"__module__": __name__})("sku", "is not one")
    refused = servicer._refused(narrower)
    assert (refused.code.name, refused.reason, refused.detail) == ("INVALID_ARGUMENT",) * 2 + ("sku is not one",)
