"""Fixtures of the tests of the store: one of each kind."""

from tests.detection.conftest import postgres_socket, sqlite_store, store, store_url

__all__ = ["postgres_socket", "sqlite_store", "store", "store_url"]
