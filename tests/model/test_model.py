"""The rules of the order protocol hold in every small world, and each of them is needed."""

import pytest

from tests.conftest import LONG
from tests.model.explore import every_state, every_state_by_hash, walks
from tests.model.mutations import MOST_STATES, MUTATIONS, SOON, Mutation
from tests.model.rules import Rules
from tests.model.worlds import WALKED, WORLDS

STATES = 500_000 if LONG else 800
WALKS = 200 if LONG else 2


@pytest.mark.parametrize("rules", WORLDS, ids=lambda rules: rules.name)
@pytest.mark.timeout(3600)
def test_the_rules_hold_in_every_state(rules: Rules) -> None:
    found = every_state_by_hash(rules, STATES)
    if found.wrong:  # once more, for the trace
        found = every_state(rules, STATES)
    assert not found.wrong, found.trace
    assert found.complete or found.states >= STATES


@pytest.mark.parametrize("rules", WALKED, ids=lambda rules: rules.name)
@pytest.mark.timeout(3600)
def test_the_rules_hold_on_long_walks(rules: Rules) -> None:
    found = walks(rules, seed=1, count=WALKS)
    assert not found.wrong, found.trace
    assert found.states > WALKS


@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if LONG or each.is_found_soon], ids=lambda mutation: mutation.what
)
@pytest.mark.timeout(3600)
def test_a_rule_that_is_taken_away_is_missed(mutation: Mutation) -> None:
    found = every_state(mutation.rules, MOST_STATES if LONG else SOON)
    if mutation.harmless:
        assert not found.wrong, found.trace
        assert found.complete
    else:
        assert found.wrong
