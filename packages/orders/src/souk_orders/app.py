"""Wires the service together, and takes it apart: the only place that knows everything."""

import asyncio
import logging

from souk_contracts.channel import connect
from souk_contracts.server import GrpcServer, ServerSettings, termination
from souk_contracts.tasks import spawn
from souk_orders import SERVICE, __version__
from souk_orders.book import Participant
from souk_orders.clients import LoyaltyClient, ReservationsClient
from souk_orders.database import Database
from souk_orders.lobby import Lobby
from souk_orders.relay import OutboxRelay
from souk_orders.service import Orders
from souk_orders.servicer import OrdersServicer
from souk_orders.settings import Settings
from souk_orders.storage import SqlStorage

log = logging.getLogger(__name__)


async def serve(settings: Settings, database: Database) -> None:
    """Serves until SIGTERM or SIGINT, then lets calls finish. Raises RuntimeError if it cannot listen."""
    stopping = termination()
    storage = SqlStorage(database)
    lobby = Lobby()
    user_agent = f"souk-{SERVICE}/{__version__}"
    timeout_s = settings.relay_timeout_s
    async with (
        connect(settings.reservations_target, user_agent=user_agent) as reservations,
        connect(settings.loyalty_target, user_agent=user_agent) as loyalty,
    ):
        relay = OutboxRelay(
            storage,
            {
                Participant.RESERVATIONS: ReservationsClient(reservations, timeout_s=timeout_s),
                Participant.LOYALTY: LoyaltyClient(loyalty, timeout_s=timeout_s),
            },
            period_s=settings.relay_period_s,
            timeout_s=timeout_s,
            settled=lobby.call,
        )
        orders = Orders(storage, relay, lobby, hold_margin_s=settings.hold_margin_s, hold_ttl_s=settings.hold_ttl_s)
        server = GrpcServer(
            ServerSettings(SERVICE, __version__, settings.address, max_rpcs=settings.max_rpcs),
            [OrdersServicer(orders)],
            storage.answers,
        )
        await server.start()
        relaying = spawn(relay.run(), "the relay", failed=stopping.set)
        await stopping.wait()
        log.info("stopping")
        lobby.close()
        await server.drain()
        relay.stop()
        await asyncio.wait([relaying])
    storage.close()
    if relaying.exception() is not None:
        raise RuntimeError("stopped, since the relay has ended; the log says why")
