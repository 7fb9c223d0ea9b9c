"""The line of a run that a release's changelog carries, and the page that a run writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from releasing.ledger import ROOT, SERVICES
from skewing.report import NoRow, as_markdown, row
from skewing.rolling import Rolled


def cell(green: bool, **versions: str) -> dict[str, Any]:
    ages = {service: "new" if version == "1.1.0" else "old" for service, version in versions.items()}
    return {"versions": versions, "ages": ages, "green": green, "scenarios": {}}


def written(folder: Path, *cells: dict[str, Any], wrong: tuple[str, ...] = ()) -> Path:
    path = folder / "skew.json"
    versions = {service: ["1.0.0", "1.1.0"] for service in SERVICES}
    path.write_text(json.dumps({"versions": versions, "cells": cells, "rolling": {"wrong": wrong}}))
    return path


OLD = {"gateway": "1.0.0", "reservations": "1.0.0", "loyalty": "1.0.0"}


def test_it_names_the_versions_that_it_ran_beside(tmp_path: Path) -> None:
    unreleased = "1.1.0.dev7+g2a7b2b4"
    run = written(
        tmp_path,
        cell(True, orders="1.1.0", **OLD),
        cell(True, orders="1.1.0", **{**OLD, "gateway": unreleased}),
        cell(True, orders="1.1.0", **{**OLD, "gateway": "1.1.0", "loyalty": unreleased}),
        cell(True, orders="1.0.0", **{**OLD, "reservations": "1.1.0"}),
    )
    assert row("orders", run) == (
        "Runs beside gateway 1.0.0 and 1.1.0; reservations 1.0.0; loyalty 1.0.0, and 1.0.0 of its own."
    )


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoRow, match="no combination with the new version of orders"):
        row("orders", written(tmp_path, cell(True, orders="1.0.0", **OLD)))
    for failed in (
        written(tmp_path, cell(True, orders="1.1.0", **OLD), cell(False, orders="1.0.0", **OLD)),
        written(tmp_path, cell(True, orders="1.1.0", **OLD), wrong=("an order was lost",)),
    ):
        with pytest.raises(NoRow, match="of a run that failed"):
            row("orders", failed)
    with pytest.raises(NoRow, match="is not what"):
        row("orders", tmp_path / "none.json")


def test_the_page_says_what_a_run_would_write() -> None:
    page = (ROOT / "docs/skew.md").read_text()
    before_matrix, _, after_matrix = as_markdown([], Rolled()).partition("| gateway")
    before_answers = after_matrix[after_matrix.index("## ") :].partition("\n\n16 clients")[0]
    assert page.startswith(before_matrix)
    assert before_answers in page
