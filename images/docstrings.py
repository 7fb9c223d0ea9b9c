"""Takes the docstrings out of the modules in a folder: they are for readers of the sources, and a tenth of the layer.

Lines keep their numbers, and asserts stay, which `python -OO` would take away as well.
"""

import ast
import sys
from pathlib import Path

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def without(source: str) -> str:
    """A module whose docstrings are a space each: a class without any would have a dataclass compose one."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
            indentation = lines[first][: docstring.col_offset]
            lines[first:last] = [f'{indentation}" "', *[""] * (last - first - 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path in Path(sys.argv[1]).rglob("*.py"):
        if "migrations" not in path.parts:  # which stay sources
            path.write_text(without(path.read_text()))
