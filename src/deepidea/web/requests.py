"""Models of API requests: fields with their limits; unknown fields are refused."""

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
    # databases and plots fail far outside of this range, and no flow is from there
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
Reason = Annotated[str, Field(max_length=1000, pattern=_NO_NUL)]
SourceName = Annotated[str, Field(max_length=1000, pattern=_NO_NUL)]
Severity = Annotated[int, Field(ge=1, le=4, description="At least this urgent: 2 is critical and high.")]
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS, description="Most items.")]

IncidentId = Annotated[str, Path(pattern=ID, description="Present or earlier id of an incident.")]
AlertId = Annotated[str, Path(pattern=ID)]
RuleId = Annotated[str, Path(pattern=r"^allow-[0-9a-f]{12}$")]
ModelId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]
HostName = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]+$", description="Address, spelt as in alerts.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


# --- queries ---------------------------------------------------------------------------------------------------------


class PageQuery(_Strict):
    """Beginning and length of a page of a list."""

    limit: Limit = 50
    after: Cursor | None = None


class _Bounded(_Strict):
    since: Time | None = None
    until: Time | None = None


class SpanQuery(_Bounded):
    """A period of time: a window by name, or its bounds."""

    window: WindowName = "24h"


class IncidentQuery(PageQuery, _Bounded):
    """Filters of incidents; times are those of the last alert."""

    order: IncidentOrder = "latest"
    host: Text | None = None
    class_name: Text | None = None
    severity: Severity | None = None
    only: Annotated[Severity | None, Field(description="Exactly this severity.")] = None
    status: IncidentStatus | None = None
    verdict: Annotated[VerdictFilter | None, Field(description="Latest verdict; none: not labelled.")] = None
    search: Annotated[
        Text | None,
        Field(description="Words to find in host, class, behaviour, evidence, id or note; or a whole address or port."),
    ] = None


class AlertQuery(PageQuery, _Bounded):
    """Filters of alerts."""

    host: Text | None = None
    class_name: Text | None = None
    severity: Severity | None = None
    source: SourceName | None = None
    incident: Annotated[str | None, Field(pattern=ID)] = None
    suppressed: Annotated[
        Literal["no", "only", "all"], Field(description="Whether to list alerts that an allow rule suppresses.")
    ] = "no"


class HostQuery(PageQuery, _Bounded):
    """Filters of hosts."""

    search: Text = ""


class FlowQuery(SpanQuery):
    """A period of time, of one source or of all."""

    source: SourceName | None = None


class VerdictQuery(PageQuery):
    """Filters of verdicts."""

    subject: Subject | None = None
    analyst: Text | None = None


class DriftQuery(_Bounded):
    """Flows to check, and the flows to compare them with."""

    model: Annotated[str | None, Field(pattern=r"^[0-9a-f]{1,64}$", description="Fingerprint of a detector.")] = None
    source: SourceName | None = None
    against: Against | None = None


class ExportQuery(_Strict):
    """Format and size of an export of labelled flows."""

    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    per_incident: Annotated[int | None, Field(ge=1, le=1_000_000, description="Most flows of an incident.")] = None


class UploadQuery(_Strict):
    """Name of an uploaded model."""

    name: Text = ""


class EventsQuery(_Strict):
    """Beginning of a stream."""

    after: Annotated[
        str | None, Field(max_length=40, description="Id of the last event received, as in `Last-Event-ID`.")
    ] = None


# --- bodies ----------------------------------------------------------------------------------------------------------


class IncidentChange(_Strict):
    """Change of an incident; absent fields stay."""

    status: IncidentStatus | None = None
    note: Note | None = None
    version: Annotated[
        int | None,
        Field(ge=0, lt=1 << 53, description="`version` that the client has seen; 409 if it has changed since."),
    ] = None


class BulkChange(_Strict):
    """Change of several incidents: all of them, or none."""

    incident_ids: Annotated[list[Annotated[str, Field(pattern=ID)]], Field(min_length=1, max_length=MOST_IN_BULK)]
    status: IncidentStatus
    note: Note | None = None
    versions: Annotated[
        dict[Annotated[str, Field(pattern=ID)], Annotated[int, Field(ge=0, lt=1 << 53)]] | None,
        Field(max_length=MOST_IN_BULK, description="`version` by id, as the client has seen them."),
    ] = None


class NewVerdict(_Strict):
    """A verdict of an analyst."""

    subject: Subject
    subject_id: Annotated[str, Field(pattern=ID)]
    verdict: Verdict
    class_name: Annotated[
        Text | None, Field(description="For a true positive: the right class, if the predicted one is wrong.")
    ] = None
    note: Note = ""


class NewRule(_Strict):
    """An allow rule: an alert must meet all given criteria, at least one."""

    src: Annotated[Text | None, Field(description="Source address or CIDR block.")] = None
    dst: Annotated[Text | None, Field(description="Destination address or CIDR block.")] = None
    host: Annotated[Text | None, Field(description="Address or CIDR block of either end.")] = None
    peer: Annotated[Text | None, Field(description="With host: address or CIDR block of the other end.")] = None
    port: Annotated[str | None, Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", examples=["443", "8000-8100"])] = None
    class_name: Text | None = None
    expires: Time | None = None
    note: Reason = ""


class Activate(_Strict):
    """Activation of a model; ``force`` activates it without a comparison, or despite a bad one."""

    note: Reason = ""
    force: bool = False


class RollBack(_Strict):
    """Rollback to the model before."""

    note: Reason = ""


class NewTokenRequest(_Strict):
    """Owner, role and end of a new token."""

    name: Annotated[str, Field(min_length=1, max_length=MOST_NAME, pattern=_NO_NUL)]
    role: Role
    expires: Time | None = None


class Purge(_Strict):
    """Age of what is deleted."""

    older_than: Time
