"""Where alerts go: formats, sinks and delivery."""
