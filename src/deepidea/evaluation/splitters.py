"""Ways to split a flow table, found by name: ``stratified``, ``by-time``, ``leave-out-dos-hulk``.

The names stand in commands and in result files. `deepidea.benchmark.tasks` adds those that need more than one
table: a publisher's split, and training on one data set to test on another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import polars as pl

from deepidea.errors import DataError
from deepidea.evaluation.capture_splits import (
    EMBARGO_S,
    by_day_split,
    by_host_pair_split,
    by_time_split,
    capture_days,
    host_pairs,
)
from deepidea.evaluation.contracts import from_json_values
from deepidea.evaluation.splits import (
    Duplicates,
    Prints,
    Split,
    leave_label_out_split,
    stratified_fold,
    stratified_split,
)
from deepidea.flows.column import column_key
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import suggest
from deepidea.flows.taxonomy import BENIGN

View = Literal["published", "all", "two"]


@dataclass(frozen=True, slots=True)
class Draw:
    """The seed of a split that draws, and the share that is tested."""

    seed: int
    test_fraction: float


@dataclass(frozen=True, slots=True)
class Splitter:
    """A way to split.

    Parameters
    ----------
    spelling
        Its name for people, with ``<...>`` for what varies.
    pattern
        Regular expression of its names.
    split
        Called with flows, match and draw.
    view
        Which classes the systems tell apart: ``published`` those of papers, ``all`` those of the data set's default
        taxonomy, ``two`` benign and attack, because an attack that training never shows has no class there.
    """

    spelling: str
    pattern: str
    split: Callable[[LabelledFlows, re.Match[str], Draw], Split]
    view: View


def _prints(flows: LabelledFlows) -> Prints:
    return row_fingerprints(flows.table, flows.schema)


def _duplicates(match: re.Match[str]) -> Duplicates:
    return "keep" if match["keep"] else "drop"


def _stratified(flows: LabelledFlows, match: re.Match[str], draw: Draw) -> Split:
    return stratified_split(
        flows.classes, _prints(flows), test_fraction=draw.test_fraction, seed=draw.seed, duplicates=_duplicates(match)
    )


def _fold(flows: LabelledFlows, match: re.Match[str], draw: Draw) -> Split:
    fold, n_folds = int(match["fold"]) - 1, int(match["folds"])
    return stratified_fold(
        flows.classes, _prints(flows), fold=fold, n_folds=n_folds, seed=draw.seed, duplicates=_duplicates(match)
    )


def _by_time(flows: LabelledFlows, match: re.Match[str], draw: Draw) -> Split:
    embargo_s = 60.0 * int(match["minutes"]) if match["minutes"] else EMBARGO_S
    return by_time_split(_times(flows), flows.classes, test_fraction=draw.test_fraction, embargo_s=embargo_s)


def _times(flows: LabelledFlows) -> pl.Series:
    if "timestamp" not in flows.table.columns:
        raise DataError(
            f"cannot split by time: the files of {flows.source.removesuffix('/train')} have no timestamps; use a "
            "stratified split, or files with times"
        )
    return flows.table["timestamp"]


def _by_day(flows: LabelledFlows, match: re.Match[str], _: Draw) -> Split:
    return by_day_split(capture_days(flows.table), flows.classes, day=match["day"])


def _by_host_pair(flows: LabelledFlows, _: re.Match[str], draw: Draw) -> Split:
    return by_host_pair_split(
        host_pairs(flows.table), flows.labels, flows.classes, test_fraction=draw.test_fraction, seed=draw.seed
    )


def _leave_out(flows: LabelledFlows, match: re.Match[str], draw: Draw) -> Split:
    attacks = sorted(flows.labels.filter(flows.classes != BENIGN).unique())
    labels = {label_slug(label): label for label in attacks}
    wanted = label_slug(match["label"])
    if wanted not in labels:
        raise DataError(
            f"cannot leave {match['label']!r} out: it is no attack label of the data set{suggest(wanted, labels)}; "
            f"labels: {', '.join(labels)}"
        )
    return leave_label_out_split(
        flows.labels,
        flows.classes,
        _prints(flows),
        label=labels[wanted],
        test_fraction=draw.test_fraction,
        seed=draw.seed,
    )


def label_slug(label: str) -> str:
    """Return the spelling of a label in the names of splits.

    Examples
    --------
    >>> label_slug("Web Attack - Sql Injection")
    'web-attack-sql-injection'
    """
    return column_key(label).replace("_", "-")


_KEEP = "(?P<keep>-keep)?"
_FOLDS = rf"fold-(?P<fold>\d{{1,3}})-of-(?P<folds>\d{{1,3}}){_KEEP}"

SPLITTERS = (
    Splitter("stratified[-keep]", f"stratified{_KEEP}", _stratified, "published"),
    Splitter("fold-<i>-of-<k>[-keep]", _FOLDS, _fold, "published"),
    Splitter("by-time[-<n>-min]", r"by-time(-(?P<minutes>\d{1,5})-min)?", _by_time, "all"),
    Splitter("by-day-<day>", r"by-day-(?P<day>[a-z0-9-]+)", _by_day, "two"),
    Splitter("by-host-pair", "by-host-pair", _by_host_pair, "all"),
    Splitter("leave-out-<label>", r"leave-out-(?P<label>.+)", _leave_out, "two"),
)
"""Every way to split one table, in the order in which errors list them."""


def find_splitter(name: str) -> tuple[Splitter, re.Match[str]] | None:
    """Return the splitter of a name and the match of its pattern; None where there is none.

    Examples
    --------
    >>> splitter, match = find_splitter("fold-2-of-5")
    >>> splitter.spelling, match["fold"]
    ('fold-<i>-of-<k>[-keep]', '2')
    """
    matches = ((splitter, re.fullmatch(splitter.pattern, name)) for splitter in SPLITTERS)
    return next(((splitter, match) for splitter, match in matches if match), None)


def split_rows(flows: LabelledFlows, name: str, *, seed: int = 0, test_fraction: float = 1 / 6) -> Split:
    """Split a flow table by name.

    Parameters
    ----------
    flows : LabelledFlows
        With the columns that the split needs beside the features: ``timestamp``, ``src_ip`` and ``dst_ip``, ``file``.
    name : str
        One that :data:`SPLITTERS` knows.
    seed : int
        Of what is drawn; a split by time or day draws nothing.
    test_fraction : float
        Share that is tested; folds and days have a share of their own.

    Raises
    ------
    DataError
        No split has the name, or the flows lack what it needs.
    LabelError
        A class is too small, or a side would lack benign flows or attacks.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> from deepidea.flows.simulate import simulate_flows
    >>> flows, _ = labelled_flows_from_table(simulate_flows(n_flows=1500), "label", "benign")
    >>> split = split_rows(flows, "fold-1-of-5")
    >>> split.kind, len(split.train) + len(split.test) + sum(split.dropped.values())
    ('fold', 1500)
    """
    found = find_splitter(name)
    if found is None:
        known = ", ".join(splitter.spelling for splitter in SPLITTERS)
        raise DataError(f"unknown split {name!r}; choose one of {known}")
    splitter, match = found
    return splitter.split(flows, match, Draw(seed, test_fraction))


# --- replay ------------------------------------------------------------------------------------------------------
# A model file records kind, parameters, number of rows and digest of its split. The kind chooses the class that the
# record is read as; msgspec checks the parameters, and they are the arguments of the split that is made again.


class _Recorded(msgspec.Struct, tag_field="kind", frozen=True):
    n_rows: int
    sha256: str


class _StratifiedParams(msgspec.Struct, frozen=True):
    test_fraction: float
    seed: int
    duplicates: Duplicates


class _TimeParams(msgspec.Struct, frozen=True):
    test_fraction: float
    embargo_s: float


class _HostPairParams(msgspec.Struct, frozen=True):
    test_fraction: float
    seed: int


class _RecordedStratified(_Recorded, tag="stratified", frozen=True):
    params: _StratifiedParams

    def repeat(self, flows: LabelledFlows) -> Split:
        return stratified_split(flows.classes, _prints(flows), **msgspec.structs.asdict(self.params))


class _RecordedByTime(_Recorded, tag="by_time", frozen=True):
    params: _TimeParams

    def repeat(self, flows: LabelledFlows) -> Split:
        return by_time_split(_times(flows), flows.classes, **msgspec.structs.asdict(self.params))


class _RecordedByHostPair(_Recorded, tag="by_host_pair", frozen=True):
    params: _HostPairParams

    def repeat(self, flows: LabelledFlows) -> Split:
        pairs = host_pairs(flows.table)
        return by_host_pair_split(pairs, flows.labels, flows.classes, **msgspec.structs.asdict(self.params))


def replay_rows(flows: LabelledFlows, recorded: Mapping[str, Any]) -> Split:
    """Repeat the split that a model file records, and prove that the rows are the same.

    Parameters
    ----------
    flows : LabelledFlows
    recorded : mapping
        From `Split.to_contract`; it may come from a file that somebody else wrote.

    Raises
    ------
    DataError
        The record is damaged, or the table is not the one that was split.
    """
    # other kinds (folds, days, left-out labels) are never recorded in a detector file
    kinds = _RecordedStratified | _RecordedByTime | _RecordedByHostPair
    recipe: Any = from_json_values(dict(recorded), kinds, "the recorded split", "the model file is damaged")  # type: ignore[arg-type]
    if recipe.n_rows != len(flows):
        raise DataError(
            f"cannot repeat the recorded split: it is of {recipe.n_rows} rows, the table has {len(flows)}; give the "
            "table that was split"
        )
    split: Split = recipe.repeat(flows)
    # The proof that matters: by the digest of the rows, not by the trust that the same code and table give the same
    # split.
    if split.sha256 != recipe.sha256:
        raise DataError(
            f"cannot repeat the recorded split: its rows differ (SHA-256 {split.sha256}, recorded {recipe.sha256}); "
            "give the table that was split"
        )
    return split
