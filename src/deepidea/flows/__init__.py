"""Flow tables: what columns mean, where data sets come from, how files are read."""
