"""Data sets: specifications, download, registration, loading and description."""
