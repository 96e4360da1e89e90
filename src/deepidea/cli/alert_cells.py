"""Cells of tables of incidents and alerts, and of what explains them."""

from __future__ import annotations

from datetime import datetime

from rich.table import Column
from rich.text import Text

ID_SHOWN = 18  # characters that tell incidents, and alerts, apart; commands take the beginning of an id
SEVERITIES = {1: "critical", 2: "high", 3: "medium", 4: "low"}  # without loading what makes alerts
_STYLES = {1: "bold red", 2: "red", 3: "yellow", 4: "dim"}


def id_column(title: str) -> Column:
    """Return a column of shortened ids that is never folded."""
    return Column(title, no_wrap=True, min_width=ID_SHOWN)


def severity_cell(severity: int) -> Text:
    """Return the name of a severity in its colour."""
    return Text(SEVERITIES[severity], _STYLES[severity])


def time_cell(when: datetime | None, absent: str = "?") -> str:
    """Return a time to the second."""
    return absent if when is None else f"{when:%Y-%m-%d %H:%M:%S}"


def endpoint_cell(address: str | None, port: int | None) -> str:
    """Return an address and a port.

    Examples
    --------
    >>> endpoint_cell("2001:db8::1", 443), endpoint_cell("192.0.2.1", None), endpoint_cell(None, 80)
    ('[2001:db8::1]:443', '192.0.2.1', '?')
    """
    if address is None:
        return "?"
    shown = f"[{address}]" if ":" in address and port is not None else address
    return shown if port is None else f"{shown}:{port}"
