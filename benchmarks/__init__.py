"""Scripts that measure the project; their results are committed under ``results``."""
