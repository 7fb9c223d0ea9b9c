"""What an item is, for people."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    # With a default of the database's own, since version 1.0 inserts rows without naming the column.
    op.add_column("items", sa.Column("description", sa.Text, nullable=False, server_default=""))
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
