"""Experiments: which flows of a data set train and which test, under one name.

| protocol | what trains, what tests |
|---|---|
| `auto` | `official` where the publisher states a split, else `stratified` |
| `official` | the publisher's files |
| `stratified` | five sixths and one sixth of each class; test rows that repeat a training row are dropped |
| `stratified-keep` | the same, the repeats stay |
| `fold-<i>-of-<k>` | one of k stratified folds; with `-keep` the repeats stay |
| `by-time` | the first five sixths of each day and the rest, two minutes apart; `by-time-<n>-min` for another gap |
| `by-day-<day>` | one day is tested, the others train |
| `by-host-pair` | no two hosts whose flows train are tested |
| `leave-out-<label>` | one attack label is tested and never trained on |
| `to-<data set>` | everything trains, and everything of another data set tests, by the features that both have |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.protocol import list_files
from deepidea.evaluation.splits import is_among
from deepidea.evaluation.splitters import SPLITTERS, View, find_splitter, split_rows
from deepidea.flows.datasets.loading import Dataset, load_dataset
from deepidea.flows.datasets.specs import DATASET_SPECS, get_dataset_spec
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.schema import Schema, suggest
from deepidea.flows.taxonomy import BENIGN

ATTACK = "attack"
"""The one attack class of protocols that ask for attack or benign alone."""

TAXONOMY = {"cicids17": "paper", "cicids17-improved": "paper", "cicids18": "paper"}
"""Taxonomy of the protocols that papers use; the others take the data set's default one, which keeps every label."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Training and test flows under one schema, and the facts of their split.

    Attributes
    ----------
    train, test : LabelledFlows
        Of the same schema and with the same class order; every class of it occurs in training. Where a whole attack may
        be new to the test (by day, a label left out, another data set), there are two classes, benign and attack;
        `labels` still holds the native labels.
    facts : mapping
        JSON values: data set, taxonomy, files with hashes, protocol and its parameters, rows by class on either side
        and of what was dropped, by reason; ``twins_in_training`` counts test rows that repeat a training row, and
        ``sha256`` digests what both sides hold.
    """

    train: LabelledFlows
    test: LabelledFlows
    facts: Mapping[str, Any]


def load_experiment(data: str, protocol: str = "auto", *, seed: int = 0) -> Experiment:
    """Return the flows of an experiment; the same for the same arguments and files, on every machine.

    Parameters
    ----------
    data : str
        Name of a registered data set, with a taxonomy behind an at sign where it is not the protocol's own:
        ``cicids17@native``.
    protocol : str
        See the module's table.
    seed : int
        Of what is drawn. Splits that are official, by time, by day or across data sets do not depend on it.

    Raises
    ------
    DatasetError
        A data set is not known or not registered.
    DataError
        No protocol has the name, or the data set lacks what it needs.
    LabelError
        No such taxonomy, a class too small for the split, a side without benign flows or without attacks.
    """
    name, _, taxonomy = data.partition("@")
    if protocol.startswith("to-"):
        return _across(name, protocol.removeprefix("to-"), taxonomy or None, seed)
    chosen = _resolve(name, protocol)
    own = TAXONOMY.get(name) if _view(chosen) == "published" else None
    dataset = load_dataset(name, taxonomy=taxonomy or own)
    facts = {**_source(dataset), "protocol": protocol, "seed": seed}
    if chosen == "official":
        return _official(dataset, facts)
    split = split_rows(dataset.train, chosen, seed=seed)
    train, test = dataset.train.take(split.train), dataset.train.take(split.test)
    dropped = {"twin": split.dropped, **split.left_out}
    facts |= {"split": split.to_contract(), "dropped": {reason: dict(of) for reason, of in dropped.items() if of}}
    return _experiment(train, replace(test, source=f"{name}/{chosen}/test"), facts, _view(chosen))


def _resolve(name: str, protocol: str) -> str:
    """Return the protocol that "auto" stands for; refuse unknown names."""
    has_test = any(file.role == "test" for file in get_dataset_spec(name).files)
    if protocol == "auto":
        return "official" if has_test else "stratified"
    if protocol == "official" and not has_test:
        raise DataError(f"{name} has no official split; use stratified")
    if protocol != "official" and find_splitter(protocol) is None:
        known = ("auto", "official", *(splitter.spelling for splitter in SPLITTERS), "to-<data set>")
        near = suggest(protocol, known)
        raise DataError(f"unknown protocol {protocol!r}{near}; choose one of {', '.join(known)}")
    return protocol


def _view(protocol: str) -> View:
    found = find_splitter(protocol)
    return found[0].view if found else "published"


def _source(dataset: Dataset) -> dict[str, Any]:
    return {"source": dataset.name, "taxonomy": dataset.taxonomy.name, "files": list_files(dataset)}


def _official(dataset: Dataset, facts: dict[str, Any]) -> Experiment:
    if dataset.test is None:
        raise DataError(f"{dataset.name} is registered without its test file; add it again, or use stratified")
    return _experiment(
        dataset.train, dataset.test, {**facts, "split": {"kind": "official"}, "dropped": {}}, "published"
    )


def _experiment(train: LabelledFlows, test: LabelledFlows, facts: dict[str, Any], view: View) -> Experiment:
    """Return the experiment with counts and digest of its sides."""
    _refuse_one_kind(train, test, facts)
    if view == "two":
        train, test = attack_or_benign(train), attack_or_benign(test)
    present = set(train.classes.unique())
    order = tuple(name for name in train.class_order if name in present)
    train, test = replace(train, class_order=order), replace(test, class_order=order)
    prints = [row_fingerprints(flows.table, flows.schema) for flows in (train, test)]
    counts = {
        "view": "attack or benign" if view == "two" else "classes",
        "n_features": len(train.schema.features),
        "rows": len(train),
        "class_rows": _counts(train.classes),
        "label_rows": _counts(train.labels),
        "test_rows": len(test),
        "test_class_rows": _counts(test.classes),
        "test_label_rows": _counts(test.labels),
        "twins_in_training": int(is_among(prints[1], prints[0]).sum()),
        "sha256": _digest(prints, (train, test)),
    }
    return Experiment(train, test, {**facts, **counts})


def _refuse_one_kind(train: LabelledFlows, test: LabelledFlows, facts: dict[str, Any]) -> None:
    for side, flows in (("training", train), ("test", test)):
        if (flows.classes == BENIGN).n_unique() < 2:
            raise LabelError(
                f"{side} of {facts['source']} by {facts['protocol']} has {_counts(flows.classes)} under taxonomy "
                f"{facts['taxonomy']}, and needs benign flows and attacks; name another, as in "
                f"{facts['source']}@native, or another protocol"
            )


def attack_or_benign(flows: LabelledFlows) -> LabelledFlows:
    """Return flows with two classes: whatever is not benign is an attack.

    Examples
    --------
    >>> from deepidea.flows.labelled import labelled_flows_from_table
    >>> table = pl.DataFrame({"bytes": [1, 2, 3, 3, 4, 5], "verdict": ["ok", "scan", "flood"] * 2})
    >>> flows, _ = labelled_flows_from_table(table, "verdict", "ok")
    >>> attack_or_benign(flows).classes.to_list()
    ['benign', 'attack', 'attack', 'benign', 'attack', 'attack']
    """
    values = pl.DataFrame({"class": flows.classes}).select(
        pl.when(pl.col("class") == BENIGN).then(pl.lit(BENIGN)).otherwise(pl.lit(ATTACK)).alias("class")
    )
    return replace(flows, classes=values.to_series(), class_order=(BENIGN, ATTACK))


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(sorted(values.value_counts().iter_rows()))


def _digest(prints: list[Any], sides: tuple[LabelledFlows, ...]) -> str:
    """Return a SHA-256 over features, labels and classes of both sides, in their order."""
    digest = hashlib.sha256()
    # byte order is fixed, so the digest is the same on every machine
    for words, flows in zip(prints, sides, strict=True):
        digest.update(len(flows).to_bytes(8, "little") + words.astype("<u8").tobytes())
        for column in (flows.labels, flows.classes):
            digest.update("\n".join(column).encode())
    return digest.hexdigest()


# --- across data sets --------------------------------------------------------------------------------------------


def _across(name: str, other: str, taxonomy: str | None, seed: int) -> Experiment:
    if other not in _others(name):
        raise DataError(
            f"cannot test {name} on {other!r}: both must be of one meter and hold different flows; "
            f"from {name}: {', '.join(_others(name)) or 'none'}"
        )
    sides = [load_dataset(name, taxonomy=taxonomy), load_dataset(other, taxonomy=taxonomy)]
    train, test = _by_shared_features(sides[0].train, sides[1].train)
    lost = [sorted(set(sides[j].schema.features) - set(train.schema.features)) for j in (0, 1)]
    facts = {
        **_source(sides[0]),
        "protocol": f"to-{other}",
        "seed": seed,
        "split": {"kind": "across", "test": _source(sides[1]), "only_in_training": lost[0], "only_in_test": lost[1]},
        "dropped": {},
    }
    return _experiment(train, replace(test, source=f"{name}/to-{other}"), facts, "two")


def _others(name: str) -> tuple[str, ...]:
    """Return the data sets that another can be tested on; NSL-KDD's rows are KDD99's, so they make no pair."""
    same = get_dataset_spec(name).schema == "cicflow"
    return tuple(
        entry.name for entry in DATASET_SPECS.values() if same and entry.schema == "cicflow" and entry.name != name
    )


def _by_shared_features(train: LabelledFlows, test: LabelledFlows) -> tuple[LabelledFlows, LabelledFlows]:
    """Return both sides under the schema of the features that both have, and nothing beside them."""
    shared = set(train.schema.features) & set(test.schema.features)
    # order and units of the training schema; addresses, times and the port are in neither
    columns = tuple(column for column in train.schema.columns if column.name in shared)
    schema = Schema(train.schema.name, columns)
    both = (replace(flows, table=flows.table.select(schema.features), schema=schema) for flows in (train, test))
    return next(both), next(both)
