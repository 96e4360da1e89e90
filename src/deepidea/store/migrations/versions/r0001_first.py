"""Version 1: alerts, incidents, allow rules, sources, sinks. No older store exists, so nothing is to do."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Leave the schema as it is."""
