"""Version 5: findings of behaviours, on alerts and on the incidents that they make."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns; they are null for what single flows raised, as all alerts so far."""
    for name in ("behaviour", "role", "sentence", "finding"):
        op.add_column("alerts", sa.Column(name, sa.Text))
    for name in ("behaviours", "behaviour", "sentence", "finding"):
        op.add_column("incidents", sa.Column(name, sa.Text))
    number = sa.REAL if op.get_context().dialect.name == "sqlite" else sa.DOUBLE_PRECISION
    op.add_column("incidents", sa.Column("finding_score", number))
    op.add_column("incidents", sa.Column("found_us", sa.BigInteger))
