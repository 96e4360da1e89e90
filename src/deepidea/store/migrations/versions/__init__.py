"""Revisions of the schema, oldest first. A published one never changes: add another."""
