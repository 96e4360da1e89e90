"""The store: one schema, one module a subject, functions over a connection. SQLite by default, PostgreSQL too."""
