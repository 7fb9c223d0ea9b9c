"""A pytest plugin that runs the end-to-end scenarios of any version against a Souk that runs already.

It takes the place of that version's conftest.py (`--noconftest`). Scenarios that ask for the `deployment` stop and
kill services; they are left to those who own one. A scenario about what is new in a version says so, and is left out
where an older one serves:

    @pytest.mark.needs(gateway="1.1.0", orders="1.1.0")
"""

import inspect
import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from releasing.ledger import numbers

PATIENCE_S = 10.0
OVERTAKEN = frozenset(
    {"test_it_names_the_versions_that_serve", "test_of_two_hundred_at_once_exactly_fifty_get_the_fifty_pieces"}
)
"""Scenarios of releases that ask for more than the contract promises; today's have other names. The first counts the
dots of every version, and a development version has more. The second wants one reason for every 409, and there is
another while others hold the last pieces."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("souk")
    group.addoption("--souk-url", help="where the gateway is")
    group.addoption("--souk-released", default="", help="what serves in a released version: orders=1.0.0,…")
    group.addoption("--souk-fields", help="what the REST contract names that the scenarios were written for")
    group.addoption("--souk-result", help="where to write what passed, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(**versions): about what is new in these versions of the services")
    config.pluginmanager.register(_Result(Path(config.getoption("--souk-result"))))


class _Result:
    """What became of the scenarios."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed = 0
        self._failed: dict[str, str] = {}
        self._left_out: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._left_out += [item.name for item in items]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid.rpartition("::")[2]] = report.longreprtext
        elif report.when == "call" and report.passed:
            self._passed += 1

    def pytest_sessionfinish(self) -> None:
        result = {"passed": self._passed, "failed": self._failed, "left_out": self._left_out}
        self._path.write_text(json.dumps(result))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pairs = (pair.partition("=") for pair in config.getoption("--souk-released").split(",") if pair)
    released = {service: version for service, _, version in pairs}
    left_out = [item for item in items if _disturbs(item) or _is_ahead(item, released) or item.name in OVERTAKEN]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _disturbs(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "deployment" in inspect.signature(item.function).parameters


def _is_ahead(item: pytest.Item, released: dict[str, str]) -> bool:
    return any(
        service in released and numbers(released[service]) < numbers(version)
        for mark in item.iter_markers("needs")
        for service, version in mark.kwargs.items()
    )


@pytest.fixture
def rest(pytestconfig: pytest.Config) -> Iterator[httpx.Client]:
    """A client of the REST interface, which reads what it is answered as one of the scenarios' version does."""
    url, fields = pytestconfig.getoption("--souk-url"), pytestconfig.getoption("--souk-fields").split(",")
    with httpx.Client(base_url=url, timeout=30, transport=_Tolerant(fields)) as client:
        yield client


class _Tolerant(httpx.HTTPTransport):
    """Does what every client must: passes over fields that its contract does not name, and tries again when told to.

    503 with a time to try again is no answer yet: a machine with much else to do gives it, too.
    """

    def __init__(self, fields: Collection[str]) -> None:
        # Without certificates, which take longer to load than most scenarios do to run.
        super().__init__(verify=False, limits=httpx.Limits(max_connections=None))
        self._fields = fields

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            response = super().handle_request(request)
            if response.status_code != 503 or "retry-after" not in response.headers or time.monotonic() > deadline:
                break
            response.close()
            time.sleep(int(response.headers["retry-after"]))
        if not (request.url.path.startswith("/v1/") and "json" in response.headers.get("content-type", "")):
            return response
        body = self._known(json.loads(response.read()))
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-length"]
        response.close()
        return httpx.Response(response.status_code, headers=headers, json=body)

    def _known(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._known(each) for each in value]
        if isinstance(value, dict):
            return {name: self._known(each) for name, each in value.items() if name in self._fields}
        return value
