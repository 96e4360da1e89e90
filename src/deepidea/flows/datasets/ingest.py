"""Official files to typed Parquet; every peculiarity of the raw format is handled and counted.

Files are read by `deepidea.flows.tables`, in blocks, so that memory does not grow with them.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from deepidea.errors import CellError, FileFormatError, LabelError, SchemaError
from deepidea.flows.column import column_key
from deepidea.flows.datasets.specs import DatasetSpec
from deepidea.flows.schema import get_schema, suggest
from deepidea.flows.skipping import SkipCount
from deepidea.flows.tables import FlowChunk, ReadOptions, open_table
from deepidea.flows.taxonomy import format_counts, get_taxonomy, normalise_labels
from deepidea.flows.writing import write_flows

LABEL = "label"
_LABEL_KEYS = ("label", "labels", "class")
_DOUBLED = "_duplicated_"  # how the second column of one name is called
_WINDOWS = ("fwd_init_window_bytes", "bwd_init_window_bytes")
_AFTERNOON_BEFORE_HOUR = 8  # captures ran from 8 to 18 o'clock: an earlier hour on a 12-hour clock is past noon
_EXACT = 2.0**53

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all (None where unknown)."""


@dataclass(slots=True)
class Ingested:
    """Result of one file; `whole` has the bounds of the columns that hold whole numbers alone."""

    part: Path
    rows: int = 0
    sha256: str = ""
    content_sha256: str = ""
    columns: tuple[str, ...] = ()
    quirks: Counter[str] = field(default_factory=Counter)
    whole: dict[str, tuple[float, float]] = field(default_factory=dict)
    not_whole: set[str] = field(default_factory=set)


class _NoneSkipped(SkipCount):
    """Refuses the first row that breaks a rule: official files have none."""

    def add(self, reason: str, rows: int, example: str) -> None:  # noqa: ARG002
        raise CellError(f"{example}; fetch the file again, or drop that line")


def ingest_file(path: Path, spec: DatasetSpec, folder: Path, *, advance: Callable[[int], None]) -> Ingested:
    """Read one official file, plain or gzip, and write its rows to a Parquet file.

    Parameters
    ----------
    path
        The file.
    spec
        Its data set.
    folder
        Where the Parquet file goes; it must exist.
    advance
        Called with the bytes of `path` that were done since the last call.

    Raises
    ------
    FileFormatError
        The file is empty, truncated or damaged.
    CellError
        A line has more or fewer cells than the header, or a cell breaks its column's rule.
    SchemaError
        Columns are missing or of another data set.
    LabelError
        A label is missing or unknown.
    """
    done = Ingested(folder / f"{path.name}.parquet")
    done.sha256, done.content_sha256 = _hashes(path)
    # A file is gone through twice, for its hashes and for its rows; each counts as half.
    advance(path.stat().st_size // 2)
    write_flows(_typed_chunks(path, spec, done), done.part)
    advance(path.stat().st_size - path.stat().st_size // 2)
    return done


def _hashes(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of a file and of its content, which is another where the file is gzip."""
    try:
        with path.open("rb") as file:
            # Publishers and mirrors pack the same content differently: either hash may be the official one.
            of_file = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if file.read(2) != b"\x1f\x8b":
                return of_file, of_file
            file.seek(0)
            with gzip.open(file) as content:
                return of_file, hashlib.file_digest(content, "sha256").hexdigest()
    except (EOFError, OSError, zlib.error) as error:  # gzip's errors for a damaged file
        raise FileFormatError(f"cannot read {path}: it is damaged or truncated ({error}); fetch it again") from error


def _typed_chunks(path: Path, spec: DatasetSpec, done: Ingested) -> Iterator[pl.DataFrame]:
    schema = get_schema(spec.schema)
    table = open_table(path, str(path), (*schema.features, *spec.trailing) if spec.trailing else None)
    header = table.columns.names()
    _check_header(header, path, spec, done.quirks)
    label = next(name for name in header if column_key(name) in _LABEL_KEYS)
    # Parts keep every column that a file has; whether the port is a feature is decided at loading.
    use_port = "dst_port" in schema.canonical_names(header).values()
    for chunk in table.chunks(ReadOptions(schema.with_port(use_port), _NoneSkipped(), [label])):
        yield _typed(chunk, label, spec, done)
    done.quirks["empty_rows"] += table.removed["blank"]
    done.quirks["repeated_header_rows"] += table.removed["header"]
    if not done.rows:
        raise FileFormatError(f"cannot read {path}: it has no rows; fetch it again")


def _check_header(header: Sequence[str], path: Path, spec: DatasetSpec, quirks: Counter[str]) -> None:
    """Check the columns of a file, and count what is odd about their names."""
    if spec.trailing:  # without a header line
        return
    schema = get_schema(spec.schema)
    known, present = schema.canonical_names(header), set[str]()
    for raw in header:
        name = LABEL if column_key(raw) in _LABEL_KEYS else known.get(raw)
        quirks["header_names_with_spaces"] += raw != raw.strip()
        if name in present or _DOUBLED in raw or column_key(raw) == "fwd_header_length_1":
            quirks["doubled_columns"] += 1
        elif name is None:
            quirks["unknown_columns"] += 1
        else:
            present.add(name)
    required = [c.name for c in schema.columns if schema.is_feature(c) and not c.optional]
    missing = [name for name in (*required, LABEL, spec.has_column) if name and name not in present]
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise SchemaError(
            f"cannot read {path}, line 1: {len(missing)} missing columns: {listed}"
            f"{suggest(missing[0], [raw.strip() for raw in header])}; is the file of another data set?"
        )
    if spec.lacks_column in present:
        raise SchemaError(
            f"cannot read {path}, line 1: it has the column {spec.lacks_column} of the corrected data set; "
            "add it under that name"
        )


def _typed(chunk: FlowChunk, label: str, spec: DatasetSpec, done: Ingested) -> pl.DataFrame:
    """Return the rows of a chunk in types; quirks are counted in `done`."""
    assert chunk.original is not None  # the label was requested
    kept = _without_idle_rows(chunk, chunk.original[label].str.strip_chars().replace("", None), done.quirks)
    labels = _labels(kept, chunk.source, spec, done.quirks)
    schema, columns = get_schema(spec.schema), kept.columns
    ports = [name for name in ("src_port", "dst_port") if name in columns]
    flows = kept.drop(LABEL, _LINE).with_columns(
        labels.alias(LABEL),
        pl.col(ports).cast(pl.Float64, strict=False),
        pl.col([name for name in schema.categories if name in columns]).str.replace(_WHOLE, "$1"),
    )
    if "timestamp" in flows.columns:
        flows = flows.with_columns(_timestamps(flows["timestamp"], spec, done.quirks))
    _count_cells(flows, [*(name for name in schema.numbers if name in columns), *ports], done)
    done.rows += flows.height
    done.columns = tuple(flows.columns)
    return flows


_LINE = "__line"
_WHOLE = r"^(-?\d+)\.0+$"


def _without_idle_rows(chunk: FlowChunk, labels: pl.Series, quirks: Counter[str]) -> pl.DataFrame:
    """Return the flows with label and line, without empty rows and repeated headers."""
    flows = chunk.flows.with_columns(labels.alias(LABEL), pl.Series(_LINE, chunk.positions))
    idle = flows.select(pl.all_horizontal(pl.exclude(_LINE).is_null())).to_series()
    header = labels.str.to_lowercase().is_in(list(_LABEL_KEYS)).fill_null(False)
    unlabelled = labels.is_null() & ~idle
    if unlabelled.any():
        line = flows.filter(unlabelled)[_LINE][0]
        raise LabelError(f"cannot read {chunk.source}, line {line}: the label is missing; fetch the file again")
    quirks["empty_rows"] += int(idle.sum())
    quirks["repeated_header_rows"] += int(header.sum())
    return flows.filter(~(idle | header))


def _labels(flows: pl.DataFrame, source: str, spec: DatasetSpec, quirks: Counter[str]) -> pl.Series:
    taxonomy = get_taxonomy(spec.name, "native")
    labels, changes = normalise_labels(flows[LABEL], taxonomy)
    quirks.update(changes)
    unknown = ~labels.is_in(list(taxonomy.labels))
    if unknown.any():
        # An official file has the labels of its taxonomy and no others: anything else is another data set.
        strange, line = labels.filter(unknown), flows.filter(unknown)[_LINE][0]
        raise LabelError(
            f"cannot read {source}, line {line}: unknown labels {format_counts(strange)}"
            f"{suggest(strange[0], taxonomy.labels)}; is the file of another data set?"
        )
    return labels


_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_DAY_FIRST = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M")
_MONTH_FIRST = ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M")
_DAY_FIRST_12 = ("%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M %p")
_MONTH_FIRST_12 = ("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p")


def _timestamps(text: pl.Series, spec: DatasetSpec, quirks: Counter[str]) -> pl.Series:
    """Return times of capture; the days of capture decide between day/month and month/day."""
    # day/month unless only month/day lies within the days of capture; ISO 8601 and AM/PM are unambiguous
    frame = text.to_frame("t").select(pl.col("t").str.strip_chars())
    iso, halves = _parsed(frame, _ISO), [_parsed(frame, _DAY_FIRST_12), _parsed(frame, _MONTH_FIRST_12)]
    day_first, month_first = (_parsed(frame, formats) for formats in (_DAY_FIRST, _MONTH_FIRST))
    if spec.afternoon_from_12:
        quirks["timestamps_moved_to_afternoon"] += int(_is_early(day_first.fill_null(month_first)).sum())
        day_first, month_first = _to_afternoon(day_first), _to_afternoon(month_first)
    swapped = ~_within(day_first, spec) & _within(month_first, spec)
    quirks["timestamps_month_first"] += int(swapped.sum())
    times = iso.fill_null(month_first.zip_with(swapped, day_first)).fill_null(halves[0]).fill_null(halves[1])
    quirks["timestamps_unread"] += times.null_count() - text.null_count()
    quirks["timestamps_outside_capture"] += int((~_within(times, spec) & times.is_not_null()).sum())
    return times.alias("timestamp")


def _parsed(frame: pl.DataFrame, formats: Sequence[str]) -> pl.Series:
    parsed = [pl.col("t").str.to_datetime(form, strict=False, time_unit="us") for form in formats]
    return frame.select(pl.coalesce(parsed)).to_series()


def _is_early(times: pl.Series) -> pl.Series:
    return (times.dt.hour() < _AFTERNOON_BEFORE_HOUR).fill_null(False)


def _to_afternoon(times: pl.Series) -> pl.Series:
    return (times + dt.timedelta(hours=12)).zip_with(_is_early(times), times)


def _within(times: pl.Series, spec: DatasetSpec) -> pl.Series:
    if spec.days is None:
        return times.is_not_null()
    return times.dt.date().is_between(*spec.days).fill_null(False)


def _count_cells(flows: pl.DataFrame, names: Sequence[str], done: Ingested) -> None:
    """Count infinite, NaN and missing cells and -1 windows, and follow which columns hold whole numbers."""
    numbers, windows = pl.col(names), [pl.col(name) == -1 for name in _WINDOWS if name in names]
    facts = {
        "infinite_cells": numbers.is_infinite(),
        "nan_cells": numbers.is_nan(),
        "missing_cells": numbers.is_null(),
        **({"minus_one_windows": pl.sum_horizontal(windows)} if windows else {}),
    }
    for kind, cells in facts.items():
        done.quirks[kind] += int(sum(flows.select(cells.sum()).row(0)))
    _follow_whole(flows, [name for name in names if name not in done.not_whole], done)


def _follow_whole(flows: pl.DataFrame, watched: Sequence[str], done: Ingested) -> None:
    if not watched or not flows.height:
        return
    values = pl.col(watched)
    # Beyond 2^53 floats are all whole, and neighbours fall together: such a column stays of floats.
    holds = flows.select(((values == values.floor()) & (values.abs() < _EXACT)).all()).row(0)
    lows, highs = flows.select(values.min()).row(0), flows.select(values.max()).row(0)
    for name, is_whole, low, high in zip(watched, holds, lows, highs, strict=True):
        if not is_whole:
            done.not_whole.add(name)
            done.whole.pop(name, None)
        elif low is not None:
            before = done.whole.get(name, (low, high))
            done.whole[name] = (min(low, before[0]), max(high, before[1]))
