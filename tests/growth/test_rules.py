"""Each rule of ours is documented, and broken by a test."""

import re

from tests.conftest import ROOT
from tests.growth import test_breaking_edits as edits

MIGRATIONS = {"MIGRATION_EDITED", "MIGRATION_BREAKS_RELEASE", "MIGRATION_LEAVES_OUT_LAST_RELEASE"}
"""These are broken in test_migrations.py."""


def test_every_rule_that_is_documented_is_broken_by_an_edit_and_the_other_way_round() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+) \|", (ROOT / "docs" / "contracts.md").read_text(), re.MULTILINE)
    documented = {rule for row in rows for rule in re.findall("[A-Z_]+", row)}
    tables = (edits.WIRE, edits.CODECS, edits.DOCUMENT, edits.CLOSED)
    broken = {str(entry[0]) for table in tables for entry in table.values()}
    assert documented == broken | {"FIELD_SAYS_DEFAULT", "FILE_REMOVED"} | MIGRATIONS
