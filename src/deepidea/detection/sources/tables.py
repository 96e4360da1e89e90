"""Flow tables as sources: CSV and Parquet, of the schema that is asked for or of the registered one that they have."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from deepidea.detection.sources.positions import (
    EARLIER_RELEASE,
    ReadFile,
    ReadFiles,
    beginning_of_file,
    file_of,
    path_name,
    warn_of_copies,
)
from deepidea.detection.sources.source import BATCH_FLOWS, FlowBatch, Position
from deepidea.errors import SchemaError
from deepidea.flows.column import Column, column_key
from deepidea.flows.identity import IDENTITY
from deepidea.flows.schema import SCHEMAS, Schema, get_schema
from deepidea.flows.skipping import SkipCount
from deepidea.flows.tables import FlowChunk, check_inputs, expand_inputs, iter_chunks
from deepidea.store.memory import MemoryChange

__all__ = ["TableSource", "with_identity"]

_LONGEST_US = 1 << 51
log = logging.getLogger("deepidea.detection")

_TABLES = "tables"  # part of the memory: files that were read to their ends
_WHOLE_CHUNKS = 1 << 40  # rows: cut nothing, batches are cut here
_TIMES = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%d/%m/%Y %H:%M:%S",  # CICFlowMeter writes the day first
    "%d/%m/%Y %I:%M:%S %p",
    "%d/%m/%Y %H:%M",
)


class TableSource:
    r"""A table of flows, or a folder of them.

    Parameters
    ----------
    address
        A file, folder or glob: see :func:`deepidea.flows.tables.expand_inputs`.
    schema
        Schema of the flows, or its registered name. Without one, the first registered one that every file has.
    batch_flows
        Most flows of a batch.

    Examples
    --------
    >>> import tempfile
    >>> from deepidea.flows.simulate import simulate_flows
    >>> path = Path(tempfile.mkdtemp()) / "flows.csv"
    >>> simulate_flows(n_flows=5).write_csv(path)
    >>> source = TableSource(str(path), batch_flows=3)
    >>> batches = list(source.batches(None, threading.Event()))
    >>> [(batch.flows.height, batch.position["file"]["place"]["at"]) for batch in batches]
    [(3, 4), (2, 6)]
    """

    replayable = True

    def __init__(
        self, address: str | Path, *, schema: Schema | str | None = None, batch_flows: int = BATCH_FLOWS
    ) -> None:
        if batch_flows < 1:
            raise ValueError(f"batch_flows must be at least 1, got {batch_flows}")
        self.name = path_name(address)
        self._done = ReadFiles()
        self._schema = get_schema(schema) if isinstance(schema, str) else schema
        self.schema = self._schema.name if self._schema else "any"
        self._batch_flows = batch_flows

    def restore(self, memory: Mapping[str, Sequence[bytes]]) -> None:
        """Take the files that were read to their ends by the position that `batches` is called with next."""
        self._done = ReadFiles.unpack(memory.get(_TABLES, []))

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches: see `Source.batches`. Those of one file are of one schema."""
        paths = expand_inputs([self.name])
        schema = self._schema or _schema_of(paths)
        left = self._file_of(after)
        beginnings = {path: beginning_of_file(path) for path in paths}
        if left is not None and left.size is None and not any(map(left.is_beginning, beginnings.values())):
            log.warning("cannot read the rest of a table of %s: it is gone or was replaced", self.name)
        warn_of_copies(beginnings)
        self._done.keep(list(beginnings.values()))
        # The file that was being read comes first, whatever files have taken names before its own.
        in_order = sorted(beginnings, key=lambda path: left is None or not left.is_beginning(beginnings[path]))
        for path in in_order:
            beginning = beginnings[path]
            size = path.stat().st_size
            file = left if left is not None and left.is_beginning(beginning) else self._done.find(beginning)
            # Shorter than it was when read to its end: the same beginning, but another table.
            if file is None or size < (file.size or 0):
                file = ReadFile.of(beginning, {"at": 0, "skipped": {}})
            if file.size != size and not stop.is_set():
                yield from self._read(path, file, schema, stop)

    def _file_of(self, after: Position | None) -> ReadFile | None:
        if after is None:
            return None
        file = file_of(after, {"file", "at"}, self.name)
        if file is None:
            log.warning(EARLIER_RELEASE, self.name)
        return file

    def _read(self, path: Path, file: ReadFile, schema: Schema, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield the rows of a file behind its place; the last batch says that it is read to its end."""
        size, counts, held = path.stat().st_size, SkipCount(), None
        # One part is held back: only once the file has ended is it known which is the last, and its position must say
        # so, for a file with a size is not opened again.
        for part in self._parts(path, file.place["at"], schema, counts):
            if held is not None:
                yield self._batch(held, file)
            if stop.is_set():
                return
            # Counts run from the beginning of the file, also when it is read on behind a place: rows that were skipped
            # before it are subtracted, and not reported twice.
            new = counts.reasons - Counter(file.place["skipped"])
            file = file.at({"at": int(part.positions[-1]), "skipped": dict(counts.reasons)})
            held = FlowBatch(with_identity(part.flows, schema), skipped=dict(new))
        held = held or FlowBatch(_no_flows(schema))
        new = counts.reasons - Counter(file.place["skipped"]) + Counter(held.skipped)
        file = file.at({**file.place, "skipped": dict(counts.reasons)}, size)
        self._done.put(file)
        yield self._batch(replace(held, skipped=dict(new)), file)

    def _parts(self, path: Path, at: int, schema: Schema, counts: SkipCount) -> Iterator[FlowChunk]:
        chunks = iter_chunks(
            [path], naming_flows(schema), chunk_rows=_WHOLE_CHUNKS, on_error="skip", skipped=counts, keep_original=False
        )
        for chunk in chunks:
            yield from _behind(chunk, at).slices(self._batch_flows)

    def _batch(self, held: FlowBatch, file: ReadFile) -> FlowBatch:
        memory = () if file.size is None else (MemoryChange(_TABLES, self._done.pack()),)
        return replace(held, position={"file": file.to_json()}, memory=memory)


def _behind(chunk: FlowChunk, done: int) -> FlowChunk:
    # By line number, not by how many rows were read: skipped lines leave gaps.
    kept = int(np.searchsorted(chunk.positions, done, side="right"))
    return FlowChunk(chunk.flows.slice(kept), None, chunk.source, chunk.unit, chunk.positions[kept:])


def _schema_of(paths: list[Path]) -> Schema:
    """Return the registered schema that the tables have."""
    for schema in SCHEMAS.values():
        try:
            check_inputs(paths, schema)
        except SchemaError:
            continue
        return schema
    raise SchemaError(
        f"cannot read {paths[0]}: its columns are of no registered schema ({', '.join(SCHEMAS)}); "
        "name the schema that it has"
    )


def naming_flows(schema: Schema) -> Schema:
    """Return a schema with the columns that name a flow, whatever tool wrote them, beside its own.

    A schema that was inferred knows none of them, and that of CICFlowMeter not those of a meter's own table. What is a
    feature of the schema stays one.

    Examples
    --------
    >>> naming_flows(get_schema("cicflow")).canonical_names(["start", "Flow Duration"])
    {'start': 'timestamp', 'Flow Duration': 'duration_us'}
    """
    of_features = {key for column in schema.columns if schema.is_feature(column) for key in column.keys}
    names = {column.name: column for column in schema.columns}
    for column in (*(c for c in get_schema("conn").columns if c.kind in ("identity", "port")), _END, *_MESSAGE_BYTES):
        known = names.get(column.name)
        aliases = (*(known.aliases if known else ()), *column.aliases)
        if known is None or not schema.is_feature(known):
            # One header stands for one column: what a feature is known by must not name the flow as well.
            free = tuple(alias for alias in aliases if column_key(alias) not in of_features)
            names[column.name] = replace(known or column, aliases=free)
    taken: set[str] = set()
    columns = []
    for column in names.values():  # what is first there keeps a spelling that two of them have
        free = tuple(alias for alias in column.aliases if column_key(alias) not in taken | {column_key(column.name)})
        columns.append(replace(column, aliases=free))
        taken |= set(columns[-1].keys)
    return replace(schema, columns=tuple(columns))


_END = Column("end", "identity", "", ("flow.end",), "when the flow ended")
# Behaviours count these of ICMP, of which CICFlowMeter's features have no payload; a meter's own table has them.
_MESSAGE_BYTES = tuple(
    Column(f"{way}_message_bytes", "identity", "", (), "payload of IP packets") for way in ("fwd", "bwd")
)


def with_identity(flows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return conformed flows with :data:`~deepidea.flows.identity.IDENTITY` in front, null where they are absent.

    Examples
    --------
    >>> table = pl.DataFrame({"timestamp": ["1700000000.5"], "duration_s": [0.5], "protocol": ["tcp"]})
    >>> with_identity(table, get_schema("conn")).select("end", "protocol", "src_ip").row(0)
    (datetime.datetime(2023, 11, 14, 22, 13, 21, tzinfo=...), 'tcp', None)
    """
    start = _start(flows["timestamp"]) if "timestamp" in flows.columns else pl.lit(None, IDENTITY["start"])
    flows = flows.with_columns(start=start)
    end = _start(flows["end"]) if "end" in flows.columns else pl.col("start") + _length(flows)
    flows = flows.with_columns(end=end, community_id=_community_id(flows))
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in IDENTITY.items() if name not in flows.columns]
    metered = {column.name for column in _MESSAGE_BYTES} & set(flows.columns).difference(schema.features)
    return flows.with_columns(absent).select(
        *(pl.col(name).cast(dtype, strict=False) for name, dtype in IDENTITY.items()),
        *(name for name in schema.features if name in flows.columns and name not in IDENTITY),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in sorted(metered)),
    )


def _start(values: pl.Series) -> pl.Series:
    """Return times, given as such, in seconds since 1970, or in one of the spellings that tools use."""
    if values.dtype.is_temporal():
        times = values.cast(pl.Datetime("us"))  # without its zone, which polars then keeps as UTC
        return (
            values.dt.convert_time_zone("UTC")
            if getattr(values.dtype, "time_zone", None)
            else times.dt.replace_time_zone("UTC")
        )
    seconds = values.cast(pl.Float64, strict=False)
    times = (seconds * 1e6).round().cast(pl.Int64, strict=False).cast(IDENTITY["start"])
    # One spelling after the other, and only for cells that none before could read: a file may mix them.
    for spelling in _TIMES if values.dtype == pl.String else ():
        if times.null_count() == values.null_count():
            break
        spelt = values.str.to_datetime(spelling, time_unit="us", time_zone="UTC", strict=False)
        times = times.fill_null(spelt)
    return times


def _length(flows: pl.DataFrame) -> pl.Expr:
    """Return how long flows went on; no time where it is unknown."""
    units = {"duration_us": 1.0, "duration_s": 1e6}
    length = next((pl.col(name) * unit for name, unit in units.items() if name in flows.columns), pl.lit(0.0))
    return pl.duration(microseconds=length.fill_nan(0).fill_null(0).clip(0, _LONGEST_US).round().cast(pl.Int64))


def _community_id(flows: pl.DataFrame) -> pl.Expr:
    """Return the Community ID where the tool's own name of a flow is one."""
    if "uid" not in flows.columns or flows.schema["uid"] != pl.String:
        return pl.lit(None, pl.String)
    return pl.when(pl.col("uid").str.starts_with("1:")).then("uid")


def _no_flows(schema: Schema) -> pl.DataFrame:
    types = {name: pl.Float64() if name in schema.numbers else pl.String() for name in schema.features}
    return pl.DataFrame(schema={**types, **IDENTITY})
