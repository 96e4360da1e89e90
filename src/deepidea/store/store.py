"""Open a store and run transactions on it; the functions of this package's other modules read and write in them.

SQLite by default, PostgreSQL where several machines write or read. The results of a batch, the source's position and
counters are written in one transaction: a process that is killed at any moment and resumes from the stored position
loses nothing and repeats nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from deepidea.errors import MissingExtraError, StoreError
from deepidea.store.grouping import GAP_S
from deepidea.store.migrating import HEAD, migrate, revision_of

__all__ = ["Store", "open_store"]

BUSY_TIMEOUT_S = 30.0
_LOCK = 0x1DEA  # of PostgreSQL's advisory locks: a writer holds it until its transaction ends

P = ParamSpec("P")
T = TypeVar("T")


def open_store(url: str, *, incident_gap_s: float = GAP_S) -> Store:
    """Open a store, create it if it is absent, and migrate it to the newest revision.

    Parameters
    ----------
    url
        ``sqlite:///path`` (``sqlite:////absolute/path``), or ``postgresql://user:password@host/database``.
    incident_gap_s
        Longest time between two alerts of an incident, in seconds.

    Raises
    ------
    StoreError
        The database cannot be opened, belongs to another program, or a newer release wrote it.
    MissingExtraError
        The driver of PostgreSQL is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.store import sources
    >>> with open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db") as store:
    ...     store.query(sources.position, "conn.log") is None
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
            f"a store on PostgreSQL needs psycopg ({error}); install it with: pip install 'deepidea[postgres]'"
        ) from error
    except SQLAlchemyError as error:
        raise StoreError(_no_url(url)) from error
    _prepare(engine)
    return engine


def _no_url(url: str) -> str:
    return (
        f"cannot open a store of kind {url.partition('://')[0]!r}: give sqlite:///path or "
        "postgresql://user@host/database"
    )


def _connect_args(url: sa.URL) -> dict[str, Any]:
    return {"timeout": BUSY_TIMEOUT_S} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}


def _prepare(engine: sa.Engine) -> None:
    """Begin transactions explicitly, a writer's with the lock that keeps other writers out.

    One writer at a time is the invariant behind the rest of this package: numbers of alerts, incidents and counters are
    read, changed and written back without a conflict to handle. A lock taken at the first write instead would let two
    transactions read the same state first, and SQLite would then fail one of them at once, without waiting.
    """
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)


def _set_pragmas(connection: Any, _: object) -> None:
    connection.isolation_level = None  # keeps the driver from opening transactions itself
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:  # of two processes that open a new file: SQLite does not wait here
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may undo the last transactions, never tear one


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


class Store:
    """An open store; made by :func:`open_store`. Threads may share it.

    :meth:`read` and :meth:`write` open transactions, whose connections this package's functions take; :meth:`query` and
    :meth:`execute` run one function in a transaction. A transaction that fails is rolled back and raises
    :class:`~deepidea.errors.StoreError`. A server may fail after the commit: read the position before a retry.

    They nest: within a transaction of the same thread, :meth:`read` joins it, and :meth:`write` joins a write.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.errors import DataError
    >>> from deepidea.store import deliveries, incidents
    >>> store = open_store(f"sqlite:///{tempfile.mkdtemp()}/alerts.db")
    >>> with contextlib.suppress(DataError), store.write() as connection:
    ...     deliveries.register(connection, "file")
    ...     incidents.set_state(connection, "no such incident", "closed")
    >>> store.query(deliveries.counters)
    []
    >>> store.close()
    """

    def __init__(self, engine: sa.Engine, *, incident_gap_s: float = GAP_S) -> None:
        self._engine, self._gap_s = engine, incident_gap_s
        driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error  # of calls without SQLAlchemy between
        self._failures: tuple[type[Exception], ...] = (SQLAlchemyError, driver_error)
        self._of_thread = threading.local()  # the transaction that a thread has open

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
        """URL of the store, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Migrate the schema to the newest revision; :func:`open_store` does it first."""
        if self.query(revision_of) != HEAD:
            self.execute(migrate)

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Open a read transaction: all its queries see the store as of one moment."""
        return self._transaction(writes=False)

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Open a write transaction; other writers wait until it ends."""
        return self._transaction(writes=True)

    def query(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in a read transaction."""
        with self.read() as connection:
            return function(connection, *args, **kwargs)

    def execute(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in a write transaction."""
        with self.write() as connection:
            return function(connection, *args, **kwargs)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[sa.Connection]:
        outer: sa.Connection | None = getattr(self._of_thread, "connection", None)
        if outer is not None and (not writes or outer.get_execution_options()["writes"]):
            yield outer
            return
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(writes=writes, incident_gap_s=self._gap_s)
                with connection.begin():
                    self._of_thread.connection = connection
                    try:
                        yield connection
                    finally:
                        self._of_thread.connection = outer
        except self._failures as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise StoreError(f"cannot use store {self.url}: {reason}") from error
