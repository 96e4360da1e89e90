"""The paper's benchmark: systems, cells, comparison and report."""
