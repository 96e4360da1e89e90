"""Bring a store to the newest schema: made whole where it is new, by Alembic where an earlier release wrote it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from deepidea.errors import StoreError
from deepidea.store.tables import META, VERSION, metadata

__all__ = ["HEAD", "check_current", "migrate", "revision_of"]

HEAD = "0005"
"""Revision of the schema that :mod:`deepidea.store.tables` defines."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_FIRST_ROWS = [{"key": "next_seq", "value": "1"}, {"key": "rules_version", "value": "1"}]


def revision_of(connection: sa.Connection) -> str | None:
    """Return the revision of a store, None of an empty database.

    Raises
    ------
    StoreError
        The database holds tables of another program, or no version.
    """
    inspector = sa.inspect(connection)
    if inspector.has_table(VERSION.name):
        return str(connection.execute(sa.select(VERSION.c.version_num)).scalar_one())
    names = set(inspector.get_table_names())
    if META.name not in names:
        if names & set(metadata.tables):
            raise StoreError(
                "the database is no store: it has a table of another program with the name of one of ours; "
                "choose another database"
            )
        return None
    # releases before Alembic kept a number in meta
    number = connection.execute(sa.select(META.c.value).where(META.c.key == "version")).scalar()
    if number is None or not number.isdecimal():
        raise StoreError(f"the database is no store: its version is {number!r}; choose another database")
    return f"{int(number):04d}"


def migrate(connection: sa.Connection) -> None:
    """Bring a store to the newest revision, in the caller's transaction, which must keep other writers out.

    Raises
    ------
    StoreError
        A newer release wrote the store, or it is none.
    """
    revision = revision_of(connection)
    if revision == HEAD:
        return
    if revision is None:
        metadata.create_all(connection)
        connection.execute(META.insert(), _FIRST_ROWS)
        _stamp(connection, HEAD)
        return
    if revision > HEAD:
        raise StoreError(
            f"a newer release wrote the store: it has revision {revision}, this one knows {HEAD}; use that"
        )
    _upgrade(connection, revision)


def _stamp(connection: sa.Connection, revision: str) -> None:
    VERSION.create(connection, checkfirst=True)
    connection.execute(VERSION.delete())
    connection.execute(VERSION.insert().values(version_num=revision))


def _upgrade(connection: sa.Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    _stamp(connection, revision)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def check_current(connection: sa.Connection) -> None:
    """Raise :class:`StoreError` where another release has changed the schema since the store was opened."""
    revision = revision_of(connection)
    if revision != HEAD:
        raise StoreError(f"the store has revision {revision} now, and this release needs {HEAD}; run the newer release")
