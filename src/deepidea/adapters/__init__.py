"""Programs of others that flows and detectors are carried over: each wraps a source or a detector."""
