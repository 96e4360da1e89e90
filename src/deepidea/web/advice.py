"""Next steps for an incident: by its class, the score, and its label."""

from __future__ import annotations

from deepidea.flows.attack_classes import attack_class_of
from deepidea.store.incidents import Incident
from deepidea.web.views import IncidentView

__all__ = ["next_steps"]

SURE_SCORE = 0.9
LOW = 4  # findings of low severity got nowhere: no doubt to settle
SCANNED = (
    "Check that {host} answers only on ports that it should, and whether {other} reached any of its services. "
    "Scans from outside that got nowhere need no action."
)


def next_steps(view: IncidentView) -> list[str]:
    """Return the next steps, in order, as plain text; names in them are not escaped."""
    row = view.incident
    if row.status in ("closed", "false_alarm"):
        state = "closed" if row.status == "closed" else "a false alarm"
        return [f"Nothing: it is {state}. New alerts of it are still added here; reopen it to work on them."]
    other = view.hosts.top[0].value if row.n_hosts == 1 and view.hosts.top else "the other hosts"
    return [_first_step(row, other), *_doubts(view), _label_step(view)]


def _first_step(row: Incident, other: str) -> str:
    """Return the advice of the class; where a finding made it the target's incident, the attacker is the other end."""
    known = attack_class_of(row.class_name)
    if known.role == row.role:
        return known.advice.format(host=row.host, other=other)
    if known.behaviour == "scan":
        return SCANNED.format(host=row.host, other=other)
    return known.advice.format(host=other, other=row.host)


def _doubts(view: IncidentView) -> list[str]:
    """Return steps that check a doubtful verdict."""
    row, doubts = view.incident, []
    if row.verdict is not None and row.verdict.verdict == "unsure":
        doubts.append(f"{row.verdict.analyst} was unsure: read the note below.")
    if row.score is not None and row.score < SURE_SCORE and not (row.finding and row.severity == LOW):
        where = "the counts under Evidence" if row.finding else "the reasons under Why"
        doubts.append(f"The score is low ({row.score:.2f}): check {where} first.")
    return doubts


def _label_step(view: IncidentView) -> str:
    if view.incident.verdict is not None and view.incident.verdict.verdict == "false_positive":
        return "It is labelled a false positive: close it, and add an allow rule if it will recur."
    return "Label it true or false positive, then close it. If the traffic is expected, add an allow rule."
