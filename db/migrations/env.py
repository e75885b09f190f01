"""Alembic's entry: it always works on the connection that db/schema.py hands over."""

from alembic import context

from db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # db/schema.py owns the transaction
)
context.run_migrations()
