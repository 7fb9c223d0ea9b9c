"""What processes have used, as Linux counts it; see proc(5)."""

import os
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1_000_000


def cpu_s(pid: int) -> float:
    """Processor time of a process, and of its children that run or have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICKS  # utime, stime, cutime, cstime
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, and counts as its parent's
            own += cpu_s(int(child))
    return own


def rss_mb(pid: int) -> float:
    """Its resident set, in megabytes of 10⁶ bytes."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE
