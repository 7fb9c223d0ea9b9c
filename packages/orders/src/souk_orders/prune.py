"""`python -m souk_orders prune`: deletes refused and cancelled orders that ended long ago.

docs/retention.md says what is deleted when, and docs/adr/0011-retention.md why.
"""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

from souk_contracts.channel import connect
from souk_contracts.loyalty import v1 as loyalty
from souk_contracts.reservations import v1 as reservations
from souk_orders import SERVICE, __version__
from souk_orders.archive import Archive
from souk_orders.book import Participant
from souk_orders.database import Database
from souk_orders.pruner import ForgettingClient, Pruned, Pruner
from souk_orders.retention import SqlRetention
from souk_orders.settings import Settings
from souk_orders.storage import REVISION
from souk_orders.writer import Clock, system_clock

_TIMEOUT_S = 10.0
"""Of a call: nobody waits for it as for an answer."""

_SHOWN = 5
"""Ids of orders that are kept, in the sentence about them."""


def prune(settings: Settings, options: Namespace, clock: Clock = system_clock) -> None:
    """Carries the command out and prints what it did, even if it then raises.

    Raises SchemaMismatch, StorageUnavailable, CannotForget, CannotArchive.
    """
    database = Database(settings.database_url)
    with closing(SqlRetention(database, options.days, clock)) as retention:
        database.check_schema(REVISION, __version__)
        age = "a day" if options.days == 1 else f"{options.days} days"
        if options.dry_run:
            unmarked, due = retention.counts()
            deleted = f"{due:,} marked at least {age} ago would be deleted"
            print(f"Refused and cancelled orders: {unmarked:,} would be marked; {deleted}.")
            return
        with closing(Archive(Path(options.archive))) if options.archive else nullcontext() as archive:
            asyncio.run(_run(settings, retention, archive, age))


async def _run(settings: Settings, retention: SqlRetention, archive: Archive | None, age: str) -> None:
    user_agent = f"souk-{SERVICE}/{__version__}"
    goods_at, points_at = settings.reservations_target, settings.loyalty_target
    async with connect(goods_at, user_agent=user_agent) as goods, connect(points_at, user_agent=user_agent) as points:
        to_goods = reservations.ReservationsStub(goods, timeout_s=_TIMEOUT_S)
        to_points = loyalty.LoyaltyStub(points, timeout_s=_TIMEOUT_S)
        clients = {
            Participant.RESERVATIONS: ForgettingClient(
                f"reservations at {goods_at}", to_goods.forget, reservations.ForgetRequest
            ),
            Participant.LOYALTY: ForgettingClient(f"loyalty at {points_at}", to_points.forget, loyalty.ForgetRequest),
        }
        pruner = Pruner(retention, clients, archive)
        try:
            await pruner.run()
        finally:
            print(*_sentences(pruner.pruned, age))


def _sentences(pruned: Pruned, age: str) -> Iterator[str]:
    marked, deleted = f"{pruned.marked:,} newly marked", f"{pruned.deleted:,} marked at least {age} ago were deleted"
    yield f"Refused and cancelled orders: {marked}; {deleted}."
    for participant in Participant:
        kept = [order_id for who, order_id in pruned.kept if who is participant]
        if kept:
            more = " and others" if len(kept) > _SHOWN else ""
            yield (
                f"Kept {len(kept):,}, because {participant.lower()} still has them HELD or CONFIRMED; "
                f"run the audit to see why: {', '.join(kept[:_SHOWN])}{more}."
            )
