"""Runs the migrations on the connection, and in the transaction, of `migrate.py`."""

from alembic import context

# SQLite's DDL is transactional, too, once the driver is kept from ending transactions by itself, as database.py does.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
