"""One shop and one gateway, or a server of HTTP alone, for each test that asks for them."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from gateway_services import Shop, gateway, shop
from http1_site import Echo, Site


@pytest_asyncio.fixture(name="shop")
async def shop_fixture() -> AsyncIterator[Shop]:
    async with shop() as opened:
        yield opened


@pytest_asyncio.fixture
async def client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with the default settings."""
    async with gateway(shop) as url, httpx.AsyncClient(base_url=url, timeout=60) as opened:
        yield opened


@pytest.fixture
def site() -> Iterator[Site]:
    """An application that gives back what it is asked, served over HTTP/1.1 and HTTP/2."""
    opened = Site(Echo())
    opened.start()
    yield opened
    opened.app.go_on.set()
    opened.stop()
    assert opened.trouble == []
