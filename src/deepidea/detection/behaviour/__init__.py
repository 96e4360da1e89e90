"""Behaviour windows: what hosts and pairs of hosts did in 10 s to 1 h, and the findings that stand out in them."""
