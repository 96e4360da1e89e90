"""Where flows come from: one module a kind of source."""
