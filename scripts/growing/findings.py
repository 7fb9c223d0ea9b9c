"""What the checks find."""

from dataclasses import dataclass


class CannotCheck(Exception):
    """A check could not be carried out; the text says why."""


@dataclass(frozen=True, order=True)
class Finding:
    """A change that somebody who relies on a released version would not survive."""

    rule: str
    """One of those in docs/contracts.md, or one of buf's."""
    place: str
    """A JSON pointer into an OpenAPI file, a line of a .proto file, the full name of a message's field, a release."""
    text: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.place}: {self.text}"
