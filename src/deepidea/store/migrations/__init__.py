"""Alembic environment of the store, see :mod:`deepidea.store.migrating`."""
