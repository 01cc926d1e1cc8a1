"""How Alembic reaches the library: over the connection that ``Database.migrate`` hands in."""

from alembic import context

from adapters_store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
# The caller owns the transaction: schema and version change together or not at all.
context.run_migrations()
