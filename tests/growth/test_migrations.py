"""Migrations that a released version would not survive are caught, each by a named check."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns

import pytest
from growing import migrations
from growing.findings import Finding
from growing.migrations import SERVICES, Old
from releasing import version
from releasing.build import TOOLS_LOCK, build
from releasing.ledger import folder

from tests.conftest import ROOT

EPOCH = 1_000_000_000
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{last}"


def upgrade() -> None:
    {change}
    op.execute("UPDATE schema_support SET revision = '{revision}', oldest_version = '{oldest}'")
"""

Harmed = Callable[..., list[Finding]]

pytestmark = pytest.mark.timeout(600)  # many a test runs all of a service's own


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Old]:
    """This tree's version of a service, as if it had been released."""
    tree, out = tmp_path_factory.mktemp("released"), tmp_path_factory.mktemp("wheels")
    (tree / TOOLS_LOCK).parent.mkdir()
    (tree / "packages").mkdir()
    for path in (TOOLS_LOCK, "packages/version.py"):
        copyfile(ROOT / path, tree / path)
    wheels: dict[str, Path] = {}

    def wheel(package: str) -> Path:
        if package not in wheels:
            copytree(ROOT / folder(package), tree / folder(package), ignore=ignore_patterns("__pycache__"))
            released = version.literal(package).removesuffix(".dev0")
            wheels[package] = build(tree, package, EPOCH, out / package, released).wheel
        return wheels[package]

    return lambda service: Old(wheel(service).name.split("-")[1], wheel(service), wheel("contracts"), ROOT)


@pytest.fixture
def harmed(old: Callable[[str], Old], tmp_path: Path) -> Harmed:
    """What one more migration than this tree has would do to that version."""

    def harmed_(service: str, change: str, oldest: str = "1.0.0", *, last: bool = True) -> list[Finding]:
        source = copy(service, tmp_path)
        add_migration(source, service, change, oldest)
        return migrations.harmed(service, old(service), source, last=last)

    return harmed_


def copy(service: str, into: Path) -> Path:
    """This tree's code of a service, to be changed."""
    return Path(copytree(migrations.source(service), into / "src", ignore=ignore_patterns("__pycache__")))


def add_migration(source: Path, service: str, change: str, oldest: str) -> None:
    """Adds one behind the newest."""
    scripts = source / f"souk_{service}/migrations/versions"
    newest = max(path.name for path in scripts.glob("*.py"))[:4]
    revision = f"{int(newest) + 1:04}"
    text = MIGRATION.format(revision=revision, last=newest, change=change, oldest=oldest)
    (scripts / f"{revision}_test.py").write_text(text)


def rules(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found]


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("orders", 'op.drop_column("orders", "status_reason")'),
        pytest.param("reservations", 'op.drop_column("items", "sold")', marks=pytest.mark.long),
        pytest.param("loyalty", 'op.drop_column("accounts", "name")', marks=pytest.mark.long),
        pytest.param(
            "orders", 'op.alter_column("outbox", "last_error", new_column_name="error")', marks=pytest.mark.long
        ),
        pytest.param(
            "loyalty",
            """op.add_column("accounts", sa.Column("until_us", sa.BigInteger, sa.CheckConstraint("until_us > 0"),
                  nullable=False, server_default="0"))""",
            marks=pytest.mark.long,
        ),
    ],
    ids=["drops a column", "drops a column", "drops a column", "renames a column", "asks for what nobody writes"],
)
def test_a_migration_that_an_old_version_cannot_live_with_is_caught(service: str, change: str, harmed: Harmed) -> None:
    found = harmed(service, change)
    assert rules(found) == ["MIGRATION_BREAKS_RELEASE"]
    assert f"packages/{service}/tests/" in found[0].text


@pytest.mark.long
def test_a_migration_that_only_expands_is_not_caught(harmed: Harmed) -> None:
    changes = (
        'op.add_column("orders", sa.Column("gift_text", sa.Text))',
        'op.add_column("outbox", sa.Column("weight", sa.Integer, nullable=False, server_default="1"))',
        'op.create_table("parcels", sa.Column("id", sa.Integer, primary_key=True))',
        'op.create_index("outbox_by_kind", "outbox", ["kind"])',
    )
    assert harmed("orders", "; ".join(changes)) == []


def test_a_test_of_a_release_that_fails_now_and_then_is_no_finding(old: Callable[[str], Old], tmp_path: Path) -> None:
    source, tests = copy("loyalty", tmp_path), tmp_path / "packages/loyalty/tests"
    add_migration(source, "loyalty", "pass", "1.0.0")
    tests.mkdir(parents=True)
    (tests / "test_loyalty_storage.py").write_text("""
from pathlib import Path

def test_that_fails_the_first_time():
    came_before = Path("been-here").exists()
    Path("been-here").touch()
    assert came_before
""")
    (tests / "test_loyalty_rpc.py").write_text("""
from pathlib import Path

def test_that_comes_after_it():
    Path("came-after").touch()
""")
    flaky = replace(old("loyalty"), sources=tmp_path)
    assert migrations.harmed("loyalty", flaky, source, last=True) == []
    assert (tmp_path / "been-here").exists()
    assert (tmp_path / "came-after").exists()


def test_a_migration_may_leave_out_old_versions_but_not_the_last_one(harmed: Harmed, tmp_path: Path) -> None:
    assert rules(harmed("orders", 'op.drop_column("orders", "status_reason")', "99.0.0")) == [
        "MIGRATION_LEAVES_OUT_LAST_RELEASE"
    ]


def test_a_version_that_the_migrations_leave_out_is_not_tried(harmed: Harmed) -> None:
    assert harmed("orders", 'op.drop_column("orders", "status_reason")', "99.0.0", last=False) == []


@pytest.mark.parametrize("edit", [Path.unlink, lambda path: path.write_text(path.read_text() + "\n")])
def test_a_released_migration_stays_as_it_is(
    edit: Callable[[Path], object], old: Callable[[str], Old], tmp_path: Path
) -> None:
    source = copy("orders", tmp_path)
    edit(source / "souk_orders/migrations/versions/0001_initial.py")
    assert rules(migrations.harmed("orders", old("orders"), source, last=True)) == ["MIGRATION_EDITED"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_tree_without_new_migrations_harms_nobody(service: str, old: Callable[[str], Old]) -> None:
    assert migrations.harmed(service, old(service), migrations.source(service), last=True) == []
