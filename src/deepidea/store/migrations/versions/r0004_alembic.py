"""Version 4: Alembic keeps the version, and SQLite refuses keys that are null, as PostgreSQL does."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Rebuild the tables of SQLite whose keys may be null, and drop the version of old."""
    op.execute("DELETE FROM meta WHERE key = 'version'")
    if op.get_context().dialect.name != "sqlite":
        return
    for table in sa.inspect(op.get_bind()).get_table_names():
        inspector = sa.inspect(op.get_bind())
        keys = inspector.get_pk_constraint(table)["constrained_columns"]
        loose = [column["name"] for column in inspector.get_columns(table) if column["nullable"]]
        if set(keys) & set(loose):
            with op.batch_alter_table(table, recreate="always") as batch:
                for key in keys:
                    batch.alter_column(key, nullable=False)
