"""Regular expressions that strangers' bytes meet: none takes a time that grows faster than the text."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]  # there is no other way to see what a pattern repeats
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDERS = sorted([*ROOT.glob("packages/*/src"), ROOT / "contracts" / "src"])
NOT_IMPORTED = {"__main__", "env", "versions"}
"""What runs when it is imported."""


def patterns() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            if NOT_IMPORTED.isdisjoint(parts) and "re.compile" in file.read_text():
                module = ".".join(parts)
                for name, value in vars(import_module(module)).items():
                    if isinstance(value, re.Pattern):
                        text = value.pattern if isinstance(value.pattern, str) else value.pattern.decode("latin-1")
                        yield f"{module}.{name}", text


PATTERNS = dict(patterns())


def nests(node: Any, inside: bool = False) -> bool:
    """Whether something that may be repeated without end has such a thing in it."""
    if isinstance(node, _parser.SubPattern):
        return any(nests(operation, inside) for operation in node.data)
    if isinstance(node, tuple) and node and node[0] in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
        _, (_, most, repeated) = node
        endless = most == _constants.MAXREPEAT
        return (endless and inside) or nests(repeated, inside or endless)
    if isinstance(node, (tuple, list)):
        return any(nests(part, inside) for part in node)
    return False


def test_the_patterns_are_found() -> None:
    assert len(PATTERNS) > 20
    assert {name.partition(".")[0] for name in PATTERNS} >= {"souk_gateway", "souk_orders", "souk_loyalty"}


def test_a_nested_repetition_is_seen() -> None:
    assert nests(_parser.parse(r'(?:[^,"]|"(?:[ !]|\\.)*")+'))
    assert not nests(_parser.parse(r'[^",]+|"(?:[^"]|\\.)*"|(?:a{1,9})+'))


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_repeats_a_repetition_without_end(name: str) -> None:
    assert not nests(_parser.parse(PATTERNS[name])), PATTERNS[name]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_pattern_is_compiled_where_it_is_seen(folder: Path) -> None:
    """A pattern in the middle of a function is found by no other test."""
    assert [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sorted(folder.rglob("*.py"))
        for line in file.read_text().splitlines()
        if re.search(r"\bre\.(sub|match|fullmatch|search|split|findall|finditer)\(", line)
    ] == []
