"""When an account's tier ends; 0 where it does not."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    # With a default of the database's own, since version 1.0 inserts rows without naming the column.
    op.add_column("accounts", sa.Column("tier_expires_at_us", sa.BigInteger, nullable=False, server_default="0"))
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
