"""Wires the service together, and takes it apart: the only place that knows everything."""

import logging

from souk_contracts.server import GrpcServer, ServerSettings, termination
from souk_contracts.tasks import spawn
from souk_reservations import SERVICE, __version__
from souk_reservations.database import Database
from souk_reservations.environment import BadSetting
from souk_reservations.janitor import Janitor
from souk_reservations.service import Reservations
from souk_reservations.servicer import ReservationsServicer
from souk_reservations.settings import Settings
from souk_reservations.storage import SqlStorage, remembered_currency

log = logging.getLogger(__name__)


async def serve(settings: Settings, database: Database) -> None:
    """Serves until SIGTERM or SIGINT, then lets calls finish.

    Raises RuntimeError if it cannot listen, BadSetting if the database has prices in another currency.
    """
    stopping = termination()
    if (known := remembered_currency(database, settings.currency)) != settings.currency:
        raise BadSetting(
            f"SOUK_CURRENCY is '{settings.currency}', but the prices in the database are in {known}; "
            f"set it to {known}, or SOUK_RESERVATIONS_DATABASE_URL to another database"
        )
    storage = SqlStorage(database)
    reservations = Reservations(storage, hold_ttl_s=settings.hold_ttl_s)
    server = GrpcServer(
        ServerSettings(SERVICE, __version__, settings.address, max_rpcs=settings.max_rpcs),
        [ReservationsServicer(reservations, settings.currency)],
        storage.answers,
    )
    await server.start()
    janitor = spawn(Janitor(reservations, settings.janitor_period_s).run(), "the janitor", failed=stopping.set)
    await stopping.wait()
    log.info("stopping")
    has_failed = janitor.done()
    janitor.cancel()
    await server.drain()
    storage.close()
    if has_failed:
        raise RuntimeError("stopped, since the janitor has ended; the log says why")
