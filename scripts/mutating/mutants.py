"""The mutants of a module: small changes to its source, each of which a test should notice.

Annotations, decorators, asserts, log calls and texts are left alone: no test need notice a change there.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="), ast.LtE: ("<", ">"), ast.Gt: (">=", "<="), ast.GtE: (">", "<"),
    ast.Eq: ("!=",), ast.NotEq: ("==",), ast.Is: ("is not",), ast.IsNot: ("is",), ast.In: ("not in",),
    ast.NotIn: ("in",),
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//", ast.Pow: "*",
    ast.LShift: ">>", ast.RShift: "<<", ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "&",
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGS = {"log", "access_log"}
_OPERATOR = re.compile(rb"is\s+not|not\s+in|[^\s()\\]+")
_SMALL = 16
"""Of numbers up to this one the neighbour is tried, of larger ones the double."""


@dataclass(frozen=True)
class Mutant:
    """A change of one module."""

    path: str
    """Below the root of the repository."""
    start: int
    """Where the text that changes begins, in bytes, as `end`."""
    end: int
    line: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        """The module's source with this change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda each: (each.start, each.end, each.new))


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        self._lines = [0, *(place.end() for place in re.finditer(b"\n", source))]
        self._functions: list[str] = []
        """Those around the node that is visited."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions.append(node.name)
        self._visit_all([*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body])
        self._functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 (of ast)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._remove_assignment(node, [node.target])
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._remove_assignment(node, node.targets)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if not _is_text(node.value):
            self._replace_operator(node, node.target, node.value, f"{_ARITHMETIC[type(node.op)]}=")
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Says what cannot be otherwise."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text. Besides, Python 3.11 does not know where the expressions in it are."""

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            if _is_log(call):
                return
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._replace(node, "pass")
        elif not isinstance(node.value, ast.Constant) or not isinstance(node.value.value, bool | None):
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self._replace(node.type, "()")
        self._visit_all(node.body)

    def visit_For(self, node: ast.For) -> None:
        self._replace(node.iter, "()")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        names = {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}
        if not names & {"TYPE_CHECKING", "__name__"}:
            self._negate(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            for new in _COMPARISONS[type(operator)]:
                self._replace_operator(node, left, right, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._replace_operator(node, left, right, "or" if isinstance(node.op, ast.And) else "and")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_type = isinstance(node.op, ast.BitOr) and not self._functions
        if type(node.op) in _ARITHMETIC and not is_type and not _is_text(node):
            self._replace_operator(node, node.left, node.right, _ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            start, end = self._span(node)
            text = self._source[start:end].decode()
            self._replace(node, text.removeprefix("not").removeprefix("-").lstrip())
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "TypeVar" or _is_log(node):
            return
        if name in _CALLS:
            self._replace(node.func, _CALLS[name])
        if name == "suppress":
            self._replace(node, "suppress()")
        self._visit_all([node.func, *node.args[name == "cast" :], *(each.value for each in node.keywords)])

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, str(not value))
        elif isinstance(value, int | float):
            self._replace(node, repr(value + 1 if value <= _SMALL and isinstance(value, int) else value * 2 or 1.0))

    def _visit_all(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _remove_assignment(self, node: ast.stmt, targets: Sequence[ast.expr]) -> None:
        """Only of what was there before: without a new name nothing works, as every test would notice."""
        if self._functions[-1:] != ["__init__"] and all(
            isinstance(target, ast.Attribute | ast.Subscript) for target in targets
        ):
            self._replace(node, "pass")

    def _negate(self, condition: ast.expr) -> None:
        """Unless it has an operator of its own to replace."""
        has_operator = isinstance(condition, ast.Compare | ast.BoolOp | ast.Constant) or (
            isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not)
        )
        if not has_operator:
            start, end = self._span(condition)
            self._replace(condition, f"not ({self._source[start:end].decode()})")

    def _replace_operator(self, node: ast.AST, left: ast.AST, right: ast.AST, new: str) -> None:
        """Between two operands, where there may be parentheses and comments, too."""
        start, end = self._span(node)
        after, before = self._span(left)[1], self._span(right)[0]
        gap = re.sub(rb"#.*", lambda comment: b" " * len(comment[0]), self._source[after:before])
        operator = _OPERATOR.search(gap)
        assert operator is not None
        first = self._source[start : after + operator.start()]
        self._replace(node, (first + new.encode() + self._source[after + operator.end() : end]).decode())

    def _replace(self, node: ast.AST, new: str) -> None:
        start, end = self._span(node)
        old = self._source[start:end].decode()
        self.found.append(Mutant(self._path, start, end, self._source.count(b"\n", 0, start) + 1, old, new))

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._lines[node.lineno - 1] + node.col_offset,
            self._lines[node.end_lineno - 1] + node.end_col_offset,
        )


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_log(call: ast.Call) -> bool:
    function = call.func
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _LOGS
