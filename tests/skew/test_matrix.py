"""The matrix of versions: green for this tree, and red for versions that do not go together."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from releasing.ledger import PACKAGES, SERVICES, Ledger, folder

from tests.conftest import LONG, ROOT

SHORT = ("new,new,new,new", "old,new,old,new", "new,old,new,old")
DROPPED = '''
"""What no release may do."""

from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.drop_column("orders", "without_loyalty")
'''


@pytest.mark.timeout(900)
def test_old_and_new_versions_run_beside_each_other_and_are_replaced_while_orders_flow(tmp_path: Path) -> None:
    wanted = [] if LONG else [f"--cell={each}" for each in SHORT]
    command = [str(ROOT / "scripts/skew"), "--json", "skew.json", *wanted]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "skew.json").read_text())
    assert all(
        each["scenarios"] and all(scenarios["passed"] > 20 for scenarios in each["scenarios"].values())
        for each in said["cells"]
    )
    assert said["cells"][0]["green"]
    rolling = said["rolling"]
    assert (len(rolling["steps"]), rolling["wrong"]) == (8, [])
    assert rolling["placed"] > 0
    row = subprocess.run(
        [ROOT / "scripts/skew", "row", "orders", "skew.json"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert row.startswith("Runs beside gateway ")
    if all(len(Ledger().of(service)) > 1 for service in SERVICES):
        assert len(said["cells"]) == (16 if LONG else len(SHORT))


class Repository:
    """A clone in which all packages have just been released, and may then be changed."""

    def __init__(self, place: Path) -> None:
        self.folder = place
        subprocess.run(["git", "clone", "--quiet", ROOT, place], check=True)
        self._git("config", "user.name", "Amina")
        self._git("config", "user.email", "amina@example.com")
        # Without what the original has released.
        (place / "releases.toml").unlink(missing_ok=True)
        for tag in self._git("tag").split():
            self._git("tag", "--delete", tag)
        for package in PACKAGES:
            note = place / folder(package) / "changelog.d/+first.added.md"
            note.parent.mkdir(exist_ok=True)
            note.write_text("The first thing.\n")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message=a beginning")
        for package in PACKAGES:
            done = self.run("releasing", package, "1.7.0", "--checks=true")
            assert done.returncode == 0, done.stderr

    def edit(self, path: str, pattern: str, new: str) -> None:
        """Replaces the one match of a pattern."""
        file = self.folder / path
        text, count = re.subn(pattern, new, file.read_text())
        assert count == 1, f"{path} has {count} of {pattern}"
        file.write_text(text)

    def restore(self) -> None:
        self._git("checkout", "--quiet", ".")
        self._git("clean", "--quiet", "--force", "-d")

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}/scripts", "SOUK_VENV": sys.prefix}
        command = [sys.executable, "-P", "-m", module, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def skew(self, *cells: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        """What it said, and the combinations that it judged."""
        result = self.folder / "skew.json"
        result.unlink(missing_ok=True)
        done = self.run("skewing", "--no-rolling", f"--json={result}", *(f"--cell={each}" for each in cells))
        return done, json.loads(result.read_text())["cells"] if result.exists() else []

    def _git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("released") / "souk")


@pytest.fixture
def repository(released: Repository) -> Repository:
    released.restore()
    return released


def failed(cell: Any) -> set[str]:
    """The scenarios that did."""
    return {name for scenarios in cell["scenarios"].values() for name in scenarios["failed"]}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_renumbered_field_is_caught_between_versions_that_are_well_by_themselves(repository: Repository) -> None:
    # Order's: as if they had always stood the other way round.
    repository.edit(
        "contracts/proto/souk/orders/v1/orders.proto",
        r"int64 points_redeemed = 10;\n  int64 points_earned = 11;",
        "int64 points_redeemed = 11;\n  int64 points_earned = 10;",
    )
    done, cells = repository.skew("new,new,new,new", "old,new,new,new")
    assert done.returncode == 1
    by_gateway = {cell["ages"]["gateway"]: cell for cell in cells}
    assert by_gateway["new"]["green"], done.stderr
    assert "test_one_key_is_one_order" in failed(by_gateway["old"])
    assert "FAILED: test_one_key_is_one_order" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_removed_rpc_is_caught(repository: Repository) -> None:
    repository.edit("contracts/proto/souk/orders/v1/orders.proto", r"  rpc Complete\(.*\n", "")
    done, (cell,) = repository.skew("old,new,old,old")
    assert done.returncode == 1
    assert "test_a_completed_order_cannot_be_cancelled" in failed(cell)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_migration_that_drops_what_the_old_version_reads_is_caught(repository: Repository) -> None:
    migrations = repository.folder / "packages/orders/src/souk_orders/migrations/versions"
    head = max(path.name for path in migrations.glob("*.py")).partition("_")[0]
    (migrations / "9999_dropped.py").write_text(DROPPED.format(head=head))
    repository.edit("packages/orders/src/souk_orders/storage.py", f'REVISION = "{head}"', 'REVISION = "9999"')
    done, (cell,) = repository.skew("old,old,old,old")
    assert done.returncode == 1
    assert "test_an_order_takes_goods_and_points_and_says_what_it_cost" in failed(cell)
