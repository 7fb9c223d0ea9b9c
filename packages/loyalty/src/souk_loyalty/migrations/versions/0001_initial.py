"""Accounts, holds, and the journal of points that no order moved."""

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
        "accounts",
        sa.Column("customer_id", _BY_BYTES, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("points_held", sa.BigInteger, nullable=False),
        sa.CheckConstraint("0 <= points_held", name="held_is_not_negative"),
    )
    op.create_table(
        "holds",
        sa.Column("order_id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("customer_id", sa.String(64), nullable=False),
        sa.Column("subtotal", sa.BigInteger, nullable=False),
        sa.Column("redeem_points", sa.BigInteger, nullable=False),
        sa.Column("discount_percent", sa.Integer, nullable=False),
        sa.Column("discount", sa.BigInteger, nullable=False),
        sa.Column("points_redeemed", sa.BigInteger, nullable=False),
        sa.Column("points_earned", sa.BigInteger, nullable=False),
        sa.Column("expires_at_us", sa.BigInteger, nullable=False),
        sa.CheckConstraint("0 <= points_redeemed AND 0 <= points_earned", name="points_are_not_negative"),
    )
    op.create_index(
        "holds_due",
        "holds",
        ["expires_at_us"],
        sqlite_where=sa.text("state = 'HELD'"),
        postgresql_where=sa.text("state = 'HELD'"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer_id", sa.String(64), nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    support = op.create_table(
        "schema_support",
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("revision", sa.String(16), nullable=False),
        sa.Column("oldest_version", sa.String(32), nullable=False),
    )
    op.bulk_insert(support, [{"service": "loyalty", "revision": revision, "oldest_version": OLDEST_VERSION}])
