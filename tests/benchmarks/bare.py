"""The bare stack, a yardstick: what an order would cost if nothing had to be stored.

Three grpc.aio services that store nothing, behind starlette on hypercorn: a request becomes one unary call to each, in
sequence, on channels that live as long as the process. Messages and conversions are Souk's own, everything else is as
the libraries' documentation shows it.

    python bare.py SERVICE PORT                  one of reservations, loyalty, orders
    python bare.py gateway PORT PORT PORT PORT   where REST is served, and the three services, in that order
"""

import asyncio
import sys
import uuid

import grpc
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from souk_contracts.channel import DIRECT
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.orders import v1 as orders
from souk_contracts.reservations import v1 as reservations


class Reservations(reservations.ReservationsServicer):
    """Quotes a price for every line."""

    async def reserve(self, request: reservations.ReserveRequest) -> reservations.ReserveResponse:
        quoted = [reservations.QuotedLine(line.sku, "Item", line.quantity, 450) for line in request.lines]
        return reservations.ReserveResponse(lines=quoted, currency="EUR", expires_at_us=1)


class Loyalty(loyalty.LoyaltyServicer):
    """Gives everyone ten percent off."""

    async def hold(self, request: loyalty.HoldRequest) -> loyalty.HoldResponse:
        return loyalty.HoldResponse(discount_percent=10, discount=request.subtotal // 10, expires_at_us=1)


class Orders(orders.OrdersServicer):
    """Gives the order back."""

    async def create(self, request: orders.CreateRequest) -> orders.CreateResponse:
        order = orders.Order(
            id=request.order_id,
            status=orders.OrderStatus.ACCEPTED,
            customer_id=request.customer_id,
            currency=request.currency,
            lines=request.lines,
            discount_percent=request.discount_percent,
            discount=request.discount,
        )
        return orders.CreateResponse(order=order)


HANDLERS = {"reservations": Reservations().handler(), "loyalty": Loyalty().handler(), "orders": Orders().handler()}


async def serve_grpc(service: str, port: str) -> None:
    """Runs a service until it is told to stop."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([HANDLERS[service]])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def serve_rest(port: str, backends: list[str]) -> None:
    """Runs the gateway until it is told to stop."""
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{each}", options=[DIRECT]) for each in backends]
    reserve = reservations.ReservationsStub(channels[0]).reserve
    hold = loyalty.LoyaltyStub(channels[1]).hold
    create = orders.OrdersStub(channels[2]).create

    async def place(request: Request) -> JSONResponse:
        wanted = await request.json()
        order_id = str(uuid.uuid4())
        lines = [reservations.Line(line["sku"], line["quantity"]) for line in wanted["lines"]]
        reserved = await reserve(reservations.ReserveRequest(order_id, lines))
        subtotal = sum(line.quantity * line.unit_price for line in reserved.lines)
        held = await hold(loyalty.HoldRequest(order_id, wanted["customer_id"], subtotal, wanted["redeem_points"]))
        created = await create(
            orders.CreateRequest(
                order_id=order_id,
                fingerprint=bytes(32),
                customer_id=wanted["customer_id"],
                currency=reserved.currency,
                lines=[
                    orders.OrderLine(line.sku, line.name, line.quantity, line.unit_price) for line in reserved.lines
                ],
                discount_percent=held.discount_percent,
                discount=held.discount,
            )
        )
        order = created.order
        assert order is not None
        answer = {
            "id": order.id,
            "status": "ACCEPTED",
            "customer_id": order.customer_id,
            "currency": order.currency,
            "lines": [
                {"sku": line.sku, "name": line.name, "quantity": line.quantity, "unit_price": line.unit_price}
                for line in order.lines
            ],
            "subtotal": subtotal,
            "discount": order.discount,
            "total": subtotal - order.discount,
        }
        return JSONResponse(answer, 201)

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    await serve(Starlette(routes=[Route("/v1/orders", place, methods=["POST"])]), config)  # type: ignore[arg-type]


if __name__ == "__main__":
    name, port, *backends = sys.argv[1:]
    asyncio.run(serve_rest(port, backends) if name == "gateway" else serve_grpc(name, port))
