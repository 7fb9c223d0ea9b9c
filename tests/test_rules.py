"""The rules of the monorepo are checked, and the check can fail."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "rules"), str(tree)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages that a test may spoil."""
    for folder in ("packages", "contracts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


def append(path: str, text: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        with (tree / path).open("a") as file:
            file.write(text)

    return spoil


def test_this_tree_keeps_them(tree: Path) -> None:
    done = check(tree)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            append("packages/orders/src/souk_orders/app.py", "from souk_loyalty.rules import discount\n"),
            "souk_orders imports souk_loyalty; of Souk it may import souk_contracts only",
        ),
        (
            append("packages/gateway/src/souk_gateway/app.py", "def late():\n    import souk_orders.domain\n"),
            "souk_gateway imports souk_orders",
        ),
        (
            append("contracts/src/souk_contracts/server.py", "import souk_orders\n"),
            "souk_contracts imports souk_orders",
        ),
        (
            append("packages/orders/src/souk_orders/domain.py", "import sqlalchemy\n"),
            "a domain may import the standard library only, but this one imports sqlalchemy",
        ),
        (append("packages/loyalty/src/souk_loyalty/writer.py", "\n"), "writer.py differs from"),
        (append("packages/loyalty/src/souk_loyalty/prune.py", "\n"), "prune.py differs from"),
        (append("packages/orders/LICENSE", "\n"), "packages/orders/LICENSE differs from LICENSE"),
        (lambda tree: (tree / "contracts/LICENSE").unlink(), "contracts/LICENSE differs from LICENSE"),
    ],
)
def test_a_breach_is_named(tree: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(tree)
    done = check(tree)
    assert done.returncode == 1
    assert sentence in done.stderr
