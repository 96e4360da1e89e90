"""Official files to typed Parquet, with every peculiarity of the raw format handled and counted.

Files are read in batches, so that memory does not grow with them, and every cell is read as text first, so that a bad
one can be named by file, line and column.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import polars as pl

from deepidea.errors import CellError, FileFormatError, LabelError, SchemaError
from deepidea.flows.column import column_key
from deepidea.flows.schema import Schema, suggest
from deepidea.flows.taxonomy import Taxonomy, format_counts, normalise_labels
from deepidea.flows.writing import write_flows

LABEL, LINE = "label", "__line"
BATCH_ROWS = 65_536
_BLOCK_BYTES = 1 << 20
_LABEL_KEYS = ("label", "labels", "class")
_WINDOWS = ("fwd_init_window_bytes", "bwd_init_window_bytes")
_AFTERNOON_BEFORE_HOUR = 8  # captures ran from 8 to 18 o'clock: an earlier hour on a 12-hour clock is past noon
_EXACT = 2.0**53

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all (None where unknown)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a data set are written.

    Parameters
    ----------
    schema, taxonomy
        The features, and the labels that may occur.
    headless
        Column names of files without a header line; empty where they have one.
    days
        First and last day of capture, to tell day/month from month/day.
    afternoon_from_12
        Whether clocks run to 12 and say neither AM nor PM.
    has_column, lacks_column
        A canonical column that the files must have, or must not have.
    """

    schema: Schema
    taxonomy: Taxonomy
    headless: tuple[str, ...] = ()
    days: tuple[dt.date, dt.date] | None = None
    afternoon_from_12: bool = False
    has_column: str = ""
    lacks_column: str = ""


@dataclass(slots=True)
class Ingested:
    """What came of one file; `whole` has the bounds of the columns that hold whole numbers alone."""

    rows: int = 0
    sha256: str = ""
    content_sha256: str = ""
    parts: list[Path] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    quirks: Counter[str] = field(default_factory=Counter)
    whole: dict[str, tuple[float, float]] = field(default_factory=dict)
    not_whole: set[str] = field(default_factory=set)


def ingest_file(path: Path, layout: Layout, folder: Path, *, advance: Callable[[int], None]) -> Ingested:
    """Read one official file, plain or gzip, and write its rows as Parquet parts into a folder.

    Parameters
    ----------
    path
        The file.
    layout
        How it is written.
    folder
        Where the parts go; it must exist.
    advance
        Called with the bytes of `path` that were done since the last call.

    Raises
    ------
    FileFormatError
        The file is empty, truncated, or a line has more or fewer fields than the header.
    SchemaError
        Columns are missing or strange.
    CellError
        A cell holds text where a number belongs.
    LabelError
        A label is not known.
    """
    done = Ingested()
    unpacked = folder / f".{path.name}.unpacked"
    try:
        plain = _hash_and_unpack(path, unpacked, done)
        advance(path.stat().st_size // 2)
        header = _Header.of(plain, path, layout, done.quirks)
        for number, batch in enumerate(_batches(plain, path, header)):
            part = folder / f"{path.name}.{number:05}.parquet"
            write_flows([_typed(batch, path, header, layout, done)], part)
            done.parts.append(part)
        if not done.rows:
            raise FileFormatError(f"a data file must have rows, however: {path} has none; fetch it again")
    finally:
        unpacked.unlink(missing_ok=True)
    advance(path.stat().st_size - path.stat().st_size // 2)
    return done


def _hash_and_unpack(path: Path, unpacked: Path, done: Ingested) -> Path:
    """Hash the file; unpack it if it is gzip; return the path of the plain one."""
    with _opened(path) as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        done.sha256 = _sha256_of(file)
        file.seek(0)
        if not is_gzip:
            done.content_sha256 = done.sha256
            return path
        try:
            with gzip.open(file) as content, unpacked.open("wb") as target:
                done.content_sha256 = _sha256_of(content, target)  # type: ignore[arg-type]  # GzipFile reads bytes
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FileFormatError(
                f"a gzip file must be whole, however: {path} is damaged or cut off ({error}); fetch it again"
            ) from error
    return unpacked


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileFormatError(f"a data file must be readable, however: {path}: {error.strerror}") from error


def _sha256_of(source: BinaryIO, copy: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Header:
    """Names of the fields of a file, as they are called while reading; `names` maps those to canonical ones."""

    fields: tuple[str, ...]
    raw: tuple[str, ...]
    names: Mapping[str, str]
    n_lines: int

    @classmethod
    def of(cls, plain: Path, path: Path, layout: Layout, quirks: Counter[str]) -> _Header:
        with plain.open("rb") as file:
            line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
        if not line.strip():
            raise FileFormatError(f"a data file must not be empty, however: {path} is; fetch it again")
        raw = line.split(",")
        if layout.headless:
            _refuse_width(len(raw), layout.headless, path)
            return cls(layout.headless, layout.headless, {name: name for name in layout.headless}, 0)
        fields = tuple(f"f{i}" for i in range(len(raw)))
        return cls(fields, tuple(raw), _canonical_fields(raw, path, layout, quirks), 1)

    def line_of(self, index: int) -> int:
        return index + 1 + self.n_lines

    def raw_of(self, name: str) -> str:
        by_name = {canonical: field for field, canonical in self.names.items()}
        return self.raw[self.fields.index(by_name[name])].strip()


def _refuse_width(width: int, expected: Sequence[str], path: Path) -> None:
    if width != len(expected):
        raise SchemaError(
            f"a file of this data set must have {len(expected)} columns ({expected[0]} ... {expected[-1]}), however: "
            f"{path} has {width} (line 1); is it another data set's?"
        )


def _canonical_fields(raw: Sequence[str], path: Path, layout: Layout, quirks: Counter[str]) -> dict[str, str]:
    """Return field -> canonical name of the columns to read, counting what is odd about the header."""
    known = layout.schema.canonical_names(raw)
    names: dict[str, str] = {}
    for i, header in enumerate(raw):
        name = LABEL if column_key(header) in _LABEL_KEYS else known.get(header)
        quirks["header_names_with_spaces"] += header != header.strip()
        if name in names.values() or column_key(header) == "fwd_header_length_1":
            quirks["doubled_columns"] += 1
        elif name is None:
            quirks["unknown_columns"] += 1
        else:
            names[f"f{i}"] = name
    _refuse_columns(set(names.values()), raw, path, layout)
    return names


def _refuse_columns(present: set[str], raw: Sequence[str], path: Path, layout: Layout) -> None:
    schema = layout.schema
    required = [c.name for c in schema.columns if schema.is_feature(c) and not c.optional]
    missing = [name for name in (*required, LABEL, layout.has_column) if name and name not in present]
    if missing:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise SchemaError(
            f"a file of this data set must have every column, however: {path} lacks {len(missing)}: {listed}"
            f"{suggest(missing[0], [header.strip() for header in raw])} (line 1); is it another data set's?"
        )
    if layout.lacks_column in present:
        raise SchemaError(
            f"a file of this data set has no {layout.lacks_column}, however: {path} has it (line 1); "
            f"it belongs to the corrected data set: add it under that name"
        )


def _batches(plain: Path, path: Path, header: _Header) -> Iterator[pl.DataFrame]:
    """Yield the columns to read as text under canonical names, with the index of the line."""
    lazy = pl.scan_csv(
        plain,
        has_header=False,
        skip_lines=header.n_lines,
        schema=dict.fromkeys(header.fields, pl.String),
        encoding="utf8-lossy",
        quote_char=None,
        row_index_name=LINE,
        glob=False,
    )
    wanted = [pl.col(field).alias(name) for field, name in header.names.items()]
    try:
        yield from lazy.select(LINE, *wanted).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    except pl.exceptions.ComputeError as error:
        _refuse_ragged(plain, path, len(header.fields), error)


def _refuse_ragged(plain: Path, path: Path, width: int, error: Exception) -> None:
    """Say which line is too long; this reads the file again, which only a broken file pays."""
    with plain.open("rb") as file:
        for number, line in enumerate(file, start=1):
            n_fields = line.count(b",") + 1
            if n_fields > width:
                raise FileFormatError(
                    f"every line must have {width} fields, however: {path} line {number} has {n_fields}; mend it"
                ) from error
    raise FileFormatError(f"a data file must be CSV, however: {path} is not: {error}") from error


def _typed(batch: pl.DataFrame, path: Path, header: _Header, layout: Layout, done: Ingested) -> pl.DataFrame:
    """Return a batch with typed columns; quirks are counted in `done`."""
    batch = _drop_idle_rows(batch, path, header, done.quirks)
    batch = batch.with_columns(_labels(batch, path, header, layout, done.quirks))
    batch = _parse_numbers(batch, path, header, layout)
    batch = batch.with_columns(_words(batch, layout))
    if "timestamp" in batch.columns:
        batch = batch.with_columns(_timestamps(batch["timestamp"], layout, done.quirks))
    _count_cells(batch, layout, done)
    done.rows += batch.height
    done.columns = tuple(name for name in batch.columns if name != LINE)
    return batch.drop(LINE)


def _drop_idle_rows(batch: pl.DataFrame, path: Path, header: _Header, quirks: Counter[str]) -> pl.DataFrame:
    """Drop empty rows and repeated header lines; refuse rows that stop short."""
    label = pl.col(LABEL)
    last = header.names.get(header.fields[-1], LABEL)
    if batch[LABEL].null_count() or batch[last].null_count():
        idle = batch.filter(pl.all_horizontal(pl.exclude(LINE).is_null()))
        _refuse_short(batch.filter(label.is_null() | pl.col(last).is_null()), idle, path, header)
        quirks["empty_rows"] += idle.height
        batch = batch.filter(label.is_not_null())
    repeated = label.str.strip_chars().str.to_lowercase().is_in(list(_LABEL_KEYS))
    kept = batch.filter(~repeated)
    quirks["repeated_header_rows"] += batch.height - kept.height
    return kept


def _refuse_short(suspects: pl.DataFrame, idle: pl.DataFrame, path: Path, header: _Header) -> None:
    short = suspects.filter(~pl.col(LINE).is_in(idle[LINE].implode()))
    if short.height:
        line = header.line_of(short[LINE][0])
        raise FileFormatError(
            f"every line must have {len(header.fields)} fields and a label, however: {path} line {line} stops short; "
            f"is the file cut off?"
        )


def _labels(batch: pl.DataFrame, path: Path, header: _Header, layout: Layout, quirks: Counter[str]) -> pl.Series:
    labels, changes = normalise_labels(batch[LABEL], layout.taxonomy)
    quirks.update(changes)
    unknown = ~labels.is_in(list(layout.taxonomy.labels))
    if unknown.any():
        line = header.line_of(batch.filter(unknown)[LINE][0])
        strange = labels.filter(unknown)
        raise LabelError(
            f"every label must be one of the data set's, however: {path} line {line} begins to use "
            f"{format_counts(strange)}{suggest(strange[0], layout.taxonomy.labels)}; is it another data set's?"
        )
    return labels


def _number_names(batch: pl.DataFrame, schema: Schema) -> list[str]:
    ports = [c.name for c in schema.columns if c.kind == "port" or c.name == "src_port"]
    return [name for name in (*schema.numbers, *ports) if name in batch.columns]


def _parse_numbers(batch: pl.DataFrame, path: Path, header: _Header, layout: Layout) -> pl.DataFrame:
    names = _number_names(batch, layout.schema)
    typed = batch.with_columns(pl.col(names).cast(pl.Float64, strict=False))
    suspects = [name for name in names if typed[name].null_count() > batch[name].null_count()]
    if not suspects:
        return typed
    stripped = batch.select(LINE, pl.col(suspects).str.strip_chars().replace("", None))
    again = stripped.with_columns(pl.col(suspects).cast(pl.Float64, strict=False))
    _refuse_text(stripped, again, suspects, path, header)
    return typed.with_columns(again.select(suspects))


def _refuse_text(text: pl.DataFrame, numbers: pl.DataFrame, names: Sequence[str], path: Path, header: _Header) -> None:
    bad = [(text.filter(text[name].is_not_null() & numbers[name].is_null()), name) for name in names]
    first = min(((cells[LINE][0], cells[name][0], name) for cells, name in bad if cells.height), default=None)
    if first is not None:
        line, value, name = first
        raise CellError(
            f"{name} must be a number, however: {name}={value!r} "
            f"({path} line {header.line_of(line)}, column {header.raw_of(name)!r}); mend or drop that line"
        )


def _words(batch: pl.DataFrame, layout: Layout) -> list[pl.Expr]:
    """Return categories without spaces or a decimal point after whole numbers."""
    present = [name for name in layout.schema.categories if name in batch.columns]
    return [pl.col(name).str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "$1") for name in present]


_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_DAY_FIRST = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M")
_MONTH_FIRST = ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M")
_DAY_FIRST_12 = ("%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M %p")
_MONTH_FIRST_12 = ("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p")


def _timestamps(text: pl.Series, layout: Layout, quirks: Counter[str]) -> pl.Series:
    """Return times of capture; the days of capture decide between day/month and month/day."""
    frame = text.to_frame("t").select(pl.col("t").str.strip_chars())
    iso, halves = _parsed(frame, _ISO), [_parsed(frame, _DAY_FIRST_12), _parsed(frame, _MONTH_FIRST_12)]
    day_first, month_first = (_parsed(frame, formats) for formats in (_DAY_FIRST, _MONTH_FIRST))
    if layout.afternoon_from_12:
        quirks["timestamps_moved_to_afternoon"] += int(_is_early(day_first.fill_null(month_first)).sum())
        day_first, month_first = _to_afternoon(day_first), _to_afternoon(month_first)
    swapped = ~_within(day_first, layout) & _within(month_first, layout)
    quirks["timestamps_month_first"] += int(swapped.sum())
    times = iso.fill_null(month_first.zip_with(swapped, day_first)).fill_null(halves[0]).fill_null(halves[1])
    quirks["timestamps_unread"] += times.null_count() - text.null_count()
    quirks["timestamps_outside_capture"] += int((~_within(times, layout) & times.is_not_null()).sum())
    return times.alias("timestamp")


def _parsed(frame: pl.DataFrame, formats: Sequence[str]) -> pl.Series:
    parsed = [pl.col("t").str.to_datetime(form, strict=False, time_unit="us") for form in formats]
    return frame.select(pl.coalesce(parsed)).to_series()


def _is_early(times: pl.Series) -> pl.Series:
    return (times.dt.hour() < _AFTERNOON_BEFORE_HOUR).fill_null(False)


def _to_afternoon(times: pl.Series) -> pl.Series:
    return (times + dt.timedelta(hours=12)).zip_with(_is_early(times), times)


def _within(times: pl.Series, layout: Layout) -> pl.Series:
    if layout.days is None:
        return times.is_not_null()
    return times.dt.date().is_between(*layout.days).fill_null(False)


def _count_cells(batch: pl.DataFrame, layout: Layout, done: Ingested) -> None:
    """Count infinite, NaN and missing cells and -1 windows, and follow which columns hold whole numbers."""
    names = _number_names(batch, layout.schema)
    numbers = [pl.col(name) for name in names]
    facts = {
        "infinite_cells": [c.is_infinite().sum() for c in numbers],
        "nan_cells": [c.is_nan().sum() for c in numbers],
        "missing_cells": [c.is_null().sum() for c in numbers],
        "minus_one_windows": [(pl.col(name) == -1).sum() for name in _WINDOWS if name in names],
    }
    for kind, sums in facts.items():
        done.quirks[kind] += sum(batch.select(sums).row(0)) if sums else 0
    _follow_whole(batch, names, done)


def _follow_whole(batch: pl.DataFrame, names: Sequence[str], done: Ingested) -> None:
    watched = [name for name in names if name not in done.not_whole]
    if not watched or not batch.height:
        return
    holds = batch.select(((pl.col(watched) == pl.col(watched).floor()) & (pl.col(watched).abs() < _EXACT)).all()).row(0)
    lows, highs = (batch.select(getattr(pl.col(watched), which)()).row(0) for which in ("min", "max"))
    for name, is_whole, low, high in zip(watched, holds, lows, highs, strict=True):
        if not is_whole:
            done.not_whole.add(name)
            done.whole.pop(name, None)
        elif low is not None:
            before = done.whole.get(name, (low, high))
            done.whole[name] = (min(low, before[0]), max(high, before[1]))
