"""A Souk for the tests of a module, and its logs where one of them fails."""

import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.faults.proxy import GrpcProxy
from tests.faults.souk import Souk

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        item.stash[FAILED] = True
    return report


def on(*backends: str) -> pytest.MarkDecorator:
    """On which databases the tests of a module run."""
    return pytest.mark.parametrize("module_souk", backends, indirect=True, scope="module")


@pytest.fixture(scope="module")
async def module_souk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Souk[GrpcProxy]]:
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    folder = tmp_path_factory.mktemp("souk")
    # A call of the relay that is lost for good is given up sooner than by default.
    souk = Souk(folder, GrpcProxy, postgresql=server, SOUK_RELAY_TIMEOUT_S="0.5")
    try:
        await souk.start()
        yield souk
    finally:
        await souk.destroy()


@pytest.fixture
def souk(module_souk: Souk[GrpcProxy], request: pytest.FixtureRequest) -> Iterator[Souk[GrpcProxy]]:
    """Souk with a proxy on every edge, shared by the tests of a module."""
    yield module_souk
    for proxy in module_souk.proxies.values():
        proxy.forget()
    if request.node.stash.get(FAILED, False):
        module_souk.copy_logs(sys.stderr)


@pytest.fixture
async def rest(souk: Souk[GrpcProxy]) -> AsyncIterator[httpx.AsyncClient]:
    async with souk.client() as client:
        yield client
