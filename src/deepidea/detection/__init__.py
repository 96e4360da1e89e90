"""Sources of flows, the engine that runs a detector over them, and where its alerts go."""
