"""Changes that break a rule and are right all the same: a short list, each with its reason."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from growing.findings import CannotCheck, Finding
from growing.schemas import not_within

LIST = Path(__file__).with_name("exceptions.toml")
RULES = frozenset({"REQUEST_LIMIT"})
"""What there may be exceptions to. Nothing else: a removal or another type is never a fix."""
GROUNDS = ("Security: ", "Truth: ")


@dataclass(frozen=True)
class Narrowing:
    """A limit of a request that became narrower, wherever it stands."""

    rule: str
    old: str
    new: str
    reason: str

    def excuses(self, finding: Finding) -> bool:
        """Whether the finding is of this very change, and no further one."""
        return finding.rule == self.rule and finding.text == not_within(self.old, self.new)


def listed(path: Path = LIST) -> list[Narrowing]:
    """Those of a file. Raises CannotCheck."""
    found = [Narrowing(**entry) for entry in tomllib.loads(path.read_text())["exception"]]
    for each in found:
        if each.rule not in RULES:
            raise CannotCheck(f"{path.name} has an exception to {each.rule}; there may be none but to REQUEST_LIMIT")
        if not each.reason.startswith(GROUNDS):
            raise CannotCheck(f"{path.name}: the reason for '{each.new}' begins neither with Security: nor with Truth:")
    return found


def unexcused(findings: Iterable[Finding], exceptions: Iterable[Narrowing]) -> list[Finding]:
    """The findings that no exception is for. Raises CannotCheck for an exception that is for none of them."""
    findings = list(findings)
    for each in exceptions:
        if not any(each.excuses(finding) for finding in findings):
            raise CannotCheck(f"no release is narrowed from '{each.old}' to '{each.new}'; remove this exception")
    return [finding for finding in findings if not any(each.excuses(finding) for each in exceptions)]
