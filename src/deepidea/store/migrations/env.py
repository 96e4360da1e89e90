"""Run revisions on the caller's connection, in its transaction."""

from alembic import context

from deepidea.store.tables import VERSION, metadata

if hasattr(context, "config"):  # absent where the module is imported outside of Alembic
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION.name,
        render_as_batch=True,
    )
    context.run_migrations()
