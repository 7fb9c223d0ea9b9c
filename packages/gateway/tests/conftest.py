"""One shop and one gateway for each test that asks for them."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
from gateway_services import Shop, gateway, shop


@pytest_asyncio.fixture(name="shop")
async def shop_fixture() -> AsyncIterator[Shop]:
    async with shop() as opened:
        yield opened


@pytest_asyncio.fixture
async def client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with the default settings."""
    async with gateway(shop) as url, httpx.AsyncClient(base_url=url) as opened:
        yield opened
