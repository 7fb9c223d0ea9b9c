"""Exceptions excuse exactly what they name, and stay only as long as there is something to excuse."""

from pathlib import Path

import pytest
from growing import exceptions
from growing.findings import CannotCheck, Finding
from growing.schemas import not_within

NARROWING = exceptions.Narrowing("REQUEST_LIMIT", "^[a-z]+$", "^[a-y]+$", "Security: z.")


def finding(
    rule: str = "REQUEST_LIMIT", old: str = "^[a-z]+$", new: str = "^[a-y]+$", place: str = "/paths"
) -> Finding:
    return Finding(rule, place, not_within(old, new))


def test_a_change_is_excused_wherever_it_stands() -> None:
    assert exceptions.unexcused([finding(place="/paths/a"), finding(place="/paths/b")], [NARROWING]) == []


@pytest.mark.parametrize(
    "other",
    [finding(new="^[a-x]+$"), finding(old="^.+$"), finding("RESPONSE_LIMIT"), finding("REQUEST_TYPE")],
)
def test_nothing_else_is_excused(other: Finding) -> None:
    assert exceptions.unexcused([finding(), other], [NARROWING]) == [other]


def test_an_exception_that_excuses_nothing_has_to_go() -> None:
    with pytest.raises(CannotCheck, match="remove this exception"):
        exceptions.unexcused([finding(new="^[a-x]+$")], [NARROWING])


@pytest.mark.parametrize(
    ("rule", "reason"),
    [("RESPONSE_LIMIT", "Security: s."), ("REQUEST_PROPERTY_REMOVED", "Truth: t."), ("REQUEST_LIMIT", "It is tidier.")],
)
def test_other_rules_and_other_reasons_have_no_exceptions(tmp_path: Path, rule: str, reason: str) -> None:
    path = tmp_path / "exceptions.toml"
    path.write_text(f'[[exception]]\nrule = "{rule}"\nold = "a"\nnew = "b"\nreason = "{reason}"\n')
    with pytest.raises(CannotCheck):
        exceptions.listed(path)


def test_the_list_can_be_read() -> None:
    assert exceptions.listed()
