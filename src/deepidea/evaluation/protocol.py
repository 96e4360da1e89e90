"""Which flows train and which test: a data set by name or a table of one's own, split once and replayed later.

The contract of :func:`flows_to_train` goes into the detector file; :func:`flows_to_test` reads it there and finds the
same rows again, so that a detector is never tested on its training flows without saying so.
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
from deepidea.evaluation.contracts import to_json_values
from deepidea.evaluation.references import Baselines
from deepidea.evaluation.splits import Split, stratified_split
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
    """Flows to train on, and the contract that a detector file must keep of them.

    ``refused`` names the columns of a user's table that are no features, each with the reason.
    """

    flows: LabelledFlows
    contract: dict[str, Any]
    refused: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """Return the entries of the detector file: the contract, and two references fitted on the training rows."""
        return {"data": self.contract, "baselines": to_json_values(Baselines.fit(self.flows))}


# --- training ----------------------------------------------------------------------------------------------------


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
        scores the flows of Zeek, Suricata and NetFlow: see `deepidea.flows.sensors.projection`; ``conn+context`` and
        ``cicflow+context`` add recent activity of the hosts: see `deepidea.flows.context`. Where it is absent, a data
        set's own, and one that is inferred of a table.

    Raises
    ------
    DataError, DatasetError
        Where the data cannot be read or split so.
    """
    if _is_dataset(data):
        _refuse_options(data, "a table of one's own", label=label, benign=benign, keep=keep)
        dataset, contract = _open_dataset(str(data), taxonomy, use_port, schema)
        return _training_part(dataset.train, contract, _kind(split, dataset), test_fraction, split_seed)
    _refuse_options(data, "a data set", taxonomy=taxonomy, port=use_port and schema is None)
    _refuse_options(data, "a schema that is inferred", keep=keep if schema is not None else ())
    paths, kind = _paths(data), _kind(split, None)
    label, benign = _refuse_unlabelled(data, label, benign)
    given = None if schema is None else get_schema(schema, use_port=use_port)
    table = _read_all(paths) if given is None else as_schema(_read_all(paths), given)

    def rows_that_train(labels: pl.Series) -> npt.NDArray[np.int64]:
        if kind != "stratified":
            return np.arange(len(labels))
        # which rows train depends on the labels alone; features matter only to which test rows are dropped
        prints = np.arange(len(labels), dtype=np.uint64)
        return stratified_split(labels, prints, test_fraction=test_fraction, seed=split_seed).train

    flows, refused = labelled_flows_from_table(table, label, benign, keep, choose_rows=rows_that_train, schema=given)
    if given is None:
        _refuse_words_among_numbers(table.drop(label), refused, name_inputs(paths))
    flows = replace(flows, source=name_inputs(paths))
    part = _training_part(flows, table_contract(paths, label, benign), kind, test_fraction, split_seed)
    return replace(part, refused=refused)


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
    """Return the training side of data under a detector's schema; data that its contract is of keeps its split.

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
        A split is given and the contract has one, or the data cannot be read or split so.
    """
    recorded = is_recorded(data, contract)
    if recorded and split != "auto":
        raise DataError(
            f"cannot split {data} by --split {split}: the detector was trained on it, and it stays split as it was "
            f"({contract.get('split', {}).get('kind')}); leave --split out"
        )
    dataset = None
    if _is_dataset(data):
        _refuse_options(data, "a table of one's own", label=label, benign=benign)
        chosen = taxonomy or (contract.get("taxonomy") if recorded else None)
        dataset, own = _open_dataset(str(data), chosen, schema.use_port, schema.name)
        flows = dataset.train
    else:
        flows, own = _read_labelled(data, schema, contract, taxonomy, label, benign)
    if recorded:
        # Rows that tested the detector must not train its successor: its test would be of rows that it knows.
        replayed = _replayed(flows, contract)
        return TrainingFlows(flows if replayed is None else flows.take(replayed.train), dict(contract))
    return _training_part(flows, own, _kind(split, dataset), test_fraction, split_seed)


def _kind(split: SplitKind, dataset: Dataset | None) -> str:
    """Return the split that "auto" stands for; refuse one that the data cannot have."""
    if dataset is None:
        if split in ("official", "by-time", "by-host-pair"):
            raise DataError(f"cannot split a table {split}: only data sets can; use stratified")
        return "stratified" if split == "auto" else split
    if split == "official" and dataset.test is None:
        raise DataError(f"{dataset.title} has no official split; use --split stratified")
    return split if split != "auto" else "stratified" if dataset.test is None else "official"


def _training_part(
    flows: LabelledFlows, contract: dict[str, Any], kind: str, test_fraction: float, seed: int
) -> TrainingFlows:
    """Return the training rows of a split, and the contract with its record and counts."""
    recorded: dict[str, Any] = {"kind": kind}
    if kind not in ("none", "official"):
        split = split_rows(flows, kind, seed=seed, test_fraction=test_fraction)
        # the record holds the digest of all rows, so that a later replay proves that it finds the same ones
        flows, recorded = flows.take(split.train), split.to_contract()
    counts = dict(flows.classes.value_counts().iter_rows())
    classes = {name: counts.get(name, 0) for name in flows.class_order}
    return TrainingFlows(flows, {**contract, "rows": len(flows), "class_rows": classes, "split": recorded})


# --- test --------------------------------------------------------------------------------------------------------


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
    recorded = is_recorded(data, contract)
    if _is_dataset(data):
        _refuse_options(data, "a table of one's own", label=label, benign=benign)
        # Without a choice, the taxonomy that the detector was trained under: its classes are those of that one.
        chosen = taxonomy or (contract.get("taxonomy") if recorded else None)
        dataset = load_dataset(str(data), taxonomy=chosen, use_port=schema.use_port)
        if schema.name in PROJECTIONS.get(dataset.schema.name, ()):
            dataset = _in_schema(dataset, schema.name)
        if dataset.test is not None:
            return dataset.test
        flows = dataset.train
    else:
        flows, _ = _read_labelled(data, schema, contract, taxonomy, label, benign)
    replayed = _replayed(flows, contract) if recorded else None
    if replayed is None:
        return flows
    return replace(flows.take(replayed.test), source=f"{flows.source.removesuffix('/train')}/held out")


def is_recorded(data: str | Sequence[str | Path], contract: Mapping[str, Any]) -> bool:
    """Return whether a contract is of this data: of the data set's name, or of the very bytes, whatever their names.

    The standard input is never recorded.
    """
    if _is_dataset(data):
        return contract.get("source") == data
    # By content: a renamed or copied file is the one that was trained on, and its training rows must not test.
    hashes = [_hashed(path)["sha256"] for path in _paths(data)]
    return None not in hashes and hashes == [entry.get("sha256") for entry in contract.get("files", [])]


def _replayed(flows: LabelledFlows, contract: Mapping[str, Any]) -> Split | None:
    """Return the recorded split of these flows; None where it held out no row of them."""
    recorded = contract.get("split", {})
    return replay_rows(flows, recorded) if recorded.get("kind") in _HOLDING_OUT else None


# --- data sets ---------------------------------------------------------------------------------------------------


def _is_dataset(data: str | Sequence[str | Path]) -> bool:
    return isinstance(data, str) and data in DATASET_SPECS


def _open_dataset(
    name: str, taxonomy: str | None, use_port: bool, schema: str | None
) -> tuple[Dataset, dict[str, Any]]:
    """Return a data set in a schema, and what a contract keeps of it."""
    dataset = _in_schema(load_dataset(name, taxonomy=taxonomy, use_port=use_port), schema)
    return dataset, {"source": name, "taxonomy": dataset.taxonomy.name, "files": list_files(dataset)}


def _in_schema(dataset: Dataset, schema: str | None) -> Dataset:
    if schema is None or dataset.schema.name == schema:
        return dataset
    train = project_flows(dataset.train, schema)
    test = None if dataset.test is None else project_flows(dataset.test, schema)
    return replace(dataset, schema=train.schema, train=train, test=test, extras={})


def list_files(dataset: Dataset) -> list[dict[str, Any]]:
    """Return name, SHA-256 and rows of the official files of a data set."""
    return [{"name": file.name, "sha256": file.sha256, "rows": file.rows} for file in dataset.files]


# --- tables ------------------------------------------------------------------------------------------------------


def _read_labelled(
    data: str | Sequence[str | Path],
    schema: Schema,
    contract: Mapping[str, Any],
    taxonomy: str | None,
    label: str | None,
    benign: str | None,
) -> tuple[LabelledFlows, dict[str, Any]]:
    """Return a table's flows under a detector's schema, nothing inferred from its rows, and what a contract keeps."""
    _refuse_options(data, "a data set", taxonomy=taxonomy)
    paths = _paths(data)
    source = name_inputs(paths)
    label, benign = _refuse_unlabelled(data, label or contract.get("label"), benign or contract.get("benign"))
    table = _read_all(paths)
    if label not in table.columns:
        raise LabelError(f"{source} has no label column {label!r}{suggest(label, table.columns)}; name it by --label")
    table = as_schema(table, schema)
    # every label but the benign one is a class of its own; which of them the detector knows is checked later
    labels = table[label].cast(pl.String).str.strip_chars()
    attacks = sorted(set(labels.drop_nulls().unique()) - {benign})
    taxonomy_ = Taxonomy("custom", {benign: BENIGN, **{attack: attack for attack in attacks}})
    try:
        flows = label_flows(table.drop(label), labels, schema, taxonomy_, source)
    except (SchemaError, CellError) as error:
        raise type(error)(f"{source}: {error}") from error
    return flows, table_contract(paths, label, benign)


def table_contract(paths: Sequence[Path], label: str, benign: str) -> dict[str, Any]:
    """Return what a contract keeps of a user's table: its name, its labels, and the hash of each file."""
    files = [_hashed(path) for path in paths]
    return {"source": name_inputs(paths), "label": label, "benign": benign, "files": files}


def _hashed(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": None if str(path) == "-" else file_sha256(path)}


def _paths(data: str | Sequence[str | Path]) -> list[Path]:
    """Return the files; a bare word that names none was meant to be a data set."""
    # letters, digits and dashes alone: more likely a misspelt data set than a path, so name the near ones
    if isinstance(data, str) and data.replace("-", "").isalnum() and not Path(data).exists():
        get_dataset_spec(data)
    return expand_inputs([data] if isinstance(data, str) else data)


def _read_all(paths: Sequence[Path]) -> pl.DataFrame:
    tables = [read_table(path) for path in paths]
    check_same_columns(paths, [table.columns for table in tables])
    return pl.concat((table.select(tables[0].columns) for table in tables), how="vertical_relaxed")


def _refuse_options(data: object, whose: str, **options: object) -> None:
    # An option that has no effect would be a wrong belief of whoever gave it.
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise DataError(f"{', '.join(given)} is for {whose}, and the input is {data}; leave it out")


def _refuse_unlabelled(data: object, label: str | None, benign: str | None) -> tuple[str, str]:
    if label is None or benign is None:
        known = ", ".join(DATASET_SPECS)
        near = suggest(data, DATASET_SPECS) if isinstance(data, str) else ""
        raise LabelError(
            f"{data} is no data set ({known}){near}; for a table of your own give --label COLUMN and --benign VALUE"
        )
    return str(label), str(benign)


def _refuse_words_among_numbers(table: pl.DataFrame, refused: Mapping[str, str], source: str) -> None:
    """Refuse a column of numbers that a few odd cells turned into text: it would train as words, or not at all."""
    for column in table.select(pl.col(pl.String)).iter_columns():
        words = words_among_numbers(column)
        by_name = refused.get(column.name, "").endswith("by its name")
        if words is not None and not by_name:
            row = int(words.arg_true()[0])
            raise CellError(
                f"{source} row {row + 1}, column {column.name}: {column.name}={column[row]!r} stands among numbers; "
                f"correct {words.sum():,} such cells or drop the column"
            )
