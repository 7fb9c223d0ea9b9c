"""What became of mutants: printed, kept in a file, and summed up."""

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mutating.mutants import Mutant

VERDICTS = ("killed", "timeout", "survived")
_WIDTH = 70
_AROUND = 30


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    seed: int
    id: str
    """Of this change to this source: not of the tests."""
    module: str
    path: str
    line: int
    old: str
    new: str
    verdict: str
    seconds: float
    diff: str


def identify(mutant: Mutant, source: bytes) -> str:
    """A short name that no other mutant has."""
    return hashlib.sha256(mutant.path.encode() + b"\n" + mutant.apply(source)).hexdigest()[:16]


def read(file: Path, seed: int) -> dict[str, Result]:
    """The results of this seed that a file has, by mutant. A last line that was cut off does not count."""
    found = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if result.seed == seed:
            found[result.id] = result
    return found


def append(file: Path, result: Result) -> None:
    """One line of JSON."""
    with file.open("a+") as opened:
        opened.seek(0)
        cut_off = opened.read()[-1:] not in ("", "\n")
        opened.write("\n" * cut_off + json.dumps(asdict(result)) + "\n")


def as_line(result: Result) -> str:
    """The result, on one line."""
    old, new = _shortened(_flat(result.old), _flat(result.new))
    return f"{result.verdict:8} {result.path}:{result.line}  {old} -> {new}"


def diff(mutant: Mutant, source: bytes) -> str:
    """The change, with the lines around it."""
    old, new = source.decode().splitlines(), mutant.apply(source).decode().splitlines()
    return "\n".join(difflib.unified_diff(old, new, mutant.path, mutant.path, n=2, lineterm=""))


def summary(results: Iterable[Result]) -> Iterator[str]:
    """The numbers of each module, and the survivors as diffs."""
    found = sorted(results, key=lambda each: (each.path, each.line))
    counts = Counter((name, each.verdict) for each in found for name in (each.module, "all"))
    names = [*dict.fromkeys(each.module for each in found), "all"]
    width = max(map(len, names))
    yield f"{'':{width}}" + "".join(f"{verdict:>10}" for verdict in VERDICTS)
    for name in names:
        yield f"{name:{width}}" + "".join(f"{counts[name, verdict]:10}" for verdict in VERDICTS)
    for result in found:
        if result.verdict == "survived":
            yield f"\n{result.diff}"


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _shortened(old: str, new: str) -> tuple[str, str]:
    """Both, where they are long around what differs only."""
    before = next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    cut = max(before - _AROUND, 0) if max(len(old), len(new)) > _WIDTH else 0
    return _cut(old, cut), _cut(new, cut)


def _cut(text: str, start: int) -> str:
    end = start + _WIDTH
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
