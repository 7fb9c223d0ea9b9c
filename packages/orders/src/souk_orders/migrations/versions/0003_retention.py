"""Since when an order that came to nothing has been seen to be over, so that it can go once that is long ago."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""

_CAME_TO_NOTHING = sa.text("status IN ('REFUSED', 'CANCELLED')")


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    # Null until `prune` writes it: no version of the service names it when it inserts a row.
    op.add_column("orders", sa.Column("final_at_us", sa.BigInteger))
    op.create_index(
        "orders_by_final_at",
        "orders",
        ["final_at_us", "order_id"],
        sqlite_where=_CAME_TO_NOTHING,
        postgresql_where=_CAME_TO_NOTHING,
    )
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
