"""Public data sets: register their official files once, load them typed, in one spelling, with their quirks counted."""

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
from deepidea.flows.datasets.ingest import LABEL, Ingested, Layout, Progress, ingest_file
from deepidea.flows.datasets.installed import FileRecord, InstalledDataset, Part
from deepidea.flows.datasets.specs import DATASET_SPECS, DatasetSpec, OfficialFile, Role, Training, get_dataset_spec
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
        What its columns are; optional columns that it lacks are gone.
    taxonomy
        Which labels are which class.
    train, test
        Its flows; `test` is None where the publisher states no split.
    files
        The official files it was registered from.
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


def layout_of(entry: DatasetSpec) -> Layout:
    """Return how the files of a data set are written."""
    schema = get_schema(entry.schema)
    return Layout(
        schema,
        get_taxonomy(entry.name, "native"),
        (*schema.features, *entry.trailing) if entry.trailing else (),
        entry.days,
        entry.afternoon_from_12,
        entry.has_column,
        entry.lacks_column,
    )


def add_dataset(
    name: str, folder: str | Path, *, training: Training = "auto", progress: Progress | None = None
) -> InstalledDataset:
    """Register a folder of official files: check them, read them once, keep typed Parquet.

    Files may be plain or gzip. CSV files of the CIC data sets are taken at any depth, one day or all of them.

    Parameters
    ----------
    name
        Name of the data set.
    folder
        Folder of its official files.
    training
        KDD99: which training file. ``auto`` takes the full one where it is there, else the 10 % one.
    progress
        Called with bytes read and bytes in all.

    Returns
    -------
    InstalledDataset
        Files with hashes and rows, quirks with counts. A registration of the same name before it is replaced.

    Raises
    ------
    DatasetError
        The data set is not known, or the folder or a needed file is absent.
    DataError
        A file is not what it should be; file, line and column are named.
    StorageError
        The typed copy could not be written; the one before still stands.
    """
    entry = get_dataset_spec(name)
    chosen = _files_in(entry, Path(folder).expanduser(), training)
    with installed.new_parts_folder() as target:
        results = _ingest_all([path for path, _ in chosen], layout_of(entry), target, progress)
        registration = _registration(entry, Path(folder), target, chosen, results)
        installed.save(registration)
    return registration


def _files_in(entry: DatasetSpec, folder: Path, training: Training) -> list[tuple[Path, OfficialFile]]:
    """Return the files to read with their roles."""
    if not folder.is_dir():
        raise DatasetError(
            f"data set {entry.name} must be added from a folder, however: {folder} is none; {_where(entry)}"
        )
    if not entry.files:
        return [(path, OfficialFile((path.name,), "train")) for path in _all_csv(entry, folder)]
    found = [(_find(folder, wanted), wanted) for wanted in _wanted(entry, folder, training)]
    absent = [wanted.names[0] for path, wanted in found if path is None and wanted.needed]
    if absent:
        raise DatasetError(f"{entry.name} needs {', '.join(absent)}, however: not in {folder}; {_where(entry)}")
    return [(path, wanted) for path, wanted in found if path is not None]


def _wanted(entry: DatasetSpec, folder: Path, training: Training) -> list[OfficialFile]:
    """Choose among the training files: the one asked for, else the first that is there."""
    variants = [file for file in entry.files if file.variant]
    if training == "auto":
        there = [file for file in variants if _find(folder, file) is not None]
        taken = (there or variants[-1:])[:1]
    else:
        taken = [file for file in variants if file.variant == training]
    return taken + [file for file in entry.files if not file.variant]


def _find(folder: Path, wanted: OfficialFile) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in wanted.names for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _all_csv(entry: DatasetSpec, folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.lower().endswith((".csv", ".csv.gz")))
    if not paths:
        raise DatasetError(f"{entry.name} needs CSV files, however: there are none in {folder}; {_where(entry)}")
    names = Counter(path.name.lower().removesuffix(".gz") for path in paths)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DatasetError(
            f"each file of {entry.name} must be there once, however: {twice[0]} is in several folders of {folder}; "
            f"add one of those folders"
        )
    return paths


def _where(entry: DatasetSpec) -> str:
    return f"the publisher offers it at {entry.page}"


def _ingest_all(paths: Sequence[Path], layout: Layout, target: Path, progress: Progress | None) -> list[Ingested]:
    total, done = sum(path.stat().st_size for path in paths), 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, total)

    return [ingest_file(path, layout, target, advance=advance) for path in paths]


def _registration(
    entry: DatasetSpec,
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
    quirks["columns_not_in_every_file"] = _n_uneven(results, layout_of(entry).schema)
    return InstalledDataset(
        entry.name,
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


def _n_uneven(results: Sequence[Ingested], schema: Schema) -> int:
    """Count the features that some files have and others lack."""
    sets: list[set[str]] = [set(done.columns) & set(schema.features) for done in results]
    return len(sets[0].union(*sets) - sets[0].intersection(*sets))


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
    """Return every known data set with its registration, None where it is not registered on this machine."""
    return {name: installed.find(name) for name in DATASET_SPECS}


def load_dataset(
    name: str, *, taxonomy: str | None = None, use_port: bool = False, attempted: Attempted | None = None
) -> Dataset:
    """Load a registered data set.

    Where it is not registered but ``$DEEPIDEA_DATA/<name>`` holds its files, they are registered first.

    Parameters
    ----------
    name
        ``kdd99``, ``nsl-kdd``, ``cicids17``, ``cicids17-improved`` or ``cicids18``.
    taxonomy
        Which labels are which class; the data set's default if None.
    use_port
        Whether the destination port is a feature.
    attempted
        ``cicids17-improved``: what becomes of labels that end in ``- Attempted``: ``benign`` (default), ``drop``, or
        ``own``, a class of their own.

    Returns
    -------
    Dataset
        Flows with canonical columns; the CIC data sets have no official split, so `test` is None.

    Raises
    ------
    DatasetError
        The data set is not known, not registered, or its registered copy is damaged.
    LabelError
        The data set has no such taxonomy.
    """
    entry = get_dataset_spec(name)
    mapping = get_taxonomy(name, taxonomy, attempted=attempted)
    schema = get_schema(entry.schema, use_port=use_port)
    registration, tables = _read_current(entry, schema)
    loaded = {role: _labelled(table, schema, mapping, f"{name}/{role}") for role, table in tables.items()}
    return _dataset(entry, registration, mapping, loaded)


def _read_current(entry: DatasetSpec, schema: Schema) -> tuple[InstalledDataset, dict[str, pl.DataFrame]]:
    """Read the current registration, once more where another process replaced it meanwhile."""
    registration = installed.find(entry.name) or _add_from_environment(entry)
    try:
        return registration, _read_parts(registration, schema)
    except DatasetError:
        newer = installed.find(entry.name)
        if newer is None or newer.folder == registration.folder:
            raise
        return newer, _read_parts(newer, schema)


def _add_from_environment(entry: DatasetSpec) -> InstalledDataset:
    root = os.environ.get("DEEPIDEA_DATA")
    folder = Path(root) / entry.name if root else None
    if folder is None or not folder.is_dir():
        raise DatasetError(
            f"data set {entry.name} must be registered, however: it is not on this machine; register its files with "
            f"'deepidea data add {entry.name} DIR' or fetch them with 'deepidea data get {entry.name}'"
        )
    return add_dataset(entry.name, folder)


def _read_parts(registration: InstalledDataset, schema: Schema) -> dict[str, pl.DataFrame]:
    """Return one table per role; files with a role of their own in ``extra`` stand under their name."""
    paths = installed.check_parts(registration)
    role_of = {file.name: _table_name(file) for file in registration.files}
    names = [file.name for file in registration.files]
    scans: dict[str, list[pl.LazyFrame]] = {}
    for path, part in zip(paths, registration.parts, strict=True):
        file = pl.lit(part.file, dtype=pl.Enum(names)).alias(FILE_COLUMN)
        scans.setdefault(role_of[part.file], []).append(pl.scan_parquet(path, glob=False).with_columns(file))
    return {role: _collect(parts, registration, schema) for role, parts in scans.items()}


def _table_name(file: FileRecord) -> str:
    return file.name.removesuffix(".gz").removesuffix(".txt") if file.role == "extra" else file.role


def _collect(parts: list[pl.LazyFrame], registration: InstalledDataset, schema: Schema) -> pl.DataFrame:
    """Return the parts as one table; features that some files lack are left out."""
    columns = [part.collect_schema().names() for part in parts]
    everywhere = set(columns[0]).intersection(*columns)
    features = set(schema.features)
    union = dict.fromkeys(name for names in columns for name in names)
    kept = [name for name in union if name in everywhere or name not in features]
    whole = {name: dtype for name, dtype in registration.whole_numbers.items() if name in kept}
    typed = [pl.col(name).cast(pl.Int32 if dtype == "Int32" else pl.Int64) for name, dtype in whole.items()]
    return pl.concat(parts, how="diagonal").select(kept).with_columns(typed).collect()


def _labelled(table: pl.DataFrame, schema: Schema, taxonomy: Taxonomy, source: str) -> LabelledFlows:
    return label_flows(table.drop(LABEL), table[LABEL], schema, taxonomy, source)


def _dataset(
    entry: DatasetSpec, registration: InstalledDataset, taxonomy: Taxonomy, loaded: dict[str, LabelledFlows]
) -> Dataset:
    present = {name for flows in loaded.values() for name in flows.class_order}
    order = tuple(name for name in taxonomy.classes if name in present)
    aligned = {role: replace(flows, class_order=order) for role, flows in loaded.items()}
    if not len(aligned["train"]):
        raise FileFormatError(
            f"taxonomy {taxonomy.name} must leave flows, however: it drops every label of {entry.name}"
        )
    roles: tuple[Role, ...] = ("train", "test")
    return Dataset(
        entry.name,
        entry.title,
        aligned["train"].schema,
        taxonomy,
        aligned["train"],
        aligned.get("test"),
        registration.files,
        registration.quirks,
        {role: flows for role, flows in aligned.items() if role not in roles},
        registration.training,
    )


def get_dataset(
    name: str,
    *,
    folder: str | Path | None = None,
    training: Training = "auto",
    base: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = 60.0,
) -> InstalledDataset:
    """Fetch a data set's official files from their publisher and register them.

    Parameters
    ----------
    name
        Name of the data set.
    folder
        Where the files go; a folder beside the registered data sets if None. Files that are there are not fetched
        again, and an interrupted download is resumed.
    training
        KDD99: ``full``, or ``10-percent``, which ``auto`` means here too.
    base
        Address to fetch from in place of the publisher's.
    progress
        Called with bytes done and bytes in all, for each file.
    timeout_s
        Seconds without an answer after which an attempt counts as failed.

    Raises
    ------
    DatasetError
        The publisher offers the data set on a page or by a form alone; the message says where.
    DownloadError
        A download did not finish.
    """
    entry = get_dataset_spec(name)
    address = base or entry.base
    if not address:
        raise DatasetError(
            f"a data set must have an address to be fetched, however: the publisher offers {entry.title} on a page "
            f"or by a form alone: {entry.page}; fetch it there, then 'deepidea data add {name} DIR'"
        )
    target = Path(folder) if folder is not None else installed.datasets_folder() / "downloads" / name
    for file_name, sha256 in _to_fetch(entry, training):
        if not (target / file_name).is_file():
            url = address.rstrip("/") + "/" + file_name
            download(url, target / file_name, sha256=sha256, progress=progress, timeout_s=timeout_s)
    return add_dataset(name, target, training=training)


def _to_fetch(entry: DatasetSpec, training: Training) -> list[tuple[str, str | None]]:
    wanted = "10-percent" if training == "auto" else training
    official = [file for file in entry.files if file.address and file.variant in ("", wanted)]
    return [(file.address, file.sha256[0]) for file in official] + [(name, None) for name in entry.downloads]
