"""How good a detector is: splits, metrics, reports."""
