"""An order's history in its own row."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

OLDEST_VERSION = "1.0.0"
"""The oldest version of the service that can work with this schema."""

# A step is a JSON array with a comma behind it, so that one is added without a look at those that are there.
# The rows of the table are older than the steps of the same order: whoever adds to the history now adds a step. So in
# the view steps have greater ids than any row.
_SQLITE = (
    """
    CREATE VIEW history AS
    SELECT id, order_id, step, at_us, served_by, detail FROM history_until_0004
    UNION ALL
    SELECT 9000000000000000000 + json_each.key, orders.order_id, json_extract(json_each.value, '$[0]'),
        json_extract(json_each.value, '$[1]'), json_extract(json_each.value, '$[2]'),
        json_extract(json_each.value, '$[3]')
    FROM orders, json_each('[' || rtrim(orders.steps, ',') || ']')
    """,
    """
    CREATE TRIGGER history_insert INSTEAD OF INSERT ON history
    BEGIN
        UPDATE orders SET steps = steps || json_array(new.step, new.at_us, new.served_by, new.detail) || ','
        WHERE order_id = new.order_id;
    END
    """,
)
_POSTGRESQL = (
    """
    CREATE VIEW history AS
    SELECT id, order_id, step, at_us, served_by, detail FROM history_until_0004
    UNION ALL
    SELECT 9000000000000000000 + each.number, orders.order_id, (each.value ->> 0)::varchar(32),
        (each.value ->> 1)::bigint, each.value ->> 2, each.value ->> 3
    FROM orders, json_array_elements(('[' || rtrim(orders.steps, ',') || ']')::json)
        WITH ORDINALITY AS each(value, number)
    """,
    """
    CREATE FUNCTION history_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE orders SET steps = steps || json_build_array(new.step, new.at_us, new.served_by, new.detail) || ','
        WHERE order_id = new.order_id;
        RETURN new;
    END
    $$
    """,
    "CREATE TRIGGER history_insert INSTEAD OF INSERT ON history FOR EACH ROW EXECUTE FUNCTION history_insert()",
)


def upgrade() -> None:
    """Expands the schema; an older version reads and writes `history` as it did."""
    op.add_column("orders", sa.Column("steps", sa.Text, nullable=False, server_default=""))
    op.rename_table("history", "history_until_0004")  # not one row is moved, so it takes no time
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
    support = sa.table("schema_support", sa.column("revision"), sa.column("oldest_version"))
    op.execute(support.update().values(revision=revision, oldest_version=OLDEST_VERSION))
