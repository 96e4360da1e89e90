"""From a source's flows to what a detector reads, and what must be remembered of them on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from deepidea.detection.behaviour.findings import FINDING_COLUMNS, BehaviourDetector
from deepidea.detection.behaviour.windows import identified
from deepidea.errors import DataError
from deepidea.flows.context import HostContext
from deepidea.flows.sensors.projection import to_conn
from deepidea.model.detector import Detector
from deepidea.store.memory import MemoryChange

__all__ = ["BEHAVIOURS", "HOSTS", "FlowAdapter", "FoundBehaviours", "flow_adapter"]

HOSTS, BEHAVIOURS = "hosts", "behaviours"  # parts of a source's memory: host context, behaviour windows
_NO_FINDINGS = pl.DataFrame(schema=pl.Schema(FINDING_COLUMNS))
_PART_TITLES = {HOSTS: "host context", BEHAVIOURS: "behaviour windows"}


class FoundBehaviours(NamedTuple):
    """What behaviours were found in flows.

    Parameters
    ----------
    findings
        :data:`~deepidea.detection.behaviour.findings.FINDING_COLUMNS`.
    unseen
        Boolean ``(n_flows,)``: flows that are not looked at, such as those without an address or a time.
    """

    findings: pl.DataFrame
    unseen: pl.Series


class FlowAdapter:
    """Makes of a source's flows what a detector reads: projected to ``conn``, with context of hosts, or as they are.

    It remembers what hosts did: for host context, and to find behaviours.
    """

    def __init__(
        self, *, project: bool, context: HostContext | None, behaviours: BehaviourDetector | None = None
    ) -> None:
        self.project, self.context, self.behaviours = project, context, behaviours
        self._leftover: set[str] = set()  # parts in the store that a detector without them makes out of date

    @property
    def changes(self) -> bool:
        """Whether the detector sees other columns than the source gives."""
        return self.project or self.context is not None

    @property
    def n_forgotten(self) -> int:
        """Hosts, pairs and services that were forgotten for newer ones within the hour."""
        return 0 if self.behaviours is None else self.behaviours.evicted

    def __call__(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return a table that the detector's schema conforms."""
        table = to_conn(flows) if self.project and "duration_us" in flows.columns else flows
        return table if self.context is None else self.context.add(table)

    def find(self, flows: pl.DataFrame) -> FoundBehaviours:
        """Return the behaviours that flows complete, and the flows in which none can be found."""
        if self.behaviours is None:
            return FoundBehaviours(_NO_FINDINGS, pl.repeat(True, flows.height, eager=True))
        known = identified(flows)
        if not known.any():
            return FoundBehaviours(_NO_FINDINGS, ~known)
        found = self.behaviours.find(flows.filter(known))  # without the others, which would move its clock
        rows = known.arg_true().gather(found["row"])
        return FoundBehaviours(found.with_columns(rows.cast(pl.UInt32).alias("row")), ~known)

    def save(self) -> tuple[MemoryChange, ...]:
        """Return the changes of what is remembered since the last call."""
        changes = [MemoryChange(part, None) for part in sorted(self._leftover)]
        self._leftover = set()
        for part, remembers in self._parts.items():
            saved = remembers.save() if remembers is not None else None
            if saved is not None:
                changes.append(MemoryChange(part, saved[0], append=saved[1]))
        return tuple(changes)

    @property
    def _parts(self) -> dict[str, HostContext | BehaviourDetector | None]:
        return {HOSTS: self.context, BEHAVIOURS: self.behaviours}

    def restore(self, memory: Mapping[str, Sequence[bytes]]) -> dict[str, str]:
        """Take back what was saved, by part; return what cannot be, and why."""
        failed = {}
        self._leftover = {part for part, remembers in self._parts.items() if remembers is None and memory.get(part)}
        for part, restore in ((HOSTS, self._restore_context), (BEHAVIOURS, self._restore_behaviours)):
            entries = memory.get(part, [])
            if self._parts[part] is None:
                continue
            try:
                restore(entries)
            except ValueError as error:
                failed[_PART_TITLES[part]] = str(error)
        return failed

    def start_empty(self, reason: str) -> dict[str, str]:
        """Return what starts empty, by part, for one reason."""
        return {_PART_TITLES[part]: reason for part, remembers in self._parts.items() if remembers is not None}

    def _restore_context(self, entries: Sequence[bytes]) -> None:
        if not entries:
            raise ValueError("none is stored")
        self.context = HostContext.restore(entries)

    def _restore_behaviours(self, entries: Sequence[bytes]) -> None:
        if self.behaviours is not None and entries:  # none: of a release that did not look for behaviours
            self.behaviours = self.behaviours.restored(entries)


def flow_adapter(source_schema: str, detector: Detector) -> FlowAdapter:
    """Return the way from a source's flows to a detector's; :class:`DataError` where there is none.

    Raises
    ------
    DataError
        Such as flows of Zeek for a detector that was trained on CICFlowMeter's features.
    """
    name = detector.schema.name
    wanted, _, extra = name.partition("+")
    project = wanted == "conn" and source_schema == "cicflow"
    if source_schema not in ("any", wanted) and not project:
        raise DataError(
            f"cannot score flows of schema {source_schema} with a detector of {name}; train one with --schema conn to "
            "read every sensor"
        )
    return FlowAdapter(project=project, context=HostContext() if extra == "context" else None)
