"""The end-to-end scenarios of the working tree, and of each release, each run by a pytest of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from releasing.build import checkout, git
from releasing.ledger import ROOT

from skewing.installed import Installed

PATHS = ("pytest.ini", "tests", "contracts/openapi")
CONTRACT = "contracts/openapi/gateway.v1.yaml"
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "skewing.plugin")
SCENARIO_S = 45
"""Within which each must pass."""
FAILURES = 2
"""Of a suite; the rest need not be waited for."""


@dataclass(frozen=True)
class Outcome:
    """What became of a suite in one combination of versions."""

    passed: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why, by scenario."""
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Suite:
    """The scenarios of one version."""

    name: str
    tree: Path
    fields: Sequence[str]
    """What its REST contract names; clients pass over anything else."""

    @staticmethod
    def of(name: str, tree: Path) -> "Suite":
        """The suite in a checkout."""
        contract = yaml.safe_load((tree / CONTRACT).read_text())
        return Suite(name, tree, sorted({*_property_names(contract)}))

    def run(self, url: str, serving: Iterable[Installed]) -> Outcome:
        """Against the gateway at `url`, behind which these versions serve."""
        # The tree has what its scenarios are about, whatever version it still says.
        released = ",".join(f"{each.service}={each.version}" for each in serving if each.age == "old")
        with TemporaryDirectory(prefix="souk-") as folder:
            result = Path(folder) / "result.json"
            command = [
                *(sys.executable, "-m", "pytest", "--noconftest", "-c", "pytest.ini", "--rootdir", ".", "-q"),
                *(word for plugin in PLUGINS for word in ("-p", plugin)),
                *(f"--timeout={SCENARIO_S}", f"--maxfail={FAILURES}"),
                # What is a warning or an unknown marker to today's tools must not fail yesterday's scenarios.
                *("-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings="),
                *(f"--souk-url={url}", f"--souk-released={released}"),
                *(f"--souk-fields={','.join(self.fields)}", f"--souk-result={result}", "tests/e2e"),
            ]
            environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(command, cwd=self.tree, env=environment, capture_output=True, text=True, check=False)
            outcome = Outcome(**json.loads(result.read_text())) if result.exists() else Outcome()
        if done.returncode and not outcome.failed:
            return Outcome(failed={"pytest": f"{done.stdout}{done.stderr}"})
        return outcome


@contextmanager
def suites(versions: Iterable[Installed]) -> Iterator[Sequence[Suite]]:
    """That of the tree, and those of the old versions' releases, each once."""
    commits = {each.commit: str(each) for each in versions if each.age == "old"}
    unchanged = "" if git("status", "--porcelain", "--", *PATHS) else _content("HEAD")
    found: dict[str, Suite] = {}
    same = ""
    with ExitStack() as stack:
        for commit, release in commits.items():
            content = _content(commit)
            if content == unchanged:
                same = same or f", unchanged since {release}"
            elif content not in found:
                found[content] = Suite.of(release, stack.enter_context(checkout(commit, *PATHS)))
        yield [Suite.of(f"the tree{same}", ROOT), *found.values()]


def _content(commit: str) -> str:
    """The same for commits with the same scenarios."""
    return git("rev-parse", *(f"{commit}:{path}" for path in ("tests/e2e", "tests/deployments.py", CONTRACT)))


def _property_names(schema: Any) -> Iterator[str]:
    """Of all schemas in an OpenAPI document."""
    if isinstance(schema, list):
        for each in schema:
            yield from _property_names(each)
    elif isinstance(schema, dict):
        yield from schema.get("properties", ())
        for each in schema.values():
            yield from _property_names(each)
