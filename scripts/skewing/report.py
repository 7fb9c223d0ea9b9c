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
        reasons = "they stop services, need a newer version, or expect something that the contract does not promise"
        number = "The number in brackets is the number of table cells in which the scenario was left out:"
        said = fill(f"The following scenarios were left out, because {reasons}. {number}", 120)
        parts.append(f"{said}\n\n{names}")
    if rolled is not None:
        steps = "\n".join(f"{number}. {step}" for number, step in enumerate(rolled.steps, start=1))
        parts.append(f"{ROLLING}\n\n{fill(as_sentence(rolled), 120)}\n\n{steps}")
    return "\n\n".join(parts) + "\n"


def as_sentence(rolled: Rolled) -> str:
    """How the clients of the rolling upgrade fared."""
    answers = ", ".join(f"{count} times {status}" for status, count in sorted(rolled.answers.items()))
    verdict = "; ".join(rolled.wrong) or "No order was lost or refused without reason, and the audit was clean"
    return f"{CLIENTS} clients placed orders, {rolled.placed} of them. The answers by status: {answers}. {verdict}."


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
# Which versions may run together

{policy}

`scripts/skewing/policy.py` holds this rule. `./scripts/skew check compose/mixed.yaml` refuses a compose file that
breaks it.

`./scripts/skew` tests that the rule is safe. It builds the last released version of each service and the working tree,
and installs each in an environment of its own. Then it does two things:

1. It runs the end-to-end scenarios on every combination of these versions (the skew matrix). All combinations use the
   same databases, which the new versions have migrated. It runs the scenarios of the working tree and those of the
   releases. The scenarios of a release use Souk as a client of that release would. Scenarios that are the same in
   several releases run once.
2. While orders flow, it replaces one service after another by its new version, until all are new. Then it replaces one
   after another by its old version.

| command | effect |
| --- | --- |
| `./scripts/skew` | does both; exit code 1 if anything fails |
| `./scripts/skew --write` | also writes this page |
| `./scripts/skew --json skew.json` | also writes the result for machines |
| `./scripts/skew --cell old,new,old,new --no-rolling` | tests one combination: gateway, orders, reservations, loyalty |
| `SOUK_SKEW_SEED=7 ./scripts/skew` | replaces the services in the same order as the run that printed this seed |
| `./scripts/skew row orders skew.json` | prints a changelog line: beside which releases the new orders service ran |
| `./scripts/skew check FILE…` | checks compose files against the rule; the environment sets their variables |

A scenario that tests a new feature names the versions that it needs. It is left out of combinations with an older
version: `@pytest.mark.needs(gateway="1.1.0", orders="1.1.0")`.

## The matrix

New versions are **bold**. They come from the working tree, so they are
[development versions](adr/0014-development-versions.md)."""

ROLLING = """\
## The rolling upgrade and downgrade

Each step replaces one process. "In place" stops the old process before the new one starts, so requests get 503 in
between. "Beside it" starts the new process first ([how to replace a service without a 503](rollout.md)). At first, a
customer and two items are created (200). The clients order an item that is in stock and one that is sold out (409).
They also repeat requests that were answered. A repeated order gets 201 again, so there are more 201s than orders."""
