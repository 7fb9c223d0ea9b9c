"""Items, reservations, and the journal of what came into the stock."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""

_BY_BYTES = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    op.create_table(
        "items",
        sa.Column("sku", _BY_BYTES, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("unit_price", sa.BigInteger, nullable=False),
        sa.Column("on_hand", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, nullable=False),
        sa.Column("sold", sa.BigInteger, nullable=False),
        sa.CheckConstraint("0 <= held AND held <= on_hand", name="held_is_on_hand"),
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("quote", sa.JSON, nullable=False),
        sa.Column("expires_at_us", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "reservations_due",
        "reservations",
        ["expires_at_us"],
        sqlite_where=sa.text("state = 'HELD'"),
        postgresql_where=sa.text("state = 'HELD'"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sku", sa.String(64), nullable=False),
        sa.Column("pieces", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    support = op.create_table(
        "schema_support",
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("revision", sa.String(16), nullable=False),
        sa.Column("oldest_version", sa.String(32), nullable=False),
    )
    op.bulk_insert(support, [{"service": "reservations", "revision": revision, "oldest_version": OLDEST_VERSION}])
