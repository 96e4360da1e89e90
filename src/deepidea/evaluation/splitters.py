"""Ways to split a flow table, found by name: ``stratified``, ``by-time``, ``leave-out-dos-hulk``.

The names stand in commands and in result files. `deepidea.benchmark.tasks` adds those that need more than one
table: a publisher's split, and training on one data set to test on another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
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
from deepidea.evaluation.splits import (
    Split,
    leave_label_out_split,
    refuse_other_rows,
    refuse_other_table,
    split_from_contract,
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
class Drawn:
    """What a split draws by, where it draws at all: the seed, and the share that is tested."""

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
        Called with flows, match, and what it draws by.
    view
        Which classes are asked for: ``published`` those of papers, ``all`` those of the data set's default taxonomy,
        ``two`` benign and attack, because an attack that training never shows has no class there.
    """

    spelling: str
    pattern: str
    split: Callable[[LabelledFlows, re.Match[str], Drawn], Split]
    view: View


def _prints(flows: LabelledFlows) -> npt.NDArray[np.uint64]:
    return row_fingerprints(flows.table, flows.schema)


def _duplicates(match: re.Match[str]) -> Literal["drop", "keep"]:
    return "keep" if match["keep"] else "drop"


def _stratified(flows: LabelledFlows, match: re.Match[str], by: Drawn) -> Split:
    return stratified_split(
        flows.classes, _prints(flows), test_fraction=by.test_fraction, seed=by.seed, duplicates=_duplicates(match)
    )


def _fold(flows: LabelledFlows, match: re.Match[str], by: Drawn) -> Split:
    fold, n_folds = int(match["fold"]) - 1, int(match["folds"])
    return stratified_fold(
        flows.classes, _prints(flows), fold=fold, n_folds=n_folds, seed=by.seed, duplicates=_duplicates(match)
    )


def _by_time(flows: LabelledFlows, match: re.Match[str], by: Drawn) -> Split:
    embargo_s = 60.0 * int(match["minutes"]) if match["minutes"] else EMBARGO_S
    return by_time_split(_times(flows), flows.classes, test_fraction=by.test_fraction, embargo_s=embargo_s)


def _times(flows: LabelledFlows) -> pl.Series:
    if "timestamp" not in flows.table.columns:
        raise DataError(
            f"a split by time needs timestamps, however: the files of {flows.source.removesuffix('/train')} have none; "
            "use a stratified split, or files with times"
        )
    return flows.table["timestamp"]


def _by_day(flows: LabelledFlows, match: re.Match[str], _: Drawn) -> Split:
    return by_day_split(capture_days(flows.table), flows.classes, day=match["day"])


def _by_host_pair(flows: LabelledFlows, _: re.Match[str], by: Drawn) -> Split:
    return by_host_pair_split(
        host_pairs(flows.table), flows.labels, flows.classes, test_fraction=by.test_fraction, seed=by.seed
    )


def label_slug(label: str) -> str:
    """Return the spelling of a label in the names of splits.

    Examples
    --------
    >>> label_slug("Web Attack - Sql Injection")
    'web-attack-sql-injection'
    """
    return column_key(label).replace("_", "-")


def _leave_out(flows: LabelledFlows, match: re.Match[str], by: Drawn) -> Split:
    labels = {label_slug(label): label for label in _attack_labels(flows)}
    wanted = label_slug(match["label"])
    if wanted not in labels:
        raise DataError(
            f"what is left out must be an attack label of the data set, however: {match['label']!r} is not"
            f"{suggest(wanted, labels)}; labels: {', '.join(labels)}"
        )
    return leave_label_out_split(
        flows.labels,
        flows.classes,
        _prints(flows),
        label=labels[wanted],
        test_fraction=by.test_fraction,
        seed=by.seed,
    )


def _attack_labels(flows: LabelledFlows) -> list[str]:
    return sorted(flows.labels.filter(flows.classes != BENIGN).unique())


_KEEP = "(?P<keep>-keep)?"

SPLITTERS = (
    Splitter("stratified[-keep]", f"stratified{_KEEP}", _stratified, "published"),
    Splitter(
        "fold-<i>-of-<k>[-keep]",
        rf"fold-(?P<fold>\d{{1,3}})-of-(?P<folds>\d{{1,3}}){_KEEP}",
        _fold,
        "published",
    ),
    Splitter("by-time[-<n>-min]", r"by-time(-(?P<minutes>\d{1,5})-min)?", _by_time, "all"),
    Splitter("by-day-<day>", r"by-day-(?P<day>[a-z0-9-]+)", _by_day, "two"),
    Splitter("by-host-pair", "by-host-pair", _by_host_pair, "all"),
    Splitter("leave-out-<label>", r"leave-out-(?P<label>.+)", _leave_out, "two"),
)
"""Every way to split one table, in the order in which they are listed."""


def find_splitter(name: str) -> tuple[Splitter, re.Match[str]] | None:
    """Return the way to split that has a name, and what the name says of it; None where none has.

    Examples
    --------
    >>> deal, match = find_splitter("fold-2-of-5")
    >>> deal.spelling, match["fold"]
    ('fold-<i>-of-<k>[-keep]', '2')
    """
    matches = ((deal, re.fullmatch(deal.pattern, name)) for deal in SPLITTERS)
    return next(((deal, match) for deal, match in matches if match), None)


def split_rows(flows: LabelledFlows, name: str, *, seed: int = 0, test_fraction: float = 1 / 6) -> Split:
    """Split a flow table as a name says.

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
        known = ", ".join(deal.spelling for deal in SPLITTERS)
        raise DataError(f"a split must be one of {known}, however: {name!r}; choose one of them")
    deal, match = found
    return deal.split(flows, match, Drawn(seed, test_fraction))


# --- replay ------------------------------------------------------------------------------------------------------


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
    kind, params = recorded.get("kind"), recorded.get("params")
    if kind not in ("by_time", "by_host_pair"):
        return split_from_contract(recorded, flows.classes, fingerprints=_prints(flows), labels=flows.labels)
    needed: dict[str, dict[str, type]] = {
        "by_time": {"test_fraction": float, "embargo_s": float},
        "by_host_pair": {"test_fraction": float, "seed": int},
    }
    if not isinstance(params, Mapping) or {n: type(v) for n, v in params.items()} != needed[kind]:
        raise DataError(
            f"a {kind} split must record {', '.join(needed[kind])}, however: {params!r}; the file is not ours"
        )
    refuse_other_table(recorded, len(flows))
    if kind == "by_time":
        split = by_time_split(_times(flows), flows.classes, **params)
    else:
        split = by_host_pair_split(host_pairs(flows.table), flows.labels, flows.classes, **params)
    refuse_other_rows(recorded, split)
    return split
