"""Restocks by their idempotency keys, and the currency of the prices."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    op.create_table(
        "restocks",
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("sku", sa.String(64), nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    op.create_index("restocks_by_age", "restocks", ["at_us"])
    op.create_table(
        "currency",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("code", sa.String(3), nullable=False),
    )
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
