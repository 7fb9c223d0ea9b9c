"""A change of an order's status leaves alone the indexes that have no status in them, and costs less in the others."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""


def upgrade() -> None:
    """Expands the schema; an older version finds its pages by the same indexes as before."""
    # Their condition named the status, so each change of it had to take the order out and put it in again. Without
    # it they hold refusals as well, which is why this version finds all its pages by the indexes with a status.
    for filters in ([], ["customer_id"]):
        name = "_".join(["orders_by", *filters, "created_at"])
        op.drop_index(name, "orders")
        op.create_index(name, "orders", [*filters, "created_at_us", "order_id"])
    # Orders that are under way stand together, whosever they are: among their customer's, each would change a page of
    # its own when it comes, and again when it leaves.
    op.drop_index("orders_by_customer_id_status_created_at", "orders")
    condition = sa.text("status != 'REFUSED'")
    op.create_index(
        "orders_by_status_customer_id_created_at",
        "orders",
        ["status", "customer_id", "created_at_us", "order_id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
