"""Public data sets: install their official files once, load them typed, in one spelling, with their quirks counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from deepidea.errors import DatasetError, FileFormatError
from deepidea.flows.datasets import installed
from deepidea.flows.datasets.download import download
from deepidea.flows.datasets.ingest import LABEL, Ingested, Progress, ingest_file
from deepidea.flows.datasets.installed import FileRecord, InstalledDataset, Part
from deepidea.flows.datasets.specs import DATASET_SPECS, DatasetSpec, OfficialFile, Training, get_dataset_spec
from deepidea.flows.labelled import FILE_COLUMN, LabelledFlows, label_flows, labelled_flows_from_table
from deepidea.flows.schema import Schema, get_schema
from deepidea.flows.taxonomy import Attempted, Taxonomy, get_taxonomy

__all__ = [
    "Dataset",
    "FileRecord",
    "LabelledFlows",
    "InstalledDataset",
    "add_dataset",
    "get_dataset",
    "labelled_flows_from_table",
    "load_dataset",
    "installed_datasets",
]

_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set, loaded.

    Parameters
    ----------
    name, title
        Its name in commands and in sentences.
    schema
        Schema without the optional columns that it lacks.
    taxonomy
        Which labels are which class.
    train, test
        Its flows; `test` is None where the publisher states no split.
    files
        Its official files.
    quirks
        Peculiarities of the raw files, counted.
    extras
        Further tables: NSL-KDD's ``KDDTest-21``.
    training
        Which training file: KDD99's ``full`` or ``10-percent``.
    """

    name: str
    title: str
    schema: Schema
    taxonomy: Taxonomy
    train: LabelledFlows
    test: LabelledFlows | None
    files: tuple[FileRecord, ...]
    quirks: dict[str, int]
    extras: Mapping[str, LabelledFlows] = field(default_factory=dict)
    training: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that occur in training or test, benign first."""
        return self.train.class_order


def add_dataset(
    name: str, folder: str | Path, *, training: Training = "auto", progress: Progress | None = None
) -> InstalledDataset:
    """Install a data set from a folder of official files: check them, read them once, keep typed Parquet.

    Files may be plain or gzip. CSV files of the CIC data sets may be at any depth, one day or all of them.

    Parameters
    ----------
    name
        Name of the data set.
    folder
        Folder of its official files.
    training
        KDD99: which training file. ``auto`` is the full one where present, else the 10 % one.
    progress
        Called with bytes read and bytes in all.

    Returns
    -------
    InstalledDataset
        Files with hashes and rows, quirks with counts. It replaces an earlier one of the same name.

    Raises
    ------
    DatasetError
        The data set is unknown, or the folder or a needed file is absent.
    DataError
        A file breaks a rule of its format; file, line and column are named.
    StorageError
        The typed copy could not be written; the earlier one is unchanged.
    """
    spec = get_dataset_spec(name)
    chosen = _files_in(spec, Path(folder).expanduser(), training)
    with installed.new_parts_folder() as target:
        results = _ingest_all([path for path, _ in chosen], spec, target, progress)
        dataset = _record(spec, Path(folder), target, chosen, results)
        installed.save(dataset)
    return dataset


def _files_in(spec: DatasetSpec, folder: Path, training: Training) -> list[tuple[Path, OfficialFile]]:
    """Return the files to read with their roles."""
    if not folder.is_dir():
        raise DatasetError(f"cannot add {spec.name}: {folder} is no folder; {_where(spec)}")
    if not spec.files:
        return [(path, OfficialFile((path.name,), "train")) for path in _all_csv(spec, folder)]
    found = [(_find(folder, wanted), wanted) for wanted in _wanted(spec, folder, training)]
    absent = [wanted.names[0] for path, wanted in found if path is None and wanted.needed]
    if absent:
        raise DatasetError(f"cannot add {spec.name}: {folder} lacks {', '.join(absent)}; {_where(spec)}")
    return [(path, wanted) for path, wanted in found if path is not None]


def _wanted(spec: DatasetSpec, folder: Path, training: Training) -> list[OfficialFile]:
    """Return the files to look for; of several training files the requested one, else the first that is present."""
    variants = [file for file in spec.files if file.variant]
    if training == "auto":
        there = [file for file in variants if _find(folder, file) is not None]
        taken = (there or variants[-1:])[:1]
    else:
        taken = [file for file in variants if file.variant == training]
    return taken + [file for file in spec.files if not file.variant]


def _find(folder: Path, wanted: OfficialFile) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in wanted.names for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _all_csv(spec: DatasetSpec, folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.lower().endswith((".csv", ".csv.gz")))
    if not paths:
        raise DatasetError(f"cannot add {spec.name}: {folder} has no CSV files; {_where(spec)}")
    names = Counter(path.name.lower().removesuffix(".gz") for path in paths)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DatasetError(
            f"cannot add {spec.name}: {twice[0]} is in several folders of {folder}; add one of those folders"
        )
    return paths


def _where(spec: DatasetSpec) -> str:
    return f"the publisher's page: {spec.page}"


def _ingest_all(paths: Sequence[Path], spec: DatasetSpec, target: Path, progress: Progress | None) -> list[Ingested]:
    total, done = sum(path.stat().st_size for path in paths), 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, total)

    return [ingest_file(path, spec, target, advance=advance) for path in paths]


def _record(
    spec: DatasetSpec,
    folder: Path,
    target: Path,
    chosen: Sequence[tuple[Path, OfficialFile]],
    results: Sequence[Ingested],
) -> InstalledDataset:
    files = tuple(_file_record(path, wanted, done) for (path, wanted), done in zip(chosen, results, strict=True))
    parts = tuple(
        Part(done.part.name, path.name, installed.file_sha256(done.part))
        for (path, _), done in zip(chosen, results, strict=True)
    )
    quirks = sum((done.quirks for done in results), Counter[str]())
    # Files of one set may differ in columns; how many is one of the quirks that are reported.
    features = [set(done.columns) & set(get_schema(spec.schema).features) for done in results]
    quirks["columns_not_in_every_file"] = len(set[str]().union(*features) - features[0].intersection(*features))
    return InstalledDataset(
        spec.name,
        str(folder.resolve()),
        files,
        parts,
        target.name,
        _whole_numbers(results),
        {kind: count for kind, count in sorted(quirks.items()) if count},
        next((wanted.variant for _, wanted in chosen if wanted.variant), ""),
    )


def _file_record(path: Path, wanted: OfficialFile, done: Ingested) -> FileRecord:
    official = bool({done.sha256, done.content_sha256} & set(wanted.sha256)) if wanted.sha256 else None
    return FileRecord(path.name, wanted.role, done.rows, done.sha256, done.content_sha256, official)


def _whole_numbers(results: Sequence[Ingested]) -> dict[str, str]:
    """Return the type of each column that holds whole numbers in every file."""
    broken = set().union(*(done.not_whole for done in results))
    bounds = {name: [d.whole[name] for d in results if name in d.whole] for d in results for name in d.whole}
    return {
        name: "Int32" if all(low >= -_INT32 and high <= _INT32 for low, high in spans) else "Int64"
        for name, spans in bounds.items()
        if name not in broken
    }


def installed_datasets() -> dict[str, InstalledDataset | None]:
    """Return every known data set with its record, None where it is not installed on this machine."""
    return {name: installed.find(name) for name in DATASET_SPECS}


def load_dataset(
    name: str, *, taxonomy: str | None = None, use_port: bool = False, attempted: Attempted | None = None
) -> Dataset:
    """Load an installed data set.

    Where it is not installed but ``$DEEPIDEA_DATA/<name>`` has its files, it is installed first.

    Parameters
    ----------
    name
        ``kdd99``, ``nsl-kdd``, ``cicids17``, ``cicids17-improved`` or ``cicids18``.
    taxonomy
        Mapping from labels to classes; the data set's default if None.
    use_port
        Whether the destination port is a feature.
    attempted
        ``cicids17-improved``: labels that end in ``- Attempted`` are ``benign`` (default), left out (``drop``), or
        a class of their ``own``.

    Returns
    -------
    Dataset
        Flows with canonical columns; the CIC data sets have no official split, so `test` is None.

    Raises
    ------
    DatasetError
        The data set is unknown, not installed, or its installed copy is damaged.
    LabelError
        The data set has no such taxonomy.
    """
    spec = get_dataset_spec(name)
    mapping = get_taxonomy(name, taxonomy, attempted=attempted)
    schema = get_schema(spec.schema, use_port=use_port)
    record, tables = _read_current(spec, schema)
    loaded = {
        role: label_flows(table.drop(LABEL), table[LABEL], schema, mapping, f"{name}/{role}")
        for role, table in tables.items()
    }
    # One order of classes for all tables of a data set: a class may occur in the test alone.
    present = {name for flows in loaded.values() for name in flows.class_order}
    order = tuple(name for name in mapping.classes if name in present)
    aligned = {role: replace(flows, class_order=order) for role, flows in loaded.items()}
    train, test = aligned.pop("train"), aligned.pop("test", None)
    if not len(train):
        raise FileFormatError(f"taxonomy {mapping.name} drops every label of {name}; choose another taxonomy")
    return Dataset(
        *(name, spec.title, train.schema, mapping, train, test),
        files=record.files,
        quirks=record.quirks,
        extras=aligned,
        training=record.training,
    )


def _read_current(spec: DatasetSpec, schema: Schema) -> tuple[InstalledDataset, dict[str, pl.DataFrame]]:
    """Read the current parts, once more where another process replaced them meanwhile."""
    record = installed.find(spec.name) or _add_from_environment(spec)
    try:
        # Parts are not locked: `add` in another process may replace them between the record and their bytes.
        return record, _read_parts(record, schema)
    except DatasetError:
        newer = installed.find(spec.name)
        if newer is None or newer.folder == record.folder:
            raise
        return newer, _read_parts(newer, schema)


def _add_from_environment(spec: DatasetSpec) -> InstalledDataset:
    root = os.environ.get("DEEPIDEA_DATA")
    folder = Path(root) / spec.name if root else None
    if folder is None or not folder.is_dir():
        raise DatasetError(
            f"data set {spec.name} is not installed on this machine; run 'deepidea data add {spec.name} DIR' with a "
            f"folder of its files, or 'deepidea data get {spec.name}' to fetch them"
        )
    return add_dataset(spec.name, folder)


def _read_parts(record: InstalledDataset, schema: Schema) -> dict[str, pl.DataFrame]:
    """Return one table per role; each file of role ``extra`` is a table under its name."""
    paths = installed.check_parts(record)
    roles = {file.name: _table_name(file) for file in record.files}
    scans: dict[str, list[pl.LazyFrame]] = {}
    for path, part in zip(paths, record.parts, strict=True):
        # An enumeration: the name of the file costs a few bytes a row, not its length.
        file = pl.lit(part.file, dtype=pl.Enum(list(roles))).alias(FILE_COLUMN)
        scans.setdefault(roles[part.file], []).append(pl.scan_parquet(path, glob=False).with_columns(file))
    return {role: _collect(parts, record, schema) for role, parts in scans.items()}


def _table_name(file: FileRecord) -> str:
    return file.name.removesuffix(".gz").removesuffix(".txt") if file.role == "extra" else file.role


def _collect(parts: list[pl.LazyFrame], record: InstalledDataset, schema: Schema) -> pl.DataFrame:
    """Return the parts as one table, without features that some files lack."""
    columns = [part.collect_schema().names() for part in parts]
    # A feature that one file lacks cannot be learnt from the others; what identifies a flow may be missing in some.
    everywhere, features = set(columns[0]).intersection(*columns), set(schema.features)
    # In the order of the first file that has it.
    union = dict.fromkeys(name for names in columns for name in names)
    kept = [name for name in union if name in everywhere or name not in features]
    types = {"Int32": pl.Int32, "Int64": pl.Int64}
    whole = [pl.col(name).cast(types[dtype]) for name, dtype in record.whole_numbers.items() if name in kept]
    return pl.concat(parts, how="diagonal").select(kept).with_columns(whole).collect()


def get_dataset(
    name: str,
    *,
    folder: str | Path | None = None,
    training: Training = "auto",
    base: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = 60.0,
) -> InstalledDataset:
    """Download a data set's official files from their publisher and install them.

    Parameters
    ----------
    name
        Name of the data set.
    folder
        Folder of the files; one beside the installed data sets if None. Present files are not downloaded again, and an
        interrupted download is resumed.
    training
        KDD99: ``full``, or ``10-percent``, which ``auto`` means here too.
    base
        Address to use instead of the publisher's.
    progress
        Called with bytes done and bytes in all, of each file.
    timeout_s
        Seconds without an answer after which an attempt counts as failed.

    Raises
    ------
    DatasetError
        The publisher offers the data set on a page or by a form alone; the message says where.
    DownloadError
        A download did not finish.
    """
    spec = get_dataset_spec(name)
    address = base or spec.base
    if not address:
        raise DatasetError(
            f"cannot download {spec.title}: the publisher offers it on a page or by a form alone: {spec.page}; "
            f"fetch it there, then run 'deepidea data add {name} DIR'"
        )
    target = Path(folder) if folder is not None else installed.datasets_folder() / "downloads" / name
    for file_name, sha256 in _to_fetch(spec, training):
        if not (target / file_name).is_file():
            url = address.rstrip("/") + "/" + file_name
            download(url, target / file_name, sha256=sha256, progress=progress, timeout_s=timeout_s)
    return add_dataset(name, target, training=training)


def _to_fetch(spec: DatasetSpec, training: Training) -> list[tuple[str, str | None]]:
    wanted = "10-percent" if training == "auto" else training
    official = [file for file in spec.files if file.address and file.variant in ("", wanted)]
    return [(file.address, file.sha256[0]) for file in official] + [(name, None) for name in spec.downloads]
