"""Puts that undo nothing: they leave alone what they do not name, and take effect only if their conditions are met.

An item's pieces on hand and a customer's points are changed by orders, too. A put that sets one of them replaces
whatever orders made of it, so such a put is never simply repeated. See docs/adr/0007-new-fields.md.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request

from souk_gateway.errors import Rejected, Unavailable, invalid, quoted

Kept = TypeVar("Kept")

MAX_TAGS = 16
_TAG = re.compile(r'[ \t]*(W/)?"([!#-~]*)"[ \t]*(?:,|\Z)')
_REVISION = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class Edit:
    """What a put does to the pieces or points (None leaves them alone), and what must be so beforehand."""

    number: int | None
    revisions: Sequence[str] = ()
    """It must exist in one of these; empty for no such condition."""
    must_exist: bool = False
    must_be_new: bool = False
    is_repeat: bool = False

    @property
    def is_conditional(self) -> bool:
        return self.must_exist or self.must_be_new or bool(self.revisions)


def entity_tag(revision: str) -> dict[str, str]:
    """The header that names a revision; none for a service before 1.2, which has no revisions."""
    return {"ETag": f'"{revision}"'} if revision else {}


def edit_of(request: Request, number: int | None) -> Edit:
    """What a request's If-Match and If-None-Match make conditions of. Raises `Rejected`.

    Source: RFC 9110, 13.1. Tags that are weak, or that no GET gave, match nothing.
    """
    present = request.headers.getlist("if-match")
    absent = request.headers.getlist("if-none-match")
    if present and absent:
        raise invalid("If-None-Match", "it contradicts If-Match; send one of the two")
    if absent:
        if ",".join(absent).strip() != "*":
            raise invalid("If-None-Match", "with PUT, only * is allowed: it creates, and changes nothing that exists")
        return Edit(number, must_be_new=True)
    if not present:
        return Edit(number)
    text = ",".join(present)
    if text.strip() == "*":
        return Edit(number, must_exist=True)
    revisions = [tag for tag in _strong_tags(text) if _REVISION.fullmatch(tag)]
    if not revisions:
        raise Rejected("PRECONDITION_FAILED", f"If-Match: no ETag of this path was ever among {quoted(text)}")
    return Edit(number, revisions)


def _strong_tags(text: str) -> list[str]:
    tags: list[str] = []
    position = count = 0
    while position < len(text) or not count:  # an empty list is no list of tags
        match = _TAG.match(text, position)
        count += 1
        if match is None or count > MAX_TAGS:
            wanted = f"expected *, or at most {MAX_TAGS} ETags in quotes as GET gives them, separated by commas"
            raise invalid("If-Match", f"{quoted(text)} is not valid; {wanted}")
        if match[1] is None:
            tags.append(match[2])
        position = match.end()
    return tags


async def put(
    edit: Edit,
    field: str,
    limit: int,
    revision: Callable[[], Awaitable[str | None]],
    send: Callable[[Edit | None, Edit | None], Awaitable[Kept]],
) -> Kept:
    """Carries an edit out: what is there afterwards.

    `field` is the number's name, which every service takes from 0 to `limit`. `revision` reads what is there: None
    where nothing is, empty from a service before 1.2. `send` takes the edit (None: the number is set, whatever is
    there) and the one for its repetitions (None: there are to be none). Raises `Rejected` and `Unavailable`.
    """
    is_set = edit.number is not None and not edit.is_conditional
    if is_set:
        before = await revision()
        known = Edit(edit.number, must_be_new=True) if before is None else Edit(edit.number, (before,))
        first, again = None, None if before == "" else replace(known, is_repeat=True)
    else:
        first, again = edit, replace(edit, is_repeat=True)
    try:
        return await send(first, again)
    except Rejected as no:
        # No service refuses a number in these limits but one that knows no edits: it gets -1 for them.
        in_limits = edit.number is None or 0 <= edit.number <= limit
        is_too_old = no.reason == "INVALID_ARGUMENT" and no.metadata.get("field") == field and in_limits
        if is_set and (is_too_old or no.reason == "PRECONDITION_FAILED"):
            raise Rejected(
                "CHANGED_MEANWHILE",
                "a service did not answer in time, and the request could not be repeated without undoing what was "
                "changed meanwhile; it may have taken effect: read what is there, then decide",
            ) from no
        if is_too_old:
            raise too_old(f"a PUT without {field}, with If-Match or with If-None-Match", f"send {field} alone") from no
        raise
    except Unavailable as failure:
        raise (unknown_outcome(failure, "send it again with If-Match") if is_set else failure) from failure


def too_old(what: str, otherwise: str) -> Rejected:
    """The answer where the service that got the call has a version that does not know of it."""
    detail = f"the version that served this request does not support {what}; nothing was changed"
    return Rejected("SERVICE_TOO_OLD", f"{detail}. Ask for version 1.2 or later with Souk-Prefer, or {otherwise}")


def unknown_outcome(failure: Unavailable, then: str) -> Unavailable:
    """The answer where a request may have taken effect, and would do harm if it were simply sent again."""
    if not failure.was_sent:
        return failure
    detail = f"{failure.detail.partition(';')[0]}; the request may have taken effect: read what is there, then {then}"
    return Unavailable(detail, reason="OUTCOME_UNKNOWN")
