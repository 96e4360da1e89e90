"""Findings: the flows at which a behaviour showed, with the evidence in words and numbers.

A finding is raised when its evidence is complete, again when the evidence has grown by a quarter, and again after some
minutes while it goes on. So a scan of a million ports is stored as some fifty findings, of which the last tells how
large it was to within a quarter.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.detection.behaviour.following import RecentPairs, following_columns, pair_names
from deepidea.detection.behaviour.registry import BEHAVIOURS, Behaviour
from deepidea.detection.behaviour.sites import INSIDE, OUTSIDE, HomeNetworks
from deepidea.detection.behaviour.windows import MAX_KEYS, WINDOWS, BehaviourWindows
from deepidea.flows.attack_classes import attack_class_of
from deepidea.flows.packed_arrays import pack_arrays, unpack_arrays

__all__ = ["FINDING_COLUMNS", "BehaviourDetector", "score_of"]

FINDING_COLUMNS: Mapping[str, pl.DataType] = {
    "row": pl.UInt32(),
    "behaviour": pl.String(),
    "class": pl.String(),
    "role": pl.String(),
    "score": pl.Float64(),
    "severity": pl.Int16(),
    "sentence": pl.String(),
    "finding": pl.String(),
}
"""Columns of findings: ``row`` of the flow at which the evidence was complete, what was found, whose incident it makes
(the ``source`` or the ``target`` of the flow), how sure and how urgent it is, and the evidence in words and as JSON."""

AGAIN_S = 300  # a behaviour that goes on is raised again so often
_GROWN = 1.25  # and where its evidence has grown so many times
MAX_RAISED = 65_536  # behaviours of keys that are remembered as raised
SURE_SCORE = 0.9
_FORMAT = 1
_LEAST_JOURNAL_BYTES = 1 << 20
_KEPT_US = 3_600_000_000
_BACKGROUND_SEVERITY = 4  # of scans and guessing from outside that have got nowhere
_KEY_PARTS: Mapping[str, tuple[str, ...]] = {
    "source": ("src",),
    "source_port": ("src", "dst_ports", "protocols"),
    "pair": ("src", "dst"),
    "service": ("src", "dst", "dst_ports", "protocols"),
    "target": ("dst",),
    "target_port": ("dst", "dst_ports", "protocols"),
}


def score_of(margin: float) -> float:
    """Return how sure a finding is, from how many times its threshold the evidence is: 0.75 at once, towards 1.

    Examples
    --------
    >>> score_of(1.0), score_of(2.5), score_of(10.0)
    (0.75, 0.9, 0.975)
    """
    return 1 - 0.25 / max(margin, 1.0)


class BehaviourDetector:
    """Finds behaviours in flows: counts windows, and raises findings with their evidence.

    State is carried from call to call: however flows are cut into tables, the findings are the same.

    Parameters
    ----------
    behaviours
        What is looked for, with its thresholds.
    home
        The networks that are inside, see :class:`deepidea.detection.behaviour.windows.BehaviourWindows`.
    max_keys
        Keys of each kind that windows remember.

    Examples
    --------
    >>> from datetime import UTC, datetime, timedelta
    >>> start = [datetime(2026, 5, 4, 12, tzinfo=UTC) + timedelta(milliseconds=10 * port) for port in range(1, 41)]
    >>> scan = pl.DataFrame({"start": start, "end": start, "src_ip": "10.0.0.5", "src_port": 40_000, "protocol": "tcp",
    ...     "dst_ip": "10.0.0.9", "dst_port": range(1, 41), "duration_s": 0.0, "fwd_packets": 1, "bwd_packets": 1,
    ...     "fwd_bytes": 44, "bwd_bytes": 40})
    >>> BehaviourDetector().find(scan).select("row", "behaviour", "sentence").rows()[-1]
    (35, 'vertical_scan', '36 ports of one host, 100 % of the attempts failed (10 min)')
    """

    def __init__(
        self,
        behaviours: Sequence[Behaviour] = BEHAVIOURS,
        home: HomeNetworks | None = None,
        *,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self.behaviours = tuple(behaviours)
        self._of_windows = [one for one in self.behaviours if not one.follows]
        self._following = [one for one in self.behaviours if one.follows]
        self._scans, self._guesses = RecentPairs(), RecentPairs()
        needed = {name for one in self._of_windows for value in one.counts.values() for name in value.meta.root_names()}
        self.windows = BehaviourWindows(home, columns=needed, max_keys=max_keys)
        self._raised: OrderedDict[tuple[str, int], tuple[int, float]] = OrderedDict()
        self._journal: list[dict[str, NDArray[Any]]] | None = None
        self._snapshot_bytes = self._journal_bytes = 0

    @property
    def evicted(self) -> int:
        """Keys and values that windows forgot for newer ones within the hour."""
        return self.windows.evicted

    def find(self, flows: pl.DataFrame) -> pl.DataFrame:
        """Return the findings that flows complete, :data:`FINDING_COLUMNS`, in the order of the flows.

        Parameters
        ----------
        flows
            As :meth:`deepidea.detection.behaviour.windows.BehaviourWindows.add` takes them.
        """
        inputs = self.windows.inputs(flows)
        if self._journal is not None and flows.height:
            self._journal.append(inputs)
        return self._find(inputs)

    def _find(self, inputs: dict[str, NDArray[Any]]) -> pl.DataFrame:
        windows = self.windows.count(inputs)
        found = self._shown(self._of_windows, windows, inputs)
        self._remember(found, windows["clock_us"], inputs)
        if self._following and (self._scans or self._guesses):
            more = following_columns(self._scans, self._guesses, inputs, windows["clock_us"].to_numpy())
            found += self._shown(self._following, pl.concat([windows, more], how="horizontal"), inputs)
        return pl.DataFrame(found, schema=pl.Schema(FINDING_COLUMNS), orient="row").sort("row", maintain_order=True)

    def _shown(
        self, behaviours: Sequence[Behaviour], windows: pl.DataFrame, inputs: dict[str, NDArray[Any]]
    ) -> list[dict[str, Any]]:
        """Return findings of some behaviours at the flows that show them."""
        shown = windows.select(one.shown.alias(one.name) for one in behaviours)
        found: list[dict[str, Any]] = []
        for one in behaviours:
            rows = shown[one.name].arg_true()
            if len(rows):
                found += self._raise(one, rows, windows[rows], inputs)
        return found

    def _remember(self, found: list[dict[str, Any]], clocks: pl.Series, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Keep the pairs of hosts that were found scanning or guessing."""
        pairs = pair_names(inputs) if found else None
        for finding in sorted(found, key=lambda one: one["row"]):
            kind, row = attack_class_of(finding["class"]).behaviour, finding["row"]
            if pairs is not None and kind in ("scan", "login"):
                (self._scans if kind == "scan" else self._guesses).note(int(pairs[row]), clocks[row])

    def _raise(
        self, one: Behaviour, rows: pl.Series, windows: pl.DataFrame, inputs: dict[str, NDArray[Any]]
    ) -> list[dict[str, Any]]:
        """Return findings of one behaviour at those of some rows where it is due."""
        keys = _keys(one, rows.to_numpy(), inputs)
        margins = windows.select(one.margin.cast(pl.Float64)).to_series().to_list()
        times = windows["clock_us"].to_list()
        due = [at for at, key in enumerate(keys) if self._is_due(one.name, key, times[at], margins[at])]
        if not due:
            return []
        evidence = windows[due].select(
            pl.struct(value.cast(pl.Float64).alias(name) for name, value in one.counts.items()).alias("counts"),
            "src_side", "dst_side",
        )  # fmt: skip
        where = rows.gather(due).to_list()
        return [
            {"row": row, **_finding(one, margins[at], *shown)}
            for row, at, shown in zip(where, due, evidence.iter_rows(), strict=True)
        ]

    def _is_due(self, name: str, key: int, now_us: int, margin: float) -> bool:
        last = self._raised.get((name, key))
        if last is not None and 0 <= now_us - last[0] < AGAIN_S * 1_000_000 and margin < _GROWN * last[1]:
            return False
        self._raised[name, key] = (now_us, margin)
        self._raised.move_to_end((name, key))
        if len(self._raised) > MAX_RAISED:
            self._raised.popitem(last=False)
        return True

    # --- state -------------------------------------------------------------------------------------------------------

    def save(self) -> tuple[bytes, bool] | None:
        """Return what has changed since the last call, to be kept for :meth:`restored`; None where nothing has.

        Returns
        -------
        data, append
            As :meth:`deepidea.flows.context.HostContext.save` does: a snapshot, then the flows since.
        """
        if self._journal is None or self._journal_bytes > max(_LEAST_JOURNAL_BYTES, self._snapshot_bytes):
            return self._snapshot()
        if not self._journal:
            return None
        together = {name: np.concatenate([part[name] for part in self._journal]) for name in self._journal[0]}
        self._journal = []
        data = pack_arrays({"format": _FORMAT, "kind": "flows"}, together)
        self._journal_bytes += len(data)
        return data, True

    def _snapshot(self) -> tuple[bytes, bool]:
        raised = [[name, key, *last] for (name, key), last in self._raised.items()]
        about = {"format": _FORMAT, "kind": "windows", "max_keys": self.windows.max_keys, "raised": raised}
        about |= {"scans": self._scans.save(), "guesses": self._guesses.save()}
        data = pack_arrays(about, self.windows.save())
        self._journal, self._journal_bytes, self._snapshot_bytes = [], 0, len(data)
        return data, False

    def restored(self, entries: Sequence[bytes]) -> BehaviourDetector:
        """Return one that knows what :meth:`save` returned since its last snapshot.

        Raises
        ------
        ValueError
            The data are damaged, of another format, or of windows of another size.
        """
        made = BehaviourDetector(self.behaviours, self.windows.home, max_keys=self.windows.max_keys)
        for number, data in enumerate(entries):
            about, arrays = unpack_arrays(data)
            wanted = {"format": _FORMAT, "kind": "flows" if number else "windows"}
            wanted |= {} if number else {"max_keys": self.windows.max_keys}
            if any(about.get(name) != value for name, value in wanted.items()):
                raise ValueError(f"behaviour windows of another release or size: {about}")
            made._take(about, arrays, len(data))
        made._journal = []
        return made

    def _take(self, about: Mapping[str, Any], arrays: dict[str, NDArray[Any]], n_bytes: int) -> None:
        """Take one entry of what was saved: a snapshot, or flows since."""
        try:
            if about["kind"] == "flows":
                self.windows.check(arrays)
                self._find(arrays)
                self._journal_bytes += n_bytes
                return
            self.windows.load(arrays)
            self._raised = OrderedDict(((name, key), (when, margin)) for name, key, when, margin in about["raised"])
            self._scans.load(about["scans"])
            self._guesses.load(about["guesses"])
            self._snapshot_bytes = n_bytes
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"behaviour windows are damaged: {error!r}") from error


def _keys(one: Behaviour, rows: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> list[int]:
    """Return a number that names the key of each row."""
    key = np.zeros(len(rows), np.uint64)
    for part in _KEY_PARTS[one.key]:
        key = (key ^ inputs[part][rows].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key.tolist()


def _finding(
    one: Behaviour, margin: float, counts: dict[str, float | None], src_side: int, dst_side: int
) -> dict[str, Any]:
    direction, score = _direction(src_side, dst_side), score_of(margin)
    known = one.attack_class
    # what follows a scan or a guess is the urgent part of it
    from_outside = direction == "outside to inside" and known.behaviour in ("scan", "login") and not one.follows
    severity = min(known.severity + (score < SURE_SCORE), 4)
    numbers = {name: None if value is None else round(value, 4) for name, value in counts.items()}
    evidence = {
        "title": one.title,
        "window_s": WINDOWS[one.window],
        "key": one.key,
        "counts": numbers,
        "thresholds": one.thresholds,
        "margin": round(margin, 3),
        "technique": one.technique_uid,
        "direction": direction,
    }
    return {
        "behaviour": one.name,
        "class": one.class_name,
        "role": "target" if from_outside else known.role,
        "score": score,
        "severity": _BACKGROUND_SEVERITY if from_outside else severity,
        "sentence": one.sentence.format(**{name: in_words(name, value) for name, value in counts.items()})
        + f" ({_WINDOW_WORDS[one.window]})",
        "finding": json.dumps(evidence, separators=(",", ":")),
    }


_WINDOW_WORDS = {"10s": "10 s", "1min": "1 min", "10min": "10 min", "1h": "1 h"}
_SHARES = ("share", "same_size", "spread")


def in_words(name: str, value: float | None) -> str:
    """Return a count as people write it.

    Examples
    --------
    >>> in_words("failed_share", 0.954), in_words("bytes_out", 2_345_678.0), in_words("gap_s", 60.04)
    ('95 %', '2.3 million', '60')
    """
    if value is None:
        return "?"
    if name.endswith(_SHARES):
        return f"{value:.0%}".replace("%", " %")
    if value >= 1e6:
        return f"{value / 1e6:,.1f} million"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _direction(src_side: int, dst_side: int) -> str:
    ends = ["inside" if side == INSIDE else "outside" if side == OUTSIDE else "group" for side in (src_side, dst_side)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
