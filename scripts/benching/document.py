"""docs/benchmarks.md: the parts of it that are written by a command."""

import os
import platform
from pathlib import Path

from releasing.build import git
from releasing.ledger import ROOT
from skewing.processes import Failed

DOCUMENT = ROOT / "docs/benchmarks.md"
MARK = "<!-- written by ./scripts/bench --write -->\n"
_END = "<!-- end of what is written -->\n"


def machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{os.cpu_count()} processors ({model}), Python {platform.python_version()}"


def write(mark: str, text: str) -> None:
    """Puts what was found in the place of what the document has between a mark and the end of that part."""
    kept, found, old = DOCUMENT.read_text().partition(mark)
    if not found:
        raise Failed(f"{DOCUMENT} has no line {mark.strip()}")
    _, end, rest = old.partition(_END)
    revision = git("describe", "--always", "--dirty").strip()
    DOCUMENT.write_text(f"{kept}{mark}\n{machine()}; revision {revision}.\n\n{text}{end}{rest}")
