"""The contracts of this tree, which those that a test edits are compared with."""

from typing import Any

import pytest
import yaml
from growing.versions import Contracts, of_tree

from tests.growth.edits import OPENAPI


@pytest.fixture(scope="session")
def tree() -> Contracts:
    return of_tree()


@pytest.fixture(scope="session")
def document(tree: Contracts) -> Any:
    """The REST contract, parsed."""
    return yaml.safe_load((tree.openapi.parent / OPENAPI).read_text())
