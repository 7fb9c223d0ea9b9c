"""A row that is written to see whether writes work."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    op.create_table(
        "heartbeat",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("padding", sa.LargeBinary, nullable=False),
    )
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
