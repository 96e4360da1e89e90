"""Which flows train and which test: a data set by name or a table of one's own, split once and replayed later.

The contract that :func:`flows_to_train` returns goes into the detector file; :func:`flows_to_test` reads it there and
finds the same rows again, so that a detector is never tested on what it was trained on without saying so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import CellError, DataError, LabelError, SchemaError
from deepidea.evaluation.evaluate import Baselines
from deepidea.evaluation.splits import stratified_split
from deepidea.evaluation.splitters import replay_rows, split_rows
from deepidea.flows.custom import words_among_numbers
from deepidea.flows.datasets.installed import file_sha256
from deepidea.flows.datasets.loading import Dataset, load_dataset
from deepidea.flows.datasets.specs import DATASET_SPECS, get_dataset_spec
from deepidea.flows.labelled import LabelledFlows, label_flows, labelled_flows_from_table
from deepidea.flows.schema import Schema, get_schema, suggest
from deepidea.flows.sensors.projection import PROJECTIONS, as_schema, project_flows
from deepidea.flows.tables import check_same_columns, expand_inputs, name_inputs, read_table
from deepidea.flows.taxonomy import BENIGN, Taxonomy

_HOLDING_OUT = ("stratified", "by_time", "by_host_pair")  # kinds of recorded splits whose rows are found again
SplitKind = Literal["auto", "official", "stratified", "by-time", "by-host-pair", "none"]


@dataclass(frozen=True, slots=True)
class TrainingFlows:
    """Flows to train on, and what a detector file must keep of where they come from.

    ``refused`` names the columns of a user's table that are no features, each with the reason.
    """

    flows: LabelledFlows
    contract: dict[str, Any]
    refused: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """Return what goes into the detector file: the contract, and two references fitted on the training rows."""
        return {"data": self.contract, "baselines": Baselines.fit(self.flows).to_contract()}


def flows_to_train(
    data: str | Sequence[str | Path],
    *,
    split: SplitKind = "auto",
    test_fraction: float = 1 / 6,
    split_seed: int = 0,
    taxonomy: str | None = None,
    use_port: bool = False,
    label: str | None = None,
    benign: str | None = None,
    keep: Collection[str] = (),
    schema: str | None = None,
) -> TrainingFlows:
    """Return the training side of a data set or of a user's table.

    Parameters
    ----------
    data : str or sequence of paths
        Name of a registered data set, or files of labelled flows.
    split : {"auto", "official", "stratified", "by-time", "by-host-pair", "none"}
        "official" trains on the publisher's training file, "stratified" holds out a share of each class and drops held
        out rows that repeat a training row, "none" trains on everything. "auto" is the first of them that fits.
        "by-time" holds out the end of each day, "by-host-pair" all flows between some hosts: see
        `deepidea.evaluation.capture_splits`; both are for data sets with times, with addresses.
    test_fraction, split_seed
        Of a split other than the official one.
    taxonomy, use_port
        Of a data set, see :func:`deepidea.flows.datasets.loading.load_dataset`.
    label, benign, keep
        Of a table: label column, its benign value, columns to keep as features.
    schema
        Name of a registered schema to train in. Flows of ``cicflow`` are projected onto ``conn``, so that the detector
        scores what Zeek, Suricata and NetFlow tell: see `deepidea.flows.sensors.projection`; ``conn+context`` and
        ``cicflow+context`` add what hosts did just before: see `deepidea.flows.context`. Where it is absent, a data
        set's own, and one that is inferred of a table.

    Raises
    ------
    DataError, DatasetError
        Where the data cannot be read or split so.
    """
    if isinstance(data, str) and data in DATASET_SPECS:
        _refuse_options(data, "a table of one's own", label=label, benign=benign, keep=keep)
        dataset = _in_schema(load_dataset(data, taxonomy=taxonomy, use_port=use_port), schema)
        contract: dict[str, Any] = {
            "source": data,
            "taxonomy": dataset.taxonomy.name,
            "files": list_files(dataset),
        }
        return _split_dataset(dataset, contract, split, test_fraction, split_seed)
    _refuse_options(data, "a data set", taxonomy=taxonomy, port=use_port and schema is None)
    paths = _paths(data)
    _refuse_unlabelled(data, label, benign)
    table = _read_all(paths)
    given = None if schema is None else get_schema(schema, use_port=use_port)
    if given is not None:
        _refuse_options(data, "a schema that is inferred", keep=keep)
        table = as_schema(table, given)
    kind = "stratified" if split == "auto" else split

    def rows_that_train(labels: pl.Series) -> npt.NDArray[np.int64]:
        if kind != "stratified":
            return np.arange(len(labels))
        # which rows train depends on the labels alone; features matter only to which test rows are dropped
        prints = np.arange(len(labels), dtype=np.uint64)
        return stratified_split(labels, prints, test_fraction=test_fraction, seed=split_seed).train

    flows, refused = labelled_flows_from_table(
        table, str(label), str(benign), keep, choose_rows=rows_that_train, schema=given
    )
    if given is None:
        _refuse_words_among_numbers(table.drop(str(label)), refused, name_inputs(paths))
    contract = {
        "source": name_inputs(paths),
        "label": label,
        "benign": benign,
        "files": [_hashed(p) for p in paths],
    }
    part = _split_table(replace(flows, source=name_inputs(paths)), contract, kind, test_fraction, split_seed)
    return TrainingFlows(part.flows, part.contract, refused)


def _in_schema(dataset: Dataset, schema: str | None) -> Dataset:
    """Return a data set with its flows in another schema."""
    if schema is None or dataset.schema.name == schema:
        return dataset
    train = project_flows(dataset.train, schema)
    test = None if dataset.test is None else project_flows(dataset.test, schema)
    return replace(dataset, schema=train.schema, train=train, test=test, extras={})


def _split_dataset(
    dataset: Dataset, contract: dict[str, Any], split: SplitKind, test_fraction: float, seed: int
) -> TrainingFlows:
    if split == "official" and dataset.test is None:
        raise DataError(
            f"an official split must be the publisher's, however: {dataset.title} has none; use --split stratified"
        )
    if split == "none" or (split in ("auto", "official") and dataset.test is not None):
        kind = "none" if split == "none" else "official"
        return TrainingFlows(dataset.train, _told(contract, dataset.train, {"kind": kind}))
    kind = "stratified" if split == "auto" else split
    dealt = split_rows(dataset.train, kind, seed=seed, test_fraction=test_fraction)
    training = dataset.train.take(dealt.train)
    return TrainingFlows(training, _told(contract, training, dealt.to_contract()))


def _split_table(
    flows: LabelledFlows, contract: dict[str, Any], split: SplitKind, test_fraction: float, seed: int
) -> TrainingFlows:
    if split == "none":
        return TrainingFlows(flows, _told(contract, flows, {"kind": "none"}))
    if split == "official":
        raise DataError("an official split must be a data set's own, however: the input is a table; use stratified")
    if split != "stratified":
        raise DataError(f"a {split} split must be of a data set, however: the input is a table; use stratified")
    dealt = split_rows(flows, split, seed=seed, test_fraction=test_fraction)
    training = flows.take(dealt.train)
    return TrainingFlows(training, _told(contract, training, dealt.to_contract()))


def _told(contract: dict[str, Any], flows: LabelledFlows, split: dict[str, Any]) -> dict[str, Any]:
    counts = dict(flows.classes.value_counts().iter_rows())
    classes = {name: counts.get(name, 0) for name in flows.class_order}
    return {**contract, "rows": len(flows), "class_rows": classes, "split": split}


def list_files(dataset: Dataset) -> list[dict[str, Any]]:
    """Return name, SHA-256 and rows of the official files of a data set."""
    return [{"name": file.name, "sha256": file.sha256, "rows": file.rows} for file in dataset.files]


def _hashed(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": None if str(path) == "-" else file_sha256(path)}


def _refuse_options(data: object, whose: str, **options: object) -> None:
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise DataError(f"{', '.join(given)} must be used with {whose}, however: the input is {data}; leave it out")


def _paths(data: str | Sequence[str | Path]) -> list[Path]:
    """Return the files; a bare word that is none was meant to be a data set."""
    if isinstance(data, str) and data.replace("-", "").isalnum() and not Path(data).exists():
        get_dataset_spec(data)
    return expand_inputs([data] if isinstance(data, str) else data)


def _read_all(paths: Sequence[Path]) -> pl.DataFrame:
    tables = [read_table(path) for path in paths]
    check_same_columns(paths, [table.columns for table in tables])
    return pl.concat((table.select(tables[0].columns) for table in tables), how="vertical_relaxed")


def _refuse_words_among_numbers(table: pl.DataFrame, refused: Mapping[str, str], source: str) -> None:
    """Refuse a column of numbers that a few odd cells turned into text: it would train as words, or not at all."""
    for column in table.select(pl.col(pl.String)).iter_columns():
        words = words_among_numbers(column)
        by_name = refused.get(column.name, "").endswith("by its name")
        if words is not None and not by_name:
            row = int(words.arg_true()[0])
            raise CellError(
                f"{column.name} must be numbers or words throughout, however: {column.name}={column[row]!r} stands "
                f"among numbers ({source} row {row + 1}, column {column.name}); correct {words.sum():,} such cells or "
                "drop the column"
            )


def _refuse_unlabelled(data: object, label: str | None, benign: str | None) -> None:
    if label is None or benign is None:
        known = ", ".join(DATASET_SPECS)
        near = suggest(data, DATASET_SPECS) if isinstance(data, str) else ""
        raise LabelError(
            f"a table must come with --label COLUMN and --benign VALUE, however: {data} is no data set of this project "
            f"({known}){near}, and they were not both given"
        )


def flows_to_test(
    data: str | Sequence[str | Path],
    schema: Schema,
    contract: Mapping[str, Any],
    *,
    taxonomy: str | None = None,
    label: str | None = None,
    benign: str | None = None,
) -> LabelledFlows:
    """Return the flows that a detector is to be tested on.

    Of the data it was trained on, that is the part it was not trained on; of a data set with an official split the test
    file; of any other data everything.

    Parameters
    ----------
    data : str or sequence of paths
    schema : Schema
        The detector's.
    contract : mapping
        From the detector file, see :func:`flows_to_train`.
    taxonomy, label, benign
        As there; those that the detector was trained with where absent.
    """
    if isinstance(data, str) and data in DATASET_SPECS:
        _refuse_options(data, "a table of one's own", label=label, benign=benign)
        return _dataset_test(data, schema, contract, taxonomy)
    _refuse_options(data, "a data set", taxonomy=taxonomy)
    paths = _paths(data)
    label, benign = label or contract.get("label"), benign or contract.get("benign")
    _refuse_unlabelled(data, label, benign)
    flows = _label_table(_read_all(paths), schema, str(label), str(benign), name_inputs(paths))
    return _held_out(flows, contract) if _are_recorded(paths, contract) else flows


def is_recorded(data: str | Sequence[str | Path], contract: Mapping[str, Any]) -> bool:
    """Whether this is the data that a contract was written of."""
    if isinstance(data, str) and data in DATASET_SPECS:
        return contract.get("source") == data
    return _are_recorded(_paths(data), contract)


def flows_under_split(
    data: str | Sequence[str | Path],
    schema: Schema,
    contract: Mapping[str, Any],
    *,
    split: SplitKind = "auto",
    test_fraction: float = 1 / 6,
    split_seed: int = 0,
    taxonomy: str | None = None,
    label: str | None = None,
    benign: str | None = None,
) -> TrainingFlows:
    """Return the training side of data under a schema that stands; split as a contract says where it is of that data.

    Parameters
    ----------
    data, split, test_fraction, split_seed, taxonomy, label, benign
        As of :func:`flows_to_train`; label and taxonomy are those of the contract where absent.
    schema : Schema
        A detector's.
    contract : mapping
        From its file.

    Raises
    ------
    DataError
        A split is asked for and the contract has one, or the data cannot be read or split so.
    """
    recorded = is_recorded(data, contract)
    if recorded and split != "auto":
        raise DataError(
            f"data that a detector was trained on stays split as it was ({contract.get('split', {}).get('kind')}), "
            f"however: --split {split} is asked for; leave it out"
        )
    if isinstance(data, str) and data in DATASET_SPECS:
        _refuse_options(data, "a table of one's own", label=label, benign=benign)
        chosen = taxonomy or (str(contract["taxonomy"]) if recorded and "taxonomy" in contract else None)
        dataset = _in_schema(load_dataset(data, taxonomy=chosen, use_port=schema.use_port), schema.name)
        told = {"source": data, "taxonomy": dataset.taxonomy.name, "files": list_files(dataset)}
        if recorded:
            return TrainingFlows(_trained_on(dataset.train, contract), dict(contract))
        return _split_dataset(dataset, told, split, test_fraction, split_seed)
    _refuse_options(data, "a data set", taxonomy=taxonomy)
    paths = _paths(data)
    label, benign = label or contract.get("label"), benign or contract.get("benign")
    _refuse_unlabelled(data, label, benign)
    flows = _label_table(_read_all(paths), schema, str(label), str(benign), name_inputs(paths))
    if recorded:
        return TrainingFlows(_trained_on(flows, contract), dict(contract))
    about = {"source": name_inputs(paths), "label": label, "benign": benign, "files": [_hashed(p) for p in paths]}
    kind = "stratified" if split == "auto" else split
    return _split_table(flows, about, kind, test_fraction, split_seed)


def _trained_on(flows: LabelledFlows, contract: Mapping[str, Any]) -> LabelledFlows:
    """Return the rows that the recorded split trains on; all of them where it held out none."""
    recorded = contract.get("split", {})
    if recorded.get("kind") not in _HOLDING_OUT:
        return flows
    return flows.take(replay_rows(flows, recorded).train)


def _are_recorded(paths: Sequence[Path], contract: Mapping[str, Any]) -> bool:
    """Whether these are the bytes that were trained on, by whatever names; the standard input never is."""
    hashes = [_hashed(path)["sha256"] for path in paths]
    return None not in hashes and hashes == [entry.get("sha256") for entry in contract.get("files", [])]


def _dataset_test(name: str, schema: Schema, contract: Mapping[str, Any], taxonomy: str | None) -> LabelledFlows:
    same = contract.get("source") == name
    chosen = taxonomy or (str(contract["taxonomy"]) if same and "taxonomy" in contract else None)
    dataset = load_dataset(name, taxonomy=chosen, use_port=schema.use_port)
    if schema.name in PROJECTIONS.get(dataset.schema.name, ()):
        dataset = _in_schema(dataset, schema.name)
    return dataset.test or (_held_out(dataset.train, contract) if same else dataset.train)


def _held_out(flows: LabelledFlows, contract: Mapping[str, Any]) -> LabelledFlows:
    """Return the rows that the recorded split held out; all of them where it held out none."""
    recorded = contract.get("split", {})
    if recorded.get("kind") not in _HOLDING_OUT:
        return flows
    split = replay_rows(flows, recorded)
    return replace(flows.take(split.test), source=f"{flows.source.removesuffix('/train')}/held out")


def _label_table(table: pl.DataFrame, schema: Schema, label: str, benign: str, source: str) -> LabelledFlows:
    """Return a table's flows under a detector's schema: nothing is inferred from test rows."""
    if label not in table.columns:
        raise LabelError(
            f"the label column must be in {source}, however: {label!r} is not{suggest(label, table.columns)}"
        )
    table = as_schema(table, schema)
    labels = table[label].cast(pl.String).str.strip_chars()
    attacks = sorted(set(labels.drop_nulls().unique()) - {benign})
    taxonomy = Taxonomy("custom", {benign: BENIGN, **{attack: attack for attack in attacks}})
    try:
        return label_flows(table.drop(label), labels, schema, taxonomy, source)
    except (SchemaError, CellError) as error:
        raise type(error)(f"{source}: {error}") from error
