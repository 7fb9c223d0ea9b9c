"""Takes out of the modules in a folder what is for readers of the sources only, and a sixth of the layer.

That is docstrings, and what functions say of the types of their parameters and answers. Lines keep their numbers, and
asserts stay, which `python -OO` would take away as well.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def without(source: str) -> str:
    """A module whose docstrings are a space each: a class without any would have a dataclass compose one."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
            indentation = lines[first][: docstring.col_offset]
            lines[first:last] = [f'{indentation}" "', *[""] * (last - first - 1)]
    return untyped("\n".join(lines) + "\n")


def untyped(source: str) -> str:
    """A module whose functions name no types. Classes do: theirs are read by dataclasses and the like."""
    lines = [line.encode() for line in source.splitlines()]  # columns are those of bytes
    # From the last to the first, so that what is in front of each keeps its place.
    for line, start, end in sorted(types(ast.parse(source), lines), reverse=True):
        lines[line] = lines[line][:start] + lines[line][end:]
    return b"\n".join(lines).decode() + "\n"


def types(module: ast.Module, lines: list[bytes]) -> Iterator[tuple[int, int, int]]:
    """The line, from 0, and the columns of each type; not of those that go over several lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.arg) and (kind := node.annotation) is not None:
            if node.lineno == kind.end_lineno:
                yield node.lineno - 1, node.col_offset + len(node.arg.encode()), kind.end_col_offset or 0
        elif isinstance(node, FUNCTION) and (kind := node.returns) is not None and kind.lineno == kind.end_lineno:
            arrow = lines[kind.lineno - 1].rfind(b"->", 0, kind.col_offset)
            if arrow >= 0:
                yield kind.lineno - 1, arrow, kind.end_col_offset or 0


if __name__ == "__main__":
    for path in Path(sys.argv[1]).rglob("*.py"):
        if "migrations" not in path.parts:  # which stay sources
            path.write_text(without(path.read_text()))
