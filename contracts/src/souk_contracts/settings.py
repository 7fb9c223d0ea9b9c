"""Finds environment variables that would otherwise change nothing without a word, such as misspelt settings."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

_ALMOST = 0.88
"""`difflib`'s ratio, above which another variable is taken for a misspelt setting: one letter of ten may differ."""


_UTC = ("", "UTC", "UTC0", "GMT", "Zulu", "Universal", "UCT")


def without_effect(environment: Mapping[str, str], service: str, settings: Collection[str]) -> Iterator[str]:
    """One sentence for each environment variable that looks like a setting of the service and is none.

    These are all SOUK_<SERVICE>_…, except SOUK_<SERVICE>_TARGET, which belongs to the service's clients; each other
    SOUK_… that almost equals a setting; and TZ, if it names another time than UTC.
    """
    if environment.get("TZ", "").lstrip(":").rpartition("/")[2] not in _UTC:
        yield f"TZ={environment['TZ']} has no effect: the times in this log are UTC"
    own = f"SOUK_{service.upper()}_"
    for name in sorted({*environment} - {*settings, f"{own}TARGET"}):
        if not name.upper().startswith("SOUK"):
            continue
        is_own = name.startswith(own)
        likely = get_close_matches(name.upper().replace("-", "_"), settings, 1, 0.6 if is_own else _ALMOST)
        if likely or is_own:
            meant = f"; did you mean {likely[0]}?" if likely else ""
            yield f"{name} has no effect: {service} has no setting of that name{meant}"
