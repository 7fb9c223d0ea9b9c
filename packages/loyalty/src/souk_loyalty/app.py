"""Wires the service together, and takes it apart: the only place that knows everything."""

import logging

from souk_contracts.server import GrpcServer, ServerSettings, termination
from souk_contracts.tasks import spawn
from souk_loyalty import SERVICE, __version__
from souk_loyalty.database import Database
from souk_loyalty.janitor import Janitor
from souk_loyalty.service import Loyalty
from souk_loyalty.servicer import LoyaltyServicer
from souk_loyalty.settings import Settings
from souk_loyalty.storage import SqlStorage

log = logging.getLogger(__name__)


async def serve(settings: Settings, database: Database) -> None:
    """Serves until SIGTERM or SIGINT, then lets calls finish. Raises RuntimeError if it cannot listen."""
    stopping = termination()
    storage = SqlStorage(database)
    loyalty = Loyalty(storage, hold_ttl_s=settings.hold_ttl_s)
    server = GrpcServer(
        ServerSettings(SERVICE, __version__, settings.address, max_rpcs=settings.max_rpcs),
        [LoyaltyServicer(loyalty)],
        storage.answers,
    )
    await server.start()
    janitor = spawn(Janitor(loyalty, settings.janitor_period_s).run(), "the janitor", failed=stopping.set)
    await stopping.wait()
    log.info("stopping")
    has_failed = janitor.done()
    janitor.cancel()
    await server.drain()
    storage.close()
    if has_failed:
        raise RuntimeError("stopped, since the janitor has ended; the log says why")
