"""What requests to the API may hold: every field with its limits, and no field besides."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deepidea.store.access import Role
from deepidea.store.audit import MOST_NAME
from deepidea.store.drift import Against
from deepidea.store.feedback import Subject, Verdict
from deepidea.store.incidents import IncidentOrder, IncidentStatus, VerdictFilter
from deepidea.web.service import MOST_IN_BULK, MOST_ROWS
from deepidea.web.views import LONGEST_NOTE
from deepidea.web.windows import WindowName

_NO_NUL = r"^[^\x00]*$"
ID = r"^[0-9a-f]{32}$"


def _in_range(when: datetime) -> datetime:
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    if not 1970 < when.year < 2200:
        raise ValueError(f"a time must lie in 1971..2199, got {when.isoformat()}")
    return when


Time = Annotated[
    datetime,
    AfterValidator(_in_range),
    Field(description="ISO 8601; without an offset, UTC. In 1971..2199.", examples=["2026-05-04T12:00:00Z"]),
]
Text = Annotated[str, Field(max_length=200, pattern=_NO_NUL)]
Cursor = Annotated[
    str,
    Field(max_length=1000, pattern=r"^[A-Za-z0-9_-]*$", description="`next` of the page before, in the same order."),
]
Note = Annotated[str, Field(max_length=LONGEST_NOTE, pattern=_NO_NUL)]
Severity = Annotated[int, Field(ge=1, le=4, description="As urgent as this at least: 2 is critical and high.")]
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS, description="Most items.")]

IncidentId = Annotated[str, Path(pattern=ID, description="Of an incident; an earlier id of it does too.")]
AlertId = Annotated[str, Path(pattern=ID)]
RuleId = Annotated[str, Path(pattern=r"^allow-[0-9a-f]{12}$")]
ModelId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
HostName = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]+$", description="Address, as alerts have it.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


# --- queries ---------------------------------------------------------------------------------------------------------


class PageQuery(_Strict):
    """Where a page of a list begins, and how long it is."""

    limit: Limit = 50
    after: Cursor | None = None


class SpanQuery(_Strict):
    """A stretch of time: a window by name, or two times in its place."""

    window: WindowName = "24h"
    since: Time | None = None
    until: Time | None = None


class IncidentQuery(PageQuery):
    """Filters of incidents; times are those of the last alert."""

    order: IncidentOrder = "latest"
    since: Time | None = None
    until: Time | None = None
    host: Text | None = None
    class_name: Text | None = None
    severity: Severity | None = None
    only: Annotated[Severity | None, Field(description="Exactly this severity.")] = None
    status: IncidentStatus | None = None
    verdict: Annotated[VerdictFilter | None, Field(description="What the latest verdict is; none: not judged.")] = None
    search: Annotated[
        Text | None,
        Field(description="Words to find in host, class, behaviour, evidence, id or note; or a whole address or port."),
    ] = None


class AlertQuery(PageQuery):
    """Filters of alerts."""

    since: Time | None = None
    until: Time | None = None
    host: Text | None = None
    class_name: Text | None = None
    severity: Severity | None = None
    source: Annotated[str | None, Field(max_length=1000, pattern=_NO_NUL)] = None
    incident: Annotated[str | None, Field(pattern=ID)] = None
    suppressed: Annotated[
        Literal["no", "only", "all"], Field(description="Whether to list alerts that an allow rule suppresses.")
    ] = "no"


class HostQuery(PageQuery):
    """Filters of hosts."""

    since: Time | None = None
    until: Time | None = None
    search: Text = ""


class FlowQuery(SpanQuery):
    """A stretch of time, of one source or of all."""

    source: Annotated[str | None, Field(max_length=1000, pattern=_NO_NUL)] = None


class VerdictQuery(PageQuery):
    """Filters of verdicts."""

    subject: Subject | None = None
    analyst: Text | None = None


class DriftQuery(_Strict):
    """Which flows are compared with which."""

    model: Annotated[str | None, Field(pattern=r"^[0-9a-f]{1,64}$", description="Fingerprint of a detector.")] = None
    source: Annotated[str | None, Field(max_length=1000, pattern=_NO_NUL)] = None
    since: Time | None = None
    until: Time | None = None
    against: Against | None = None


class ExportQuery(_Strict):
    """How judged flows are written."""

    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    per_incident: Annotated[int | None, Field(ge=1, le=1_000_000, description="Most flows of an incident.")] = None


class UploadQuery(_Strict):
    """What a model is called."""

    name: Text = ""


class EventsQuery(_Strict):
    """Where a stream begins."""

    after: Annotated[
        str | None, Field(max_length=40, description="Id of the last event received, as in `Last-Event-ID`.")
    ] = None


# --- bodies ----------------------------------------------------------------------------------------------------------


class IncidentChange(_Strict):
    """What an incident is to become; what is absent stays."""

    status: IncidentStatus | None = None
    note: Note | None = None
    version: Annotated[
        int | None,
        Field(
            ge=0, lt=1 << 53, description="`version` of the incident as it was seen; 409 where it has changed since."
        ),
    ] = None


class BulkChange(_Strict):
    """What many incidents are to become: all of them, or none."""

    incident_ids: Annotated[list[Annotated[str, Field(pattern=ID)]], Field(min_length=1, max_length=MOST_IN_BULK)]
    status: IncidentStatus
    note: Note | None = None
    versions: Annotated[
        dict[Annotated[str, Field(pattern=ID)], Annotated[int, Field(ge=0, lt=1 << 53)]] | None,
        Field(max_length=MOST_IN_BULK, description="`version` by id, as they were seen."),
    ] = None


class NewVerdict(_Strict):
    """A verdict of an analyst."""

    subject: Subject
    subject_id: Annotated[str, Field(pattern=ID)]
    verdict: Verdict
    class_name: Annotated[
        Text | None, Field(description="Of a true positive: the right class, where the detector's is wrong.")
    ] = None
    note: Note = ""


class NewRule(_Strict):
    """An allow rule: an alert must meet all criteria that are given, and one must be."""

    src: Annotated[Text | None, Field(description="Address or CIDR block of the flow's source.")] = None
    dst: Annotated[Text | None, Field(description="Address or CIDR block of its destination.")] = None
    host: Annotated[Text | None, Field(description="Address or block of either of them.")] = None
    peer: Annotated[Text | None, Field(description="Of the other one; goes with host.")] = None
    port: Annotated[str | None, Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", examples=["443", "8000-8100"])] = None
    class_name: Text | None = None
    expires: Time | None = None
    note: Annotated[str, Field(max_length=1000, pattern=_NO_NUL)] = ""


class Activate(_Strict):
    """Why a model becomes the active one, and whether in spite of what a comparison says."""

    note: Annotated[str, Field(max_length=1000, pattern=_NO_NUL)] = ""
    force: bool = False


class RollBack(_Strict):
    """Why the model before becomes the active one again."""

    note: Annotated[str, Field(max_length=1000, pattern=_NO_NUL)] = ""


class NewTokenRequest(_Strict):
    """Whose token, what it may do, and until when."""

    name: Annotated[str, Field(min_length=1, max_length=MOST_NAME, pattern=_NO_NUL)]
    role: Role
    expires: Time | None = None


class Purge(_Strict):
    """What is to be deleted."""

    older_than: Time
