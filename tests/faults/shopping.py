"""Clients as they should be: they try again with their key until they have an answer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from souk_gateway.saga import CALLER, order_id_of

_AGAIN_S = 0.1


@dataclass(frozen=True)
class Request:
    """An order to be placed, under its key."""

    customer_id: str
    lines: Mapping[str, int]
    redeem_points: int = 0
    key: str = field(default_factory=lambda: str(uuid4()))

    @property
    def order_id(self) -> str:
        """The order that the key names."""
        return order_id_of(CALLER, self.key)

    async def send(self, rest: httpx.AsyncClient) -> httpx.Response:
        """Once. Raises httpx.HTTPError where no answer comes."""
        body = {
            "customer_id": self.customer_id,
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in self.lines.items()],
            "redeem_points": self.redeem_points,
        }
        return await rest.post("/v1/orders", json=body, headers={"Idempotency-Key": self.key})

    async def place(self, rest: httpx.AsyncClient, seconds: float = 60) -> httpx.Response:
        """Again and again, until there is an order or a refusal."""
        said: Sequence[str] = ()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        answer = await self.send(rest)
                    except httpx.HTTPError as error:
                        said = [*said[-9:], repr(error)]
                    else:
                        if "retry-after" not in answer.headers:
                            assert answer.status_code in (201, 409, 422), answer.text
                            return answer
                        # What a client may be told in passing: a service is away, or the key is in flight.
                        assert answer.status_code in (503, 409), answer.text
                        said = [*said[-9:], answer.text]
                    # Not as long as Retry-After says: impatience is harder on the services.
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            raise AssertionError(f"no answer for the key {self.key} in {seconds:.0f} s: {said}") from None


async def put_item(rest: httpx.AsyncClient, on_hand: int, unit_price: int = 450) -> str:
    """A new item; gives its SKU."""
    sku = f"item-{uuid4().hex[:12]}"
    await _put(rest, f"/v1/items/{sku}", {"name": "Tea", "unit_price": unit_price, "on_hand": on_hand})
    return sku


async def put_customer(rest: httpx.AsyncClient, points: int, tier: str = "silver") -> str:
    """A new customer; gives the id."""
    customer_id = f"customer-{uuid4().hex[:12]}"
    await _put(rest, f"/v1/customers/{customer_id}", {"name": "Amina", "tier": tier, "points": points})
    return customer_id


async def _put(rest: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await rest.put(path, json=body)
    while answer.status_code == 503:  # a service that has just come up may not have been found yet
        await asyncio.sleep(_AGAIN_S)
        answer = await rest.put(path, json=body)
    assert answer.status_code == 200, answer.text


async def status_of(rest: httpx.AsyncClient, order_id: str) -> str:
    """An order's; "" where there is none, or it cannot be told just now."""
    answer = await rest.get(f"/v1/orders/{order_id}")
    return str(answer.json()["status"]) if answer.status_code == 200 else ""
