"""Alembic's entry: revisions run on the connection that `credits_fast.ledger.schema` hands over."""

from alembic import context
from sqlalchemy import Connection, text

VERSION_TABLE = "credits_fast_alembic_version"
LOCK_ID = 4_826_190_551  # any number; two programs that migrate at once wait for each other

connection: Connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_ID})"))
context.configure(connection=connection, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
