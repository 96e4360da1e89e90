"""Alerts as text that other tools read: Suricata's EVE, the Elastic Common Schema, OCSF and CEF."""
