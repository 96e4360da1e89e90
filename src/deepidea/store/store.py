"""The store: alerts, incidents, allow rules, where each source stood, and how far each sink has got.

SQLite by default, PostgreSQL where several machines write or read. What a batch of flows leads to is written in one
transaction, its source's position and counters included: a process that dies at any moment and goes on from the stored
position has lost nothing and told nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack, get_args

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from deepidea.errors import DataError, MissingExtraError, StoreError
from deepidea.store import engines as engine_states
from deepidea.store import incidents, reading
from deepidea.store import series as overview
from deepidea.store.access import StoredAccess
from deepidea.store.allow_rules import AllowRule, suppress
from deepidea.store.cases import StoredCases
from deepidea.store.drift import BinnedFlows, count_drift
from deepidea.store.engines import EngineState
from deepidea.store.feedback import StoredFeedback
from deepidea.store.grouping import GAP_S
from deepidea.store.incidents import IncidentOrder
from deepidea.store.memory import MemoryChange, read_memory, rename_source, write_memory
from deepidea.store.migrating import HEAD, migrate, revision_of
from deepidea.store.models import StoredModels
from deepidea.store.reading import Page
from deepidea.store.rules import apply_rules, put_rules, rules_in, rules_in_force, rules_version
from deepidea.store.sources import PartitionStart, Position
from deepidea.store.tables import (
    ALERTS,
    ALLOW_RULES,
    DELIVERIES,
    EVIDENCE,
    INCIDENT_ALIASES,
    INCIDENT_STATES,
    INCIDENTS,
    LOSSES,
    SOURCES,
)
from deepidea.store.writing import (
    add_to_incidents,
    count_alerts,
    count_batch,
    count_flows,
    insert_alerts,
    purge_counts,
    refuse_stale,
    upsert,
)

__all__ = [
    "Committed",
    "IncidentOrder",
    "IncidentStatus",
    "Judged",
    "Page",
    "SinkCounters",
    "SourceCounters",
    "Store",
    "open_store",
]

BUSY_TIMEOUT_S = 30.0
_LOCK = 0x1DEA  # of PostgreSQL's advisory locks: whoever writes holds it until its transaction ends

IncidentStatus = Literal["open", "acknowledged", "closed", "false_alarm"]
Judged = Literal["none", "true_positive", "false_positive", "unsure"]


class AlertFilters(TypedDict, total=False):
    """What alerts may be asked for by.

    Parameters
    ----------
    since, until : datetime, optional
        From this time on, and before that one.
    host : str, optional
        Address of either end.
    class_name, source : str, optional
        Class, and name of the source that told of the flow.
    severity : int, optional
        As urgent as this at least: 2 is 1 and 2.
    """

    since: datetime | None
    until: datetime | None
    host: str | None
    class_name: str | None
    severity: int | None
    source: str | None


class IncidentFilters(TypedDict, total=False):
    """What incidents may be asked for by.

    Parameters
    ----------
    since, until : datetime, optional
        Last alert from this time on, and before that one.
    host : str, optional
        Whose incident it is.
    class_name : str, optional
    severity : int, optional
        As urgent as this at least: 2 is 1 and 2.
    only : int, optional
        Of this severity, and no other.
    status : IncidentStatus, optional
    verdict : Judged, optional
        By the analyst's verdict that holds; ``none`` where nobody has judged.
    search : str, optional
        Words that must all be found: each in host, class, id or note, in any case, or as the whole address or the port
        asked for of any of its alerts.
    """

    since: datetime | None
    until: datetime | None
    host: str | None
    class_name: str | None
    severity: int | None
    only: int | None
    status: IncidentStatus | None
    verdict: Judged | None
    search: str | None


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a batch's alerts: stored, already there, and stored but kept quiet by an allow rule."""

    n_alerts: int
    n_duplicates: int
    n_suppressed: int


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """What came of a source since its beginning: flows, alerts as in :class:`Committed`, and losses by reason."""

    name: str
    n_flows: int
    n_alerts: int
    n_duplicates: int
    n_suppressed: int
    updated: datetime
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """What went to a sink: delivered, waiting, written to dead letters, and taken by retention before being told."""

    sink: str
    n_delivered: int
    n_waiting: int
    n_dead: int
    n_lost: int


def open_store(url: str, *, incident_gap_s: float = GAP_S) -> Store:
    """Open a store, make it where there is none, and bring it to the newest version.

    Parameters
    ----------
    url
        ``sqlite:///path`` (``sqlite:////absolute/path``), or ``postgresql://user:password@host/database``.
    incident_gap_s
        Longest quiet time within an incident, in seconds.

    Raises
    ------
    StoreError
        The database cannot be opened, is none of ours, or a newer release wrote it.
    MissingExtraError
        PostgreSQL is asked for and its driver is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db") as store:
    ...     store.position("conn.log") is None
    True
    """
    store = Store(_engine(url), incident_gap_s=incident_gap_s)
    try:
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store


def _engine(url: str) -> sa.Engine:
    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql") or parsed.database in (None, "", ":memory:"):
            raise StoreError(_no_url(url))
        engine = sa.create_engine(
            parsed, connect_args=_connect_args(parsed), pool_pre_ping=parsed.drivername != "sqlite"
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"a store on PostgreSQL needs psycopg, however: {error}; install it with: pip install 'deepidea[postgres]'"
        ) from error
    except SQLAlchemyError as error:
        raise StoreError(_no_url(url)) from error
    _prepare(engine)
    return engine


def _no_url(url: str) -> str:
    return (
        "a store must be sqlite:///path or postgresql://user@host/database, however: "
        f"{url.partition('://')[0]!r} is asked for, or no file or database is named"
    )


def _connect_args(url: sa.URL) -> dict[str, Any]:
    return {"timeout": BUSY_TIMEOUT_S} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}


def _prepare(engine: sa.Engine) -> None:
    """Let transactions begin where we say, writers at once with the lock that keeps others out."""
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)


def _set_pragmas(connection: Any, _: object) -> None:
    connection.isolation_level = None  # or the driver would begin transactions of its own
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:  # of two that open a new file: this change waits for no lock
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may undo the last transactions, never tear one


def _driver_error(engine: sa.Engine) -> type[Exception]:
    """Return what the driver raises where it is called without SQLAlchemy between."""
    error: type[Exception] = engine.dialect.loaded_dbapi.Error
    return error


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


class Store(StoredFeedback, StoredModels, StoredAccess, StoredCases):
    """A store that is open; made by :func:`open_store`. Threads may share it.

    Every method is one transaction. Each raises :class:`~deepidea.errors.StoreError` where the database fails; then
    nothing of it is stored, save that a server may have gone away while it confirmed: ask :meth:`position` before going
    on.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.detection.alerts import make_alerts
    >>> flows = pl.DataFrame({"src_ip": ["192.0.2.7"], "dst_ip": ["198.51.100.1"], "dst_port": [22]})
    >>> verdicts = pl.DataFrame({"class": ["port_scan"], "score": [0.99]})
    >>> alerts = make_alerts(flows, verdicts, pl.Series([True]), model="ab12")
    >>> store = open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db")
    >>> store.commit_batch("conn.log", {"byte": 120}, alerts, n_flows=1, skipped={"line too long": 2})
    Committed(n_alerts=1, n_duplicates=0, n_suppressed=0)
    >>> store.incidents().rows.select("host", "class", "n_alerts", "status").row(0)
    ('192.0.2.7', 'port_scan', 1, 'open')
    >>> store.position("conn.log"), store.counters()[0].skipped
    ({'byte': 120}, {'line too long': 2})
    >>> store.close()
    """

    def __init__(self, engine: sa.Engine, *, incident_gap_s: float = GAP_S) -> None:
        self._engine, self._gap_s = engine, incident_gap_s
        self._failures: tuple[type[Exception], ...] = (SQLAlchemyError, _driver_error(engine))
        self._rules: tuple[int, list[AllowRule]] = (0, [])  # version, and the rules in force as of it
        self._joined = threading.local()  # the transaction that a thread holds open, see together

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def url(self) -> str:
        """Where the store is, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Bring the schema to the newest revision; :func:`open_store` does it first."""
        with self.read() as connection:
            if revision_of(connection) == HEAD:
                return
        with self.write() as connection:
            migrate(connection)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all that this thread asks of the store within the block: whole or not at all.

        Other writers wait meanwhile.

        Examples
        --------
        >>> import tempfile
        >>> store = open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db")
        >>> with contextlib.suppress(DataError), store.together():
        ...     store.register_sink("file")
        ...     store.set_incident_state("no such incident", "closed")
        >>> store.sink_counters()
        []
        >>> store.close()
        """
        with self._transaction(writes=True) as connection:
            self._joined.connection = connection
            try:
                yield
            finally:
                self._joined.connection = None

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Open a read transaction, which sees the store as of one moment."""
        return self._transaction()

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Open a write transaction: whole or not at all; other writers wait meanwhile."""
        return self._transaction(writes=True)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        joined = getattr(self._joined, "connection", None)
        if joined is not None:
            yield joined
            return
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=writes)
                with connection.begin():
                    yield connection
        except self._failures as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise StoreError(f"the store must answer, however: {self.url}: {reason}") from error

    # --- batches -----------------------------------------------------------------------------------------------------

    def commit_batch(
        self,
        source: str,
        position: Position | None,
        alerts: pl.DataFrame,
        *,
        n_flows: int,
        skipped: Mapping[str, int] | None = None,
        dropped: Mapping[str, int] | None = None,
        flow_minutes: Mapping[int, int] | None = None,
        binned: Sequence[BinnedFlows] = (),
        now: datetime | None = None,
        partition: PartitionStart | None = None,
        memory: Sequence[MemoryChange] = (),
    ) -> Committed:
        """Store what a batch of flows led to, whole or not at all.

        Parameters
        ----------
        source
            Name of the source.
        position
            Where to go on; None leaves what stands.
        alerts
            Alerts of the batch (:data:`deepidea.store.alert_columns.ALERT_COLUMNS`); those that the store holds already
            are counted as duplicates and change nothing. ``suppressed_by`` is set by the store's allow rules.
        n_flows
            Flows in the batch.
        skipped, dropped
            Records left out, and flows or packets lost, by reason.
        flow_minutes
            Flows by the minute in which they fall, in microseconds: :func:`deepidea.detection.rates.flows_by_minute`.
        binned
            A sample of the flows in the bins of the detector: ``deepidea.detection.drift.DriftMonitor``.
        now
            Time for the expiry of allow rules; the clock's where absent.
        partition
            Of a source that several processes read: its name counts in place of ``source``, alerts tell ``source``.
        memory
            Changes of what the source and everything behind it must remember, valid at ``position``.

        Raises
        ------
        StalePositionError
            The store does not stand where the partition's batch begins; nothing was stored.

        Notes
        -----
        Writers wait for one another, for the time of one batch.
        """
        now = now or datetime.now(UTC)
        with self._transaction(writes=True) as connection:
            if partition is not None:
                refuse_stale(connection, partition)
            rules = self._current_rules(connection, now)
            new = insert_alerts(connection, suppress(alerts, rules, now=now), source)
            add_to_incidents(connection, new, self._gap_s)
            count_alerts(connection, new)
            count_flows(connection, source, flow_minutes or {}, new)  # of all shares together
            count_drift(connection, source, binned)
            n_suppressed = new.height - new["suppressed_by"].null_count()
            done = Committed(new.height, alerts.height - new.height, n_suppressed)
            counters = {"n_flows": n_flows, "n_alerts": done.n_alerts, "n_duplicates": done.n_duplicates}
            about = {
                "name": partition.name if partition else source,
                "position": None if position is None else json.dumps(dict(position)),
            }
            row = {**about, **counters, "n_suppressed": n_suppressed, "updated_us": round(now.timestamp() * 1e6)}
            count_batch(connection, row, skipped or {}, dropped or {})
            write_memory(connection, about["name"] or source, memory)
        return done

    def _current_rules(self, connection: sa.Connection, now: datetime) -> list[AllowRule]:
        """Return the rules in force; where one has just ended, let its alerts go first."""
        version = rules_version(connection)
        if version != self._rules[0]:
            self._rules = (version, rules_in_force(connection))
        if any(not rule.is_active(now) for rule in self._rules[1]):
            apply_rules(connection, now, self._gap_s)
            self._rules = (0, [rule for rule in self._rules[1] if rule.is_active(now)])
        return self._rules[1]

    def position(self, source: str) -> Position | None:
        """Return where to go on with a source, None where it was never read or cannot be gone on with."""
        with self._transaction() as connection:
            text = connection.execute(sa.select(SOURCES.c.position).where(SOURCES.c.name == source)).scalar()
        return None if text is None else json.loads(text)

    def resume(self, source: str) -> tuple[Position | None, Mapping[str, list[bytes]]]:
        """Return the position of a source, and the memory that belongs to it: entries by part."""
        with self._transaction() as connection:
            text = connection.execute(sa.select(SOURCES.c.position).where(SOURCES.c.name == source)).scalar()
            return None if text is None else json.loads(text), read_memory(connection, source)

    def rename_source(self, old: str, new: str) -> None:
        """Give a source, its counters and its memory another name, unless that is taken or the old one is not there."""
        with self._transaction(writes=True) as connection:
            rename_source(connection, old, new)

    def counters(self) -> list[SourceCounters]:
        """Return the counters of every source, by name."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(SOURCES).order_by(SOURCES.c.name)).mappings().all()
            losses = connection.execute(sa.select(LOSSES).order_by(LOSSES.c.reason)).mappings().all()
        of: dict[tuple[str, str], dict[str, int]] = {}
        for loss in losses:
            of.setdefault((loss["source"], loss["kind"]), {})[loss["reason"]] = loss["n"]
        return [
            SourceCounters(
                **{key: row[key] for key in ("name", "n_flows", "n_alerts", "n_duplicates", "n_suppressed")},
                updated=datetime.fromtimestamp(row["updated_us"] / 1e6, UTC),
                skipped=of.get((row["name"], "skipped"), {}),
                dropped=of.get((row["name"], "dropped"), {}),
            )
            for row in rows
        ]

    def tell_engine(self, state: EngineState) -> None:
        """Keep how the engine of a source stands, in place of what it told before."""
        with self._transaction(writes=True) as connection:
            engine_states.put(connection, state)

    def engines(self) -> list[EngineState]:
        """Return how the engine of each source stood when it last told, by source."""
        with self._transaction() as connection:
            return sorted(engine_states.latest(connection), key=lambda state: state.source)

    # --- reading -----------------------------------------------------------------------------------------------------

    def alerts(
        self,
        *,
        incident: str | None = None,
        suppressed: bool | None = False,
        limit: int = 100,
        after: str | None = None,
        **filters: Unpack[AlertFilters],
    ) -> Page:
        """Return alerts, the latest first.

        Parameters
        ----------
        incident
            Id of an incident, or an earlier id of it.
        suppressed
            False: without those that an allow rule keeps quiet. True: those alone. None: all.
        limit
            Most rows.
        after
            ``next`` of the page before.
        **filters
            See :class:`AlertFilters`.

        Returns
        -------
        Page
            Columns of :data:`~deepidea.store.alert_columns.ALERT_COLUMNS` and ``source``.
        """
        wanted = reading.alert_conditions(suppressed=suppressed, **filters)
        with self._transaction() as connection:
            return reading.read_alerts(connection, wanted, incident=incident, limit=limit, after=after)

    def find_alert(self, beginning: str) -> dict[str, Any]:
        """Return the alert whose id begins so, as a row of :meth:`alerts`; one that is kept quiet, too.

        Raises
        ------
        DataError
            None does, or more than one.
        """
        wanted = [ALERTS.c.alert_id.startswith(beginning, autoescape=True)]
        with self._transaction() as connection:
            found = reading.read_alerts(connection, wanted, incident=None, limit=5, after=None)
        if found.rows.height != 1:
            ids = ", ".join(found.rows["alert_id"])
            what = f"{found.rows.height} or more do: {ids}" if ids else "none does; see deepidea alerts"
            raise DataError(f"one alert must have an id that begins {beginning!r}, however: {what}")
        return found.rows.row(0, named=True)

    def incidents(
        self,
        *,
        order: IncidentOrder = "latest",
        limit: int = 100,
        after: str | None = None,
        **filters: Unpack[IncidentFilters],
    ) -> Page:
        """Return incidents, page by page.

        Parameters
        ----------
        order
            The latest alert first, or by severity, number of alerts, score or host; those alike the latest first.
        limit, after
            Most rows, and ``next`` of the page before, which had the same order.
        filters
            :class:`IncidentFilters`; times are those of the last alert.

        Returns
        -------
        Page
            Columns of :data:`~deepidea.store.grouping.INCIDENT_COLUMNS`, with ``first`` and ``last`` as times in
            place of ``first_us`` and ``last_us``, and what people said: ``status``, ``note``, ``changed``.
        """
        wanted = incidents.incident_conditions(**filters)
        with self._transaction() as connection:
            return incidents.read_incidents(connection, wanted, order=order, limit=limit, after=after)

    def count_incidents(self, **filters: Unpack[IncidentFilters]) -> int:
        """Return how many incidents :meth:`incidents` has in all its pages."""
        with self._transaction() as connection:
            return incidents.count_incidents(connection, incidents.incident_conditions(**filters))

    def incident(self, incident_id: str) -> dict[str, Any] | None:
        """Return one incident as a row of :meth:`incidents`, also under an earlier id of it; None where it is not."""
        with self._transaction() as connection:
            found = incidents.incident_rows(
                connection, INCIDENTS.c.incident_id == reading.lead(connection, incident_id)
            )
        return found.row(0, named=True) if found.height else None

    def find_incident(self, beginning: str) -> str:
        """Return the id of the incident whose id begins so, also under an earlier id of it.

        Raises
        ------
        DataError
            None does, or more than one.
        """
        columns = (INCIDENTS.c.incident_id, INCIDENT_ALIASES.c.old_id)
        with self._transaction() as connection:
            found = sorted(
                {
                    reading.lead(connection, told)
                    for column in columns
                    for told in connection.execute(
                        sa.select(column).where(column.startswith(beginning, autoescape=True)).limit(5)
                    ).scalars()
                }
            )
        if len(found) != 1:
            what = f"{len(found)} or more do: {', '.join(found)}" if found else "none does"
            raise DataError(f"one incident must have an id that begins {beginning!r}, however: {what}")
        return found[0]

    def set_incident_state(self, incident_id: str, status: IncidentStatus, *, note: str = "") -> None:
        """Write what people say of an incident.

        Raises
        ------
        DataError
            The status is not one, or there is no such incident.
        """
        if status not in get_args(IncidentStatus):
            known = ", ".join(get_args(IncidentStatus))
            raise DataError(f"status must be one of {known}, however: it is {status!r}")
        with self._transaction(writes=True) as connection:
            current = reading.lead(connection, incident_id)
            if not incidents.incident_rows(connection, INCIDENTS.c.incident_id == current).height:
                raise DataError(f"an incident must be in the store, however: {incident_id!r} is not")
            state = {"status": status, "note": note, "changed_us": time.time_ns() // 1000}
            upsert(connection, INCIDENT_STATES, [{"incident_id": current, **state}])

    # --- at a glance -------------------------------------------------------------------------------------------------

    def alert_series(
        self, since: datetime | None = None, until: datetime | None = None, *, step_s: int = 60
    ) -> pl.DataFrame:
        """Return alerts over time that no rule keeps quiet: ``time`` (a step's beginning), ``class``, ``n``.

        Steps are whole minutes; those without alerts have no row.
        """
        with self._transaction() as connection:
            return overview.read_alert_series(connection, since, until, step_s)

    def flow_series(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        step_s: int = 60,
        source: str | None = None,
    ) -> pl.DataFrame:
        """Return flows over time, and the alerts among them, quiet or not: ``time``, ``n_flows``, ``n_alerts``.

        Of one source, or of all together. Steps are whole minutes; those without flows have no row.
        """
        with self._transaction() as connection:
            return overview.read_flow_series(connection, since, until, step_s, source)

    def severity_counts(self, **filters: Unpack[IncidentFilters]) -> pl.DataFrame:
        """Return incidents by ``severity`` and ``status``: ``n_incidents`` and ``n_alerts``."""
        with self._transaction() as connection:
            return overview.read_severity_counts(connection, incidents.incident_conditions(**filters))

    def newest_time(self) -> datetime | None:
        """Return when the latest flow or alert was, to the minute; None in an empty store.

        What was replayed lies where its packets do, which may be years ago: ask for times back from here.
        """
        with self._transaction() as connection:
            return overview.read_newest_time(connection)

    # --- allow rules -------------------------------------------------------------------------------------------------

    def rules(self) -> list[AllowRule]:
        """Return the allow rules, those that have ended too."""
        with self._transaction() as connection:
            return rules_in(connection)

    def add_rule(self, rule: AllowRule) -> int:
        """Keep an allow rule and apply it to what is stored; return how many alerts that changed."""
        with self._transaction(writes=True) as connection:
            put_rules(connection, [rule])
            return apply_rules(connection, datetime.now(UTC), self._gap_s)

    def remove_rule(self, rule_id: str) -> int:
        """Remove an allow rule and let go the alerts that it kept quiet; return how many alerts that changed."""
        with self._transaction(writes=True) as connection:
            connection.execute(ALLOW_RULES.delete().where(ALLOW_RULES.c.rule_id == rule_id))
            return apply_rules(connection, datetime.now(UTC), self._gap_s)

    def sync_rules(self, rules: Iterable[AllowRule], *, origin: str) -> int:
        """Make the rules of one origin, a file, those given; return how many alerts that changed.

        Rules of other origins stay. Nothing is looked at where nothing has changed.
        """
        given = {rule.rule_id: rule for rule in rules}
        with self._transaction(writes=True) as connection:
            known = {rule.rule_id: rule for rule in rules_in(connection)}
            gone = [rule_id for rule_id, rule in known.items() if rule.origin == origin and rule_id not in given]
            if not gone and all(known.get(rule_id) == rule for rule_id, rule in given.items()):
                return 0
            connection.execute(ALLOW_RULES.delete().where(ALLOW_RULES.c.rule_id.in_(gone)))
            put_rules(connection, given.values())
            return apply_rules(connection, datetime.now(UTC), self._gap_s)

    def apply_to_store(self, *, now: datetime | None = None) -> int:
        """Apply the rules of a time to what is stored; return how many alerts that changed.

        A batch does it when a rule has ended; call this where no batches come.
        """
        with self._transaction(writes=True) as connection:
            return apply_rules(connection, now or datetime.now(UTC), self._gap_s)

    # --- sinks -------------------------------------------------------------------------------------------------------

    def register_sink(self, sink: str, *, from_start: bool = False) -> None:
        """Make a sink known: it is owed all alerts from now on, or all that are stored; one that is known stays."""
        with self._transaction(writes=True) as connection:
            if connection.execute(sa.select(DELIVERIES.c.sink).where(DELIVERIES.c.sink == sink)).first() is None:
                newest = connection.execute(sa.select(sa.func.max(ALERTS.c.seq))).scalar() or 0
                last = 0 if from_start else max(newest, 0)
                connection.execute(DELIVERIES.insert().values(sink=sink, last_seq=last))

    def undelivered(self, sink: str, *, limit: int = 1000) -> pl.DataFrame:
        """Return the first alerts that a sink has not got, in the order of storing.

        Columns are those of :meth:`alerts` without ``features``, and the number ``seq``.
        """
        with self._transaction() as connection:
            return reading.read_undelivered(connection, sink, limit)

    def mark_delivered(self, sink: str, last_seq: int, *, n_delivered: int = 0, n_dead: int = 0) -> None:
        """Take note that a sink has got, or dead letters hold, all alerts up to a number."""
        done = DELIVERIES.c
        values = {"n_delivered": done.n_delivered + n_delivered, "n_dead": done.n_dead + n_dead}
        with self._transaction(writes=True) as connection:
            here = DELIVERIES.update().where(done.sink == sink)
            connection.execute(here.values(**values))
            connection.execute(here.where(done.last_seq < last_seq).values(last_seq=last_seq))

    def sink_counters(self) -> list[SinkCounters]:
        """Return what went to each sink, by name."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(DELIVERIES).order_by(DELIVERIES.c.sink)).mappings().all()
            waiting = {row["sink"]: reading.count_after(connection, row["last_seq"]) for row in rows}
        return [
            SinkCounters(row["sink"], row["n_delivered"], waiting[row["sink"]], row["n_dead"], row["n_lost"])
            for row in rows
        ]

    # --- retention ---------------------------------------------------------------------------------------------------

    def purge(self, older_than: datetime) -> Committed:
        """Delete alerts from before a time, and incidents whose last alert is; return how many alerts went.

        Alerts that a sink has not got yet are counted as lost to it. Counters of sources stay. An incident that reaches
        over the time keeps its counts, though its early alerts are gone.
        """
        limit = round(older_than.timestamp() * 1e6)
        old = ALERTS.c.time_us < limit
        with self._transaction(writes=True) as connection:
            self._count_lost(connection, old)
            quiet = connection.execute(
                sa.select(sa.func.count()).select_from(ALERTS).where(old & ALERTS.c.suppressed_by.is_not(None))
            ).scalar_one()
            n_alerts = connection.execute(ALERTS.delete().where(old)).rowcount
            connection.execute(EVIDENCE.delete().where(EVIDENCE.c.newest_us < limit))
            connection.execute(INCIDENTS.delete().where(INCIDENTS.c.last_us < limit))
            kept = sa.select(INCIDENTS.c.incident_id)
            states, aliases = INCIDENT_STATES.c, INCIDENT_ALIASES.c
            unheld = (states.changed_us < limit) & states.incident_id.not_in(kept)
            connection.execute(INCIDENT_STATES.delete().where(unheld))
            connection.execute(INCIDENT_ALIASES.delete().where(aliases.new_id.not_in(kept)))
            purge_counts(connection, limit)
        return Committed(n_alerts, 0, quiet)

    def _count_lost(self, connection: sa.Connection, old: sa.ColumnElement[bool]) -> None:
        for sink, last_seq in connection.execute(sa.select(DELIVERIES.c.sink, DELIVERIES.c.last_seq)).all():
            lost = reading.count_after(connection, last_seq, old)
            if lost:
                here = DELIVERIES.update().where(DELIVERIES.c.sink == sink)
                connection.execute(here.values(n_lost=DELIVERIES.c.n_lost + lost))
