"""Version 3: memory of sources."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table."""
    keys = (sa.Column("source", sa.Text), sa.Column("part", sa.Text), sa.Column("seq", sa.BigInteger))
    op.create_table(
        "source_memory",
        *keys,
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("source", "part", "seq"),
    )
