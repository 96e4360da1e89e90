"""The commands `deepidea store ...`: counters and retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from deepidea.cli.alert_cells import time_cell
from deepidea.cli.options import StoreUrl, audited, known_store, option
from deepidea.cli.terminal import out, say, show_losses, show_table


def store_status(store: StoreUrl = "") -> None:
    """Show the counters of each source and each sink."""
    from deepidea.store import deliveries
    from deepidea.store.sources import counters

    with known_store(store) as opened:
        sources, sinks = opened.query(counters), opened.query(deliveries.counters)
        out.print(opened.url, markup=False, soft_wrap=True)
    show_table(("source", "flows", "alerts", "suppressed", "skipped", "dropped", "updated"), map(_source, sources))
    if sinks:
        counts = ((at.n_delivered, at.n_waiting, at.n_dead, at.n_lost) for at in sinks)
        rows = ((at.sink, *(f"{n:,}" for n in of)) for at, of in zip(sinks, counts, strict=True))
        show_table(("sink", "delivered", "waiting", "dead letters", "lost"), rows)
    for at in sources:
        show_losses(at.skipped, at.dropped)


def _source(at: Any) -> tuple[str, ...]:
    counts = (at.n_flows, at.n_alerts, at.n_suppressed, sum(at.skipped.values()), sum(at.dropped.values()))
    return (at.name, *(f"{n:,}" for n in counts), time_cell(at.updated))


def store_purge(
    days: Annotated[float, option("Delete what is older than so many days.", min=0)], store: StoreUrl = ""
) -> None:
    """Delete old alerts and incidents, by the time of their flows."""
    with audited(known_store(store)) as (service, actor, _):
        n_deleted = service.purge(datetime.now(UTC) - timedelta(days=days), actor=actor)
    say(f"{n_deleted:,} alerts deleted")
