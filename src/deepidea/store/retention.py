"""Retention: delete what is older than a time."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from deepidea.store import deliveries
from deepidea.store.batches import Committed
from deepidea.store.ingest import purge_counts
from deepidea.store.statements import us
from deepidea.store.tables import ALERTS, EVIDENCE, INCIDENT_ALIASES, INCIDENT_STATES, INCIDENTS


def purge(connection: sa.Connection, older_than: datetime) -> Committed:
    """Delete alerts from before a time, and incidents whose last alert is; return how many alerts were deleted.

    Alerts that a sink has not received yet are counted as lost to it. Counters of sources stay. An incident that began
    before the time and ended after it keeps its counts, though its early alerts are deleted.
    """
    limit = us(older_than)
    old = ALERTS.c.time_us < limit
    deliveries.count_lost(connection, old)
    suppressed = sa.select(sa.func.count()).select_from(ALERTS).where(old & ALERTS.c.suppressed_by.is_not(None))
    n_suppressed = connection.execute(suppressed).scalar_one()
    n_alerts = connection.execute(ALERTS.delete().where(old)).rowcount
    connection.execute(EVIDENCE.delete().where(EVIDENCE.c.newest_us < limit))
    connection.execute(INCIDENTS.delete().where(INCIDENTS.c.last_us < limit))
    kept = sa.select(INCIDENTS.c.incident_id)
    states, aliases = INCIDENT_STATES.c, INCIDENT_ALIASES.c
    connection.execute(INCIDENT_STATES.delete().where((states.changed_us < limit) & states.incident_id.not_in(kept)))
    connection.execute(INCIDENT_ALIASES.delete().where(aliases.new_id.not_in(kept)))
    purge_counts(connection, limit)
    return Committed(n_alerts, 0, n_suppressed)
