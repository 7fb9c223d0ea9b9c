"""What no linter sees: whether two versions of the contracts understand what the other one sends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from growing.findings import CannotCheck, Finding
from growing.versions import Contracts

_RULES = {
    "empty": "WIRE_DEFAULT",
    "filled": "WIRE_SAME_VALUE",
    "unknown fields": "WIRE_UNKNOWN_FIELD",
    "unknown enum values": "WIRE_UNKNOWN_ENUM_VALUE",
}
"""By the kind of the example that shows a breach."""


def misunderstood(old: Contracts, new: Contracts) -> list[Finding]:
    """Every example message of each version is read by the other one, written again, and read by the first.

    What both know must come through all of it; what the reader alone knows must be zero, and what the old one knows
    the new one must know, too. Raises CannotCheck where a version cannot be imported.
    """
    found: dict[str, Finding] = {}
    for sender, reader in ((old, new), (new, old)):
        for each in _one_way(sender, reader, old):
            found.setdefault(each.place, each)  # the plainest example that shows it comes first
    return list(found.values())


def written(sender: Contracts) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """By message: the kind of each example, its bytes in hexadecimal, and how the sender itself sees it."""
    return _side(sender, "write")


def _one_way(sender: Contracts, reader: Contracts, old: Contracts) -> Iterator[Finding]:
    sent_by_name = written(sender)
    read = _side(reader, "read", {name: [data for _, data, _ in examples] for name, examples in sent_by_name.items()})
    returned = {name: [each.get("again", "") for each in answers] for name, answers in read.items()}
    back = _side(sender, "read", returned)
    for name, examples in sent_by_name.items():
        if name not in read:
            if sender is old:
                yield Finding("WIRE_READABLE", name, f"{reader.name} has no such message, but {sender.name} sends it")
            continue
        for (kind, _, sent), seen, again in zip(examples, read[name], back[name], strict=True):
            for who, each in ((sender, sent), (reader, seen)):
                if "error" in each:
                    rule = _RULES[kind] if kind.startswith("unknown") else "WIRE_READABLE"
                    yield Finding(rule, name, f"{who.name} cannot read it ({kind}): {each['error']}")
            if "view" not in sent or "view" not in seen:
                continue
            yield from _differences(name, kind, sent["view"], seen["view"], sender, reader, old)
            if "view" in again:
                yield from _differences(name, kind, seen["view"], again["view"], reader, sender, old)
            else:
                yield Finding("WIRE_READABLE", name, f"{sender.name} cannot read the answer: {again['error']}")


def _differences(
    place: str, kind: str, sent: Any, seen: Any, sender: Contracts, reader: Contracts, old: Contracts
) -> Iterator[Finding]:
    if isinstance(sent, dict) and isinstance(seen, dict):
        for name in seen.keys() | sent.keys():
            field = f"{place}.{name}"
            if name not in sent and seen[name]:
                text = f"{reader.name} reads {_short(seen[name])}, but {sender.name} does not have the field"
                yield Finding("WIRE_DEFAULT", field, text)
            elif name in sent and name in seen:
                yield from _differences(field, kind, sent[name], seen[name], sender, reader, old)
            elif name in sent and sender is old:
                yield Finding(
                    "WIRE_READABLE", field, f"{reader.name} does not have the field, but {sender.name} sends it"
                )
    elif isinstance(sent, list) and isinstance(seen, list) and len(sent) == len(seen):
        for each_sent, each_seen in zip(sent, seen, strict=True):
            yield from _differences(place, kind, each_sent, each_seen, sender, reader, old)
    elif sent != seen or type(sent) is not type(seen):
        rule = "WIRE_ONEOF" if ".oneof " in place else _RULES[kind]
        text = f"{sender.name} sent {_short(sent)}, but {reader.name} reads {_short(seen)} ({kind})"
        yield Finding(rule, place, text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _side(contracts: Contracts, command: str, given: object = None) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(contracts.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("side.py"), command],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotCheck(f"the contracts of {contracts.name} cannot be used:\n{done.stderr.strip()}")
    said = json.loads(done.stdout)
    if not Path(said["package"]).is_relative_to(contracts.path):
        raise CannotCheck(f"the contracts of {contracts.name} were expected in {contracts.path}, not {said['package']}")
    answer: dict[str, Any] = said["answer"]
    return answer
