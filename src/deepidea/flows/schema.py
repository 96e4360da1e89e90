"""Schemas: the columns of a flow table, their kinds, and the names that tools give them.

A schema converts any tool's table to canonical names and types, and refuses what cannot be converted. Registered are
`kdd99` (also NSL-KDD), `cicflow` (CICFlowMeter in every spelling) and `conn` (Zeek, Suricata, NetFlow), the last two
also with the recent activity of the flow's hosts: `cicflow+context`, `conn+context`. A table of any other origin gets
one from `deepidea.flows.custom.infer_schema`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import polars as pl

from deepidea.errors import CellError, SchemaError
from deepidea.flows.cicflow import CICFLOW_COLUMNS
from deepidea.flows.column import Column, Kind, column_key, names_protocol
from deepidea.flows.conn import CONN_COLUMNS
from deepidea.flows.context import CONTEXT_COLUMNS
from deepidea.flows.kdd import KDD99_COLUMNS

__all__ = ["SCHEMAS", "Column", "Kind", "Schema", "get_schema", "register", "suggest"]

PORT_RANGE = (0, 65535)
_DOUBLED = re.compile(r"_duplicated_\d+$")  # how polars renames the second column of one name


def suggest(name: str, known: Collection[str]) -> str:
    """Return ``"; nearest: a, b"`` for a name that is not known, empty where nothing is near.

    Examples
    --------
    >>> suggest("benin", ["benign", "dos"])
    '; nearest: benign'
    """
    # Compared by key, so that case and separators are no difference; shown as they are spelt.
    by_key = {column_key(other): other for other in known}
    near = difflib.get_close_matches(column_key(name), by_key, n=3)
    return f"; nearest: {', '.join(by_key[key] for key in near)}" if near else ""


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a flow table.

    Parameters
    ----------
    name
        Name in `SCHEMAS`, or ``custom``.
    columns
        Columns in order.
    use_port
        Whether columns of kind ``port`` are features. Off, they are kept beside the features and never used.

    Examples
    --------
    >>> schema = get_schema("cicflow")
    >>> schema.canonical_names([" Flow Duration", "Tot Fwd Pkts", "Label"])
    {' Flow Duration': 'duration_us', 'Tot Fwd Pkts': 'fwd_packets'}
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1, max_length=10_000)]
    use_port: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that a model may see, in order."""
        return tuple(column.name for column in self.columns if self.is_feature(column))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the features that are numbers (flags and used ports too), in order."""
        return tuple(c.name for c in self.columns if self.is_feature(c) and c.kind != "category")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the features that are words, in order."""
        return tuple(column.name for column in self.columns if column.kind == "category")

    def is_feature(self, column: Column) -> bool:
        """Whether a model may see the column."""
        return column.kind == "category" or column.is_number or (column.kind == "port" and self.use_port)

    def __getitem__(self, name: str) -> Column:
        """Return the column of a canonical name."""
        return next(column for column in self.columns if column.name == name)

    def with_port(self, use_port: bool = True) -> Schema:
        """Return the schema with ports used as features, or not."""
        return replace(self, use_port=use_port)

    def restrict(self, columns: Collection[str]) -> Schema:
        """Return the schema of one table: without optional columns that it lacks, with those that it has required.

        Parameters
        ----------
        columns
            Canonical names that the table has.

        Examples
        --------
        >>> "protocol" in get_schema("cicflow").restrict(["fwd_packets"]).features
        False
        """
        kept = (column for column in self.columns if not column.optional or column.name in columns)
        return replace(self, columns=tuple(replace(column, optional=False) for column in kept))

    def canonical_names(self, raw: Sequence[str]) -> dict[str, str]:
        """Return canonical names of raw headers; headers that the schema does not know are left out.

        Spaces around, case and separators do not matter; aliases count.
        """
        by_key = _names_by_key(self.columns)
        found = {header: by_key.get(column_key(header)) for header in raw}
        return {header: name for header, name in found.items() if name is not None}

    def conform(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table with canonical names and types.

        Numbers become integers or ``Float64`` (NaN, infinity and null stay), booleans 0 and 1, categories ``String``.
        Ports and identities are kept where present, columns that the schema does not know dropped. Rows keep their
        order. Optional features that are absent stay absent: see `restrict`.

        Raises
        ------
        SchemaError
            A feature is missing, there twice, or of a type that cannot hold it.
        CellError
            A cell holds text where a number belongs, or a port outside 0..65535; row and column are named.
        """
        table = self._rename(table)
        self._refuse_bad_cells(table)
        types = table.schema  # polars builds it on each access
        return table.with_columns(self._typed(types[column.name], column) for column in self._present(table))

    def bad_cells(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the cells that `conform` would refuse, one a row, in order of rows.

        Parameters
        ----------
        table
            Raw or conformed table with every feature column.

        Returns
        -------
        polars.DataFrame
            ``row`` (UInt32, counted from 0), ``column`` (canonical name), ``value`` (String).
        """
        table = self._rename(table)
        types = table.schema
        checked = [column for column in self._present(table) if not _holds_any(column, types[column.name])]
        parts = [_bad_of(table[column.name], column) for column in checked]
        return pl.concat([_NO_BAD_CELLS, *parts]).sort("row", maintain_order=True)

    def contract(self) -> dict[str, Any]:
        """Return the schema as plain data for JSON; `from_contract` is the inverse."""
        return {
            "name": self.name,
            "use_port": self.use_port,
            "columns": [msgspec.to_builtins(column) | {"aliases": list(column.aliases)} for column in self.columns],
        }

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any]) -> Schema:
        """Return the schema that `contract` wrote; the input may come from anyone and is checked.

        Raises
        ------
        SchemaError
            The input is not what `contract` writes.

        Examples
        --------
        >>> schema = get_schema("conn")
        >>> Schema.from_contract(schema.contract()) == schema
        True
        """
        try:
            schema = msgspec.convert(contract, cls)
        except msgspec.ValidationError as error:
            raise SchemaError(f"the schema contract is damaged: {error}; get a fresh copy of the file") from error
        # A field that nobody knows would be dropped silently: the file is of another release, or was edited.
        if schema.contract() != contract:
            raise SchemaError(
                "the schema contract has other fields than those of a schema; get a fresh copy of the file"
            )
        _check_whole(schema)
        return schema

    def _rename(self, table: pl.DataFrame) -> pl.DataFrame:
        names = self.canonical_names(table.columns)
        self._refuse_doubled(table.columns, names)
        self._refuse_missing(table.columns, set(names.values()))
        first = {name: raw for raw, name in reversed(names.items())}  # of an identity that is there twice
        return table.select(pl.col(first[c.name]).alias(c.name) for c in self.columns if c.name in first)

    def _refuse_doubled(self, raw: Sequence[str], names: Mapping[str, str]) -> None:
        # a renamed second column counts as its first name; identities may come twice under different spellings
        again = self.canonical_names([_DOUBLED.sub("", header) for header in raw if _DOUBLED.search(header)])
        counts = Counter([*names.values(), *(n for n in again.values() if n not in _KNOWN_DOUBLED)])
        spelt_alike = {key for key, n in Counter(column_key(header) for header in names).items() if n > 1}
        doubled = [
            name
            for name, count in counts.items()
            if count > 1 and (self.is_feature(self[name]) or spelt_alike & set(self[name].keys))
        ]
        if doubled:
            sources = [header for header, name in names.items() if name in doubled]
            raise SchemaError(
                f"{', '.join(doubled)} of schema {self.name} is in the table twice (columns "
                f"{', '.join(map(repr, sources))}); drop one of them"
            )

    def _refuse_missing(self, raw: Sequence[str], present: Collection[str]) -> None:
        needed = (c for c in self.columns if self.is_feature(c) and not c.optional)
        missing = [column.name for column in needed if column.name not in present]
        if missing:
            listed = "; ".join(f"{name}{suggest(name, raw).replace(';', ',')}" for name in missing[:8])
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            raise SchemaError(
                f"schema {self.name} has {len(self.features)} features, {len(missing)} missing: {listed}{more}"
            )

    def _present(self, table: pl.DataFrame) -> list[Column]:
        names = set(table.columns)
        return [column for column in self.columns if column.name in names and self.is_feature(column)]

    def _refuse_bad_cells(self, table: pl.DataFrame) -> None:
        bad = self.bad_cells(table)
        if bad.height:
            row, name, value = bad.row(0)
            rule = "in 0..65535" if self[name].kind == "port" else "a number"
            more = f" ({bad.height - 1} more such cells)" if bad.height > 1 else ""
            raise CellError(f"row {row + 1}: {name} {value!r} is not {rule}{more}; fix or drop the row")

    def _typed(self, dtype: pl.DataType, column: Column) -> pl.Expr:
        values = pl.col(column.name)
        if column.kind == "category":
            return _as_words(values, dtype, names_protocol(column.name))
        if dtype.is_numeric() and not dtype.is_decimal():
            return values
        if dtype == pl.String:
            return _number_text(values, column).cast(pl.Float64)
        return values.cast(_NUMERIC.get(dtype, pl.Float64))


@lru_cache(maxsize=64)
def _names_by_key(columns: tuple[Column, ...]) -> Mapping[str, str]:
    return MappingProxyType({key: column.name for column in columns for key in column.keys})


_KNOWN_DOUBLED = ("fwd_header_bytes",)  # the files of CICIDS2017 hold it twice; the second is dropped
_NUMERIC: dict[Any, Any] = {pl.Boolean: pl.UInt8}
_TRUTHS = {"true": "1", "false": "0"}
_WHOLE = r"^(\d+)\.0+$"
_NO_BAD_CELLS = pl.DataFrame(schema={"row": pl.UInt32, "column": pl.String, "value": pl.String})


def _stripped(values: pl.Expr) -> pl.Expr:
    """Strip cells and turn empty ones into null."""
    stripped = values.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def _number_text(values: pl.Expr, column: Column) -> pl.Expr:
    """Return text cells as numbers are written; a flag may be ``true`` or ``false``."""
    stripped = _stripped(values)
    return stripped.str.to_lowercase().replace(_TRUTHS) if column.kind == "flag" else stripped


def _as_words(values: pl.Expr, dtype: pl.DataType, is_protocol: bool) -> pl.Expr:
    """Return categories as text; 6, 6.0 and "6" are the same word, and of protocols "6.0" too."""
    # A category that was read as a float: 6.0 is the word 6. What is no whole number stays as it is written.
    if dtype.is_float():
        whole = values.cast(pl.Int64, strict=False)
        return pl.when(whole == values).then(whole.cast(pl.String)).otherwise(values.cast(pl.String))
    words = values.cast(pl.String).str.strip_chars()
    return words.str.replace(_WHOLE, "$1") if is_protocol else words


def _holds_any(column: Column, dtype: pl.DataType) -> bool:
    """Whether a column can hold every value of a type, so that no cell has to be checked."""
    return column.kind == "category" or (column.kind != "port" and (dtype.is_numeric() or dtype == pl.Boolean))


def _bad_of(values: pl.Series, column: Column) -> pl.DataFrame:
    """Return the cells that a column cannot hold."""
    if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.String, pl.Null)):
        raise SchemaError(f"column {column.name} is of type {values.dtype}; it must be of numbers")
    bad = (
        _not_numbers(values, column) if values.dtype == pl.String else pl.Series([False]).new_from_index(0, len(values))
    )
    if column.kind == "port" and values.dtype != pl.Boolean:
        bad = bad | _not_ports(values)
    rows = bad.fill_null(False).arg_true()
    return _NO_BAD_CELLS.clear() if rows.is_empty() else _bad_frame(values, rows, column.name)


def _not_numbers(values: pl.Series, column: Column) -> pl.Series:
    text = values.to_frame("v").select(_number_text(pl.col("v"), column)).to_series()
    return text.is_not_null() & text.cast(pl.Float64, strict=False).is_null()


def _not_ports(values: pl.Series) -> pl.Series:
    numbers = values.cast(pl.Float64, strict=False)
    return numbers.is_not_null() & ~numbers.is_between(*PORT_RANGE)


def _bad_frame(values: pl.Series, rows: pl.Series, name: str) -> pl.DataFrame:
    return pl.DataFrame({"row": rows, "column": [name] * len(rows), "value": values.gather(rows).cast(pl.String)})


def _check_whole(schema: Schema) -> None:
    keys = Counter(key for column in schema.columns for key in column.keys)
    key, most = keys.most_common(1)[0]
    if most > 1:
        raise SchemaError(f"two columns of schema {schema.name} have the name or alias {key}; rename one")
    if not schema.features:
        raise SchemaError(f"schema {schema.name} has no feature; add one")


_schemas: dict[str, Schema] = {}
SCHEMAS: Mapping[str, Schema] = MappingProxyType(_schemas)
"""Every registered schema by name."""


def register(schema: Schema) -> Schema:
    """Add a schema to `SCHEMAS` under its name and return it; names must be new.

    Raises
    ------
    SchemaError
        The name is taken, or two columns share a name or an alias.
    """
    if schema.name in _schemas:
        raise SchemaError(f"schema {schema.name} is already registered; choose another name")
    _check_whole(schema)
    _schemas[schema.name] = schema
    return schema


def get_schema(name: str, *, use_port: bool = False) -> Schema:
    """Return a registered schema.

    Raises
    ------
    SchemaError
        No schema has the name; the known ones are listed.

    Examples
    --------
    >>> len(get_schema("kdd99").features)
    41
    """
    if name not in _schemas:
        raise SchemaError(f"unknown schema {name!r}{suggest(name, _schemas)}; choose one of: {', '.join(_schemas)}")
    return _schemas[name].with_port(use_port)


register(Schema("kdd99", KDD99_COLUMNS))
register(Schema("cicflow", CICFLOW_COLUMNS))
register(Schema("conn", CONN_COLUMNS))
register(Schema("cicflow+context", (*CICFLOW_COLUMNS, *CONTEXT_COLUMNS)))
register(Schema("conn+context", (*CONN_COLUMNS, *CONTEXT_COLUMNS)))
