"""Packets: captures read and metered into flows, or invented."""
