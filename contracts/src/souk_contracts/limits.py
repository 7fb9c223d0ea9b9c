"""What a message and a batch may have. Servers check it, and clients keep to it."""

from collections.abc import Sized
from typing import TypeVar

from google.protobuf.message import DecodeError

Values = TypeVar("Values", bound=Sized)

MAX_CALLS = 128
"""In a batch."""
MAX_BYTES = 256 * 1024
"""Of all requests in a batch, unless it has only one."""
MAX_REQUEST_BYTES = 1024 * 1024
"""Of a message to a server: four times what a batch has, since a single request may be longer than MAX_BYTES."""
MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 1024
"""Of a response: clients take 4 MiB, gRPC's default, and in a batch a few bytes are added."""
PART_BYTES = 1024 * 1024
"""A batch's results leave in several messages of about this length: however long all are, each message is taken."""
MAX_VALUES = 2000
"""In one repeated field: twice what the longest list of a contract has."""
MAX_BATCHES = 256
"""Streams of batches to a server at a time; a client has a few."""
MAX_STREAMS = 1000
"""Calls at a time on a connection; a client's further calls wait for these."""


class TooMany(DecodeError):
    """A message that nobody honest sends: a list in it is far longer than any contract allows."""


def few(values: Values) -> Values:
    """A repeated field's values as they are; before an object is built for each. Raises TooMany."""
    if len(values) > MAX_VALUES:
        raise TooMany(f"a list in it has {len(values)} values; send at most {MAX_VALUES}")
    return values
