"""What to do next about an incident, in plain sentences: by how it behaves, how sure it is, and what was said of it."""

from __future__ import annotations

from collections.abc import Mapping

from deepidea.web.labels import kind_of_class
from deepidea.web.views import IncidentView

__all__ = ["next_steps"]

_LOOK: Mapping[str, str] = {
    "scan": "Ask whether {host} is a scanner that you run. If it is not, find out who uses it, and look for what it "
    "asked for next: a scan is often the beginning.",
    "guess": "Look into the logs of {other} for a login from {host} that succeeded, and change that password if there "
    "is one.",
    "flood": "Ask whether {host} still answers its users. If it does not, limit or block what comes in, nearest to "
    "where it comes from.",
    "inside": "Take {host} off the network before anything else, keep it switched on, and look for what else it "
    "talked to.",
    "taken": "Find out what {host} sent to {other}, and which program did. Stop the flows if nobody can say.",
    "web": "Look into the web server's log of {other} for these requests, and whether any was answered with success.",
    "other": "Find out what {host} does here and whether {other} expects it.",
}


def next_steps(view: IncidentView) -> list[str]:
    """Return what to do, the first thing first; plain text in which names stand unescaped.

    Examples
    --------
    >>> kind_of_class("port_scan") in _LOOK
    True
    """
    row = view.incident
    if row.status in ("closed", "false_alarm"):
        return [f"Nothing: it is {'closed' if row.status == 'closed' else 'a false alarm'}. Alerts that still come "
                "of it show here; reopen it if they should be looked at."]  # fmt: skip
    other = view.hosts.top[0].value if row.n_hosts == 1 and view.hosts.top else "the other hosts"
    look = _LOOK[kind_of_class(row.class_name)].format(host=row.host, other=other)
    return [look, *_doubts(view), _say(view)]


def _doubts(view: IncidentView) -> list[str]:
    """Return what speaks against taking the verdict as it is."""
    row, told = view.incident, []
    if row.verdict is not None and row.verdict.verdict == "unsure":
        told.append(f"{row.verdict.analyst} was unsure; read why below.")
    if row.score is not None and row.score < 0.9:
        told.append(f"The detector is not sure either (score {row.score:.2f}): check the reasons under Why first.")
    if view.unusual:
        told.append(view.unusual)
    return told


def _say(view: IncidentView) -> str:
    if view.incident.verdict is not None and view.incident.verdict.verdict == "false_positive":
        return "It was judged a false positive: close it, and allow-list it if it will come again."
    return "Then say whether it was right, and close it. If it is known and wanted, allow-list it."
