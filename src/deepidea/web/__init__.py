"""The operator's page and its API: one process over a store."""
