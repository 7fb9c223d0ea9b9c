"""Where the implementations are that the suite is to judge; ours, as real processes, where nothing is said.

    pytest tests/conformance --reservations HOST:PORT --loyalty HOST:PORT

Give both, or the one that is to be judged. For the properties of holds whose time runs out, start an implementation
with a time to live of a second or two and say where with --expiring-reservations and --expiring-loyalty; it may be the
same one, if holds live long enough for a call or two.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.conformance.participants import Loyalty, Participant, Reservations
from tests.deployments import free_port
from tests.faults.processes import Service

KINDS: dict[str, type[Reservations] | type[Loyalty]] = {"reservations": Reservations, "loyalty": Loyalty}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "implementations to judge, as host:port")
    for name in KINDS:
        group.addoption(f"--{name}", metavar="HOST:PORT", help=f"an implementation of {name}")
        group.addoption(f"--expiring-{name}", metavar="HOST:PORT", help="one whose holds live for a second or two")


async def _participant(
    config: pytest.Config, name: str, folder: Path, option: str, ttl_s: float
) -> AsyncIterator[Participant]:
    given = config.getoption(option, default=None)
    others = [f"{prefix}{kind}" for kind in KINDS for prefix in ("", "expiring_")]
    service = None
    if given is None:
        if any(config.getoption(other, default=None) for other in others):
            pytest.skip(f"no --{option.replace('_', '-')} was given")
        settings = {"SOUK_HOLD_TTL_S": str(ttl_s), "SOUK_JANITOR_PERIOD_S": "0.1"}
        service = Service(name, free_port(1), settings, folder)
    try:
        if service is not None:
            await service.start()
        async with grpc.aio.insecure_channel(given or service.address) as channel:  # type: ignore[union-attr]
            yield KINDS[name](channel)
    finally:
        if service is not None:
            service.kill()


@pytest.fixture(scope="session", params=sorted(KINDS))
async def participant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Participant]:
    """Reservations, and then loyalty: what both must do is written once."""
    name = request.param
    async for each in _participant(request.config, name, tmp_path_factory.mktemp(name), name, 60):
        yield each


@pytest.fixture(scope="session", params=sorted(KINDS))
async def expiring(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Participant]:
    """The same, with holds that live for little more than half a second."""
    name = request.param
    async for each in _participant(request.config, name, tmp_path_factory.mktemp(name), f"expiring_{name}", 0.6):
        yield each


@pytest.fixture(scope="session")
async def reservations(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Reservations]:
    """For what reservations alone must do."""
    async for each in _participant(request.config, "reservations", tmp_path_factory.mktemp("r"), "reservations", 60):
        assert isinstance(each, Reservations)
        yield each


@pytest.fixture(scope="session")
async def loyalty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loyalty]:
    """For what loyalty alone must do."""
    async for each in _participant(request.config, "loyalty", tmp_path_factory.mktemp("l"), "loyalty", 60):
        assert isinstance(each, Loyalty)
        yield each
