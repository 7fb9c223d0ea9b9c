"""Revisions: names of what a put sets, so that it can say what it was made for. Standard library only.

The same file stands in reservations and loyalty; see docs/adr/0007-new-fields.md.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple


def revision_of(edited: Sequence[object], counted: int) -> str:
    """Another text whenever one of the values is another.

    The number that orders change, too (pieces, points), stands behind the hyphen, since it does not always count.
    """
    digest = hashlib.sha256(json.dumps(edited).encode()).hexdigest()[:16]
    return f"{digest}-{counted}"


class Condition(NamedTuple):
    """What must be so for a put; by default nothing."""

    revisions: tuple[str, ...] = ()
    """It exists, in one of these revisions."""
    must_exist: bool = False
    must_be_new: bool = False
    is_repeat: bool = False
    """An earlier attempt may have been carried out, so that it may also be as the put would make it."""

    def is_met(self, revision: str | None, *, counts: bool) -> bool:
        """Whether it is so for what has this revision, None for what does not exist; `counts` the counted number."""
        if revision is None:
            return not (self.must_exist or self.revisions)
        if self.must_be_new:
            return False
        if counts:
            return not self.revisions or revision in self.revisions
        return not self.revisions or _edited(revision) in map(_edited, self.revisions)


ANY = Condition()


def _edited(revision: str) -> str:
    return revision.partition("-")[0]
