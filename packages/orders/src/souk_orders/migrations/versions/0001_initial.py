"""Orders, their history, and the outbox of what their participants must be told."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""

_BY_BYTES = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")


def upgrade() -> None:
    """Expands the schema; what an older version reads stays as it is."""
    op.create_table(
        "orders",
        sa.Column("order_id", _BY_BYTES, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_reason", sa.String(64), nullable=False),
        sa.Column("customer_id", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("discount_percent", sa.Integer, nullable=False),
        sa.Column("discount", sa.BigInteger, nullable=False),
        sa.Column("points_redeemed", sa.BigInteger, nullable=False),
        sa.Column("points_earned", sa.BigInteger, nullable=False),
        sa.Column("without_loyalty", sa.Boolean, nullable=False),
        sa.Column("refusal", sa.JSON(none_as_null=True)),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
    )
    for filters in ([], ["customer_id"], ["status"], ["customer_id", "status"]):
        op.create_index(
            "_".join(["orders_by", *filters, "created_at"]),
            "orders",
            [*filters, "created_at_us", "order_id"],
            sqlite_where=sa.text("status != 'REFUSED'"),
            postgresql_where=sa.text("status != 'REFUSED'"),
        )
    op.create_table(
        "outbox",
        sa.Column("order_id", _BY_BYTES, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("participant", sa.String(16), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("due_at_us", sa.BigInteger, nullable=False),
        sa.Column("leased_until_us", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
    )
    op.create_index("outbox_due", "outbox", ["participant", "due_at_us"])
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("order_id", _BY_BYTES, sa.ForeignKey("orders.order_id"), nullable=False),
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("served_by", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("history_by_order", "history", ["order_id"])
    support = op.create_table(
        "schema_support",
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("revision", sa.String(16), nullable=False),
        sa.Column("oldest_version", sa.String(32), nullable=False),
    )
    op.bulk_insert(support, [{"service": "orders", "revision": revision, "oldest_version": OLDEST_VERSION}])
