"""Real deployments of Souk to test against, and a line for each kind that cannot run here."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.deployments import DEPLOYMENTS, Deployment

ROOT = Path(__file__).parent.parent
LONG = os.environ.get("SOUK_TEST_LONG") == "1"
"""Whether the long tests run in full."""

LONGEST_FIRST = (
    "test_python_of_the_images.py",
    "test_image_releases.py",
    "test_runtime.py",
    "test_lower_bounds.py",
    "e2e",
    "test_mixed.py",
    "test_matrix.py",
    "test_retention.py",
    "test_release.py",
    "test_audit.py",
    "test_migrations.py",
    "test_random.py",
    "test_rolling.py",
    "test_containers.py",
    "test_setup.py",
    "test_command_lines.py",
    "test_directed.py",
    "test_kills.py",
    "test_rest_contract.py",
    "test_bench.py",
    "test_mutations.py",
)


@functools.cache
def engine_answers() -> bool:
    """Whether a container engine with buildx and Compose is there."""
    checks = (["docker", "info"], ["docker", "buildx", "version"], ["docker", "compose", "version"])
    return shutil.which("docker") is not None and all(
        subprocess.run(check, capture_output=True, check=False).returncode == 0 for check in checks
    )


def wrk_is_installed() -> bool:
    """Whether the benchmark's load generator is there."""
    return shutil.which("wrk") is not None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "containers: needs a container engine; left out, and said so, where none answers"
    )
    config.addinivalue_line("markers", "wrk: needs wrk; left out, and said so, where it is not installed")
    config.addinivalue_line("markers", "long: left out, and said so, without SOUK_TEST_LONG=1")
    config.addinivalue_line("markers", "needs(**versions): what it is about is new in these versions of the services")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest first, so that others run beside it.
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get("e2e" if is_e2e(item.nodeid) else item.path.name, len(places)))
    for marker, is_there in (("containers", engine_answers), ("wrk", wrk_is_installed), ("long", lambda: LONG)):
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if left_out and not is_there():
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


def is_e2e(nodeid: str) -> bool:
    """Whether a test is one of those that start Souk in each way to deploy it."""
    return nodeid.startswith("tests/e2e/")


class ByFile(LoadFileScheduling):
    """The tests of a file run in one process; so do all that start Souk in each way to deploy it, which takes long."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if is_e2e(nodeid) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not engine_answers():
        terminalreporter.write_line(
            "NO CONTAINER ENGINE ANSWERS HERE: container tests were left out. Start Docker and run again.", red=True
        )
    if not wrk_is_installed():
        terminalreporter.write_line(
            "NO WRK HERE: the benchmark itself was not tested. Install it (apt install wrk) and run again.", red=True
        )

    if not LONG:
        terminalreporter.write_line("Long tests were left out; SOUK_TEST_LONG=1 runs them.")


@pytest.fixture(scope="session")
def images() -> str:
    """The images of this tree, built and tagged; what the build printed about their sizes."""
    build = ["scripts/images", "build", "gateway", "orders", "reservations", "loyalty", "single"]
    return subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(name, marks=() if name == "processes" else pytest.mark.containers) for name in sorted(DEPLOYMENTS)
    ],
)
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Souk, running in each of the ways that it can be deployed; all of it is gone at the end."""
    if request.param != "processes":
        request.getfixturevalue("images")
    souk = DEPLOYMENTS[request.param](ROOT, tmp_path_factory.mktemp("souk"))
    try:
        souk.start()
        yield souk
    finally:
        souk.destroy()


@pytest.fixture
def rest(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client of the deployment's REST interface."""
    with httpx.Client(base_url=deployment.url, timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        yield client


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """Debian's registry, on loopback, as host and port."""

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    docker("build", "--quiet", "--tag=souk-test/registry", "tests/registry")
    name = f"souk-test-registry-{uuid4().hex[:8]}"
    docker("run", "--detach", "--rm", f"--name={name}", "--publish=127.0.0.1::5000", "souk-test/registry")
    try:
        assert any("listening on" in line for line in follow(name))
        yield docker("port", name, "5000")
    finally:
        docker("rm", "--force", name)


def follow(container: str) -> Iterator[str]:
    """What a container logs, up to the line that says that it listens."""
    command = ["docker", "logs", "--follow", container]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as logs:
        assert logs.stdout is not None
        try:
            for line in logs.stdout:
                yield line
                if "listening on" in line:
                    break
        finally:  # also where nobody asks for another line
            logs.kill()
