"""Finds what has been EXPIRED for long."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    op.create_index(
        "holds_expired",
        "holds",
        ["expires_at_us"],
        sqlite_where=sa.text("state = 'EXPIRED'"),
        postgresql_where=sa.text("state = 'EXPIRED'"),
    )
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
