"""Edits of the contracts, as tables of tests hold them."""

import copy
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

from growing.versions import Contracts, of_tree

from tests.conftest import ROOT

ORDERS = "proto/souk/orders/v1/orders.proto"
RESERVATIONS = "proto/souk/reservations/v1/reservations.proto"
LOYALTY = "proto/souk/loyalty/v1/loyalty.proto"
CODEC = "generator/codec.py"
OPENAPI = "openapi/gateway.v1.yaml"


@dataclass(frozen=True)
class TextEdit:
    """Puts one text in the place of another, everywhere in a file."""

    file: str
    """Below `contracts`."""
    before: str
    after: str

    def apply(self, contracts: Path) -> None:
        """Changes the file; fails where there is nothing to change."""
        path = contracts / self.file
        text = path.read_text()
        assert self.before in text, f"{self.file} has no {self.before!r} any more: adapt this edit"
        path.write_text(text.replace(self.before, self.after))


class Gone:
    """Says that something is to be deleted."""


GONE = Gone()


@dataclass(frozen=True)
class DocumentEdit:
    """Sets or deletes what stands at a place of the OpenAPI document."""

    place: Sequence[str | int]
    value: object

    def apply(self, document: Any) -> Any:
        """An edited copy; fails where there is no such place, or nothing to delete."""
        edited = copy.deepcopy(document)
        target = edited
        for part in self.place[:-1]:
            target = target[part]
        if self.value is GONE:
            del target[self.place[-1]]
        else:
            assert not isinstance(target, dict) or target.get(self.place[-1], GONE) != self.value
            target[self.place[-1]] = self.value
        return edited


_GENERATE = """
from pathlib import Path
from generator import generate
generate(Path("proto"), Path("openapi"), Path("src/souk_contracts"))
"""


def edited_copy(folder: Path, edits: Iterable[TextEdit], *, generated: bool = False) -> Contracts:
    """A copy of this tree's contracts with edits; where asked for, with the code that is generated from it."""
    contracts = folder / "contracts"
    copytree(ROOT / "contracts", contracts, ignore=ignore_patterns("__pycache__", "tests", "*.md"))
    for edit in edits:
        edit.apply(contracts)
    if generated:
        subprocess.run([sys.executable, "-c", _GENERATE], cwd=contracts, check=True)
    return of_tree(contracts, "the edited copy")
