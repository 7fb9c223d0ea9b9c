"""What a run showed: as a table, as JSON, and as the line of it that a release's changelog carries."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from releasing import version
from releasing.ledger import SERVICES

from skewing.installed import Installed
from skewing.matrix import Cell
from skewing.policy import POLICY
from skewing.rolling import CLIENTS, Rolled


class NoRow(Exception):
    """A run's JSON does not say what was asked; the text is a sentence."""


def as_json(versions: Mapping[str, Sequence[Installed]], cells: Sequence[Cell], rolled: Rolled | None) -> str:
    """The whole of it."""
    said: dict[str, Any] = {
        "versions": {service: [each.version for each in found] for service, found in versions.items()},
        "cells": [
            {
                "versions": {each.service: each.version for each in cell.versions},
                "ages": {each.service: each.age for each in cell.versions},
                "green": cell.green,
                "scenarios": {
                    name: {
                        "passed": outcome.passed,
                        "failed": sorted(outcome.failed),
                        "left_out": sorted(outcome.left_out),
                    }
                    for name, outcome in cell.outcomes.items()
                },
            }
            for cell in cells
        ],
    }
    if rolled is not None:
        answers = {str(status): count for status, count in sorted(rolled.answers.items())}
        said["rolling"] = {
            "steps": rolled.steps,
            "placed": rolled.placed,
            "answers": answers,
            "wrong": rolled.wrong,
        }
    return json.dumps(said, indent=2)


def table(cells: Sequence[Cell]) -> str:
    """One row a combination, in Markdown."""
    suites = list(dict.fromkeys(name for cell in cells for name in cell.outcomes))
    rows = [
        [*SERVICES, *(f"scenarios of {name}" for name in suites)],
        *(
            [*(_shown(each) for each in cell.versions), *(_outcome(cell, name) for name in suites)]
            for cell in sorted(cells, key=lambda cell: [each.age == "new" for each in cell.versions])
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def as_markdown(cells: Sequence[Cell], rolled: Rolled | None) -> str:
    """docs/skew.md."""
    left_out = Counter(name for cell in cells for each in cell.outcomes.values() for name in each.left_out)
    parts = [DOCUMENT.format(policy=fill(POLICY, 120)), table(cells)]
    if left_out:
        names = "\n".join(f"- `{name}` ({count}×)" for name, count in sorted(left_out.items()))
        parts.append(f"Left out, since they stop services, or are about what is newer than what serves:\n\n{names}")
    if rolled is not None:
        steps = "\n".join(f"{number}. {step}" for number, step in enumerate(rolled.steps, start=1))
        parts.append(f"## The rolling upgrade and downgrade\n\n{fill(as_sentence(rolled), 120)}\n\n{steps}")
    return "\n\n".join(parts) + "\n"


def as_sentence(rolled: Rolled) -> str:
    """How the clients of the rolling upgrade fared."""
    answers = ", ".join(f"{count} times {status}" for status, count in sorted(rolled.answers.items()))
    verdict = "; ".join(rolled.wrong) or "none was lost, none refused without reason, and the audit is clean"
    return f"{CLIENTS} clients placed {rolled.placed} orders and were answered {answers}: {verdict}."


def row(package: str, run: Path) -> str:
    """A line for a release's changelog: what the package's new version was shown to work with. Raises NoRow."""
    try:
        said = json.loads(run.read_text())
        cells, versions = said["cells"], said["versions"][package]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoRow(f"{run} is not what `./scripts/skew --json {run}` writes about {package}: {error!r}.") from error
    if not all(cell["green"] for cell in cells) or said.get("rolling", {"wrong": []})["wrong"]:
        raise NoRow(f"{run} is of a run that failed.")
    own = [cell for cell in cells if cell["ages"][package] == "new"]
    if not own:
        raise NoRow(f"{run} has no combination with the new version of {package}.")
    beside = []
    for service in SERVICES:
        if service != package:
            # What is in no release is nothing that anybody else has.
            every = dict.fromkeys(c["versions"][service] for c in own)
            found = [each for each in every if not version.is_development(each)]
            beside.append(f"{service} {' and '.join(found) or 'none'}")
    rolled = len(versions) > 1 and not said.get("rolling", {"wrong": True})["wrong"]
    itself = f", and {versions[0]} of its own" if rolled else ""
    return f"Runs beside {'; '.join(beside)}{itself}."


def _shown(shown: Installed) -> str:
    return f"**{shown.version}**" if shown.age == "new" else shown.version


def _outcome(cell: Cell, suite: str) -> str:
    outcome = cell.outcomes.get(suite)
    if outcome is None:
        return ""
    if outcome.failed:
        return f"FAILED: {', '.join(sorted(outcome.failed))}"
    return f"{outcome.passed} passed" if outcome.passed else "FAILED: none ran"


DOCUMENT = """\
# Versions that meet

{policy}

`scripts/skewing/policy.py` is what decides, and `./scripts/skew check compose/mixed.yaml` refuses a compose file that
runs others side by side.

That it holds is shown by `./scripts/skew`: it builds the last released version of each service and the working tree,
installs each in an environment of its own, and runs the end-to-end scenarios on every combination of them; then it
replaces one service after another by its new version, and again by its old one, while orders flow. All combinations
use the same databases, which the new versions have migrated. The scenarios are those of the tree, and those of each
release, which a client of that release could have written.

| | |
| --- | --- |
| `./scripts/skew` | the whole; exit code 1 where anything fails |
| `./scripts/skew --write` | writes this page, too |
| `./scripts/skew --json skew.json` | for machines |
| `./scripts/skew --cell old,new,old,new --no-rolling` | one combination: gateway, orders, reservations, loyalty |
| `SOUK_SKEW_SEED=7 ./scripts/skew` | the same order of replacements again |
| `./scripts/skew row orders skew.json` | the line of it for a release's changelog |
| `./scripts/skew check FILE…` | whether compose files keep to the policy; variables are those of the environment |

A scenario about what is new says which versions it needs, and is left out where an older one serves:
`@pytest.mark.needs(gateway="1.1.0", orders="1.1.0")`.

## The matrix

New versions are **bold**: those of the tree (docs/adr/0014-development-versions.md says how to read them)."""
