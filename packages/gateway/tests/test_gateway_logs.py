"""The log: whatever a client sent, an entry is one line, and no line looks like an entry that is none."""

import asyncio
import io
import logging

import pytest

from souk_gateway.logs import Gathering, OneLine, printable

FORGED = "/a\n2026-01-02 03:04:05 POST /v1/orders 201\r\x1b[2J\x7f\x85\u2028\u202e\ud800\0"
ESCAPED = r"/a\n2026-01-02 03:04:05 POST /v1/orders 201\r\x1b[2J\x7f\x85\u2028\u202e\ud800\x00"


def test_what_cannot_be_printed_is_escaped_and_all_else_is_kept() -> None:
    assert printable(FORGED) == ESCAPED
    assert printable("茶 café – 🫖") == "茶 café – 🫖"


async def test_a_line_of_the_access_log_is_one_line() -> None:
    handler, written = Gathering(), io.StringIO()
    handler.setStream(written)
    handler.emit(logging.LogRecord("access", logging.INFO, "", 0, "%s %d", (FORGED, 200), None))
    await asyncio.sleep(0)
    handler.flush()
    time, _, line = written.getvalue().partition(" /")
    assert len(time) == len("2026-01-02 03:04:05Z")
    assert f"/{line}" == f"{ESCAPED} 200\n"


@pytest.mark.parametrize("text", [FORGED, "a\nTraceback (most recent call last):\nb"])
def test_the_lines_of_a_traceback_are_indented_whatever_they_say(text: str) -> None:
    logger, written = logging.Logger("one"), io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    try:
        int(text)
    except ValueError:
        logger.exception("%s failed", text)
    first, *others = written.getvalue()[:-1].split("\n")
    assert first == f"ERROR: {printable(text)} failed"
    assert others
    assert all(line.startswith("    ") and line.isprintable() for line in others)
