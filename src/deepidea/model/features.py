"""Flow tables to network inputs: scaled numbers, one-hot categories, all parameters from training rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.schema import Schema
from deepidea.flows.shards import FlowTable
from deepidea.model.contracts import reading_contract

NumberScaling = Literal["min-max", "log-z-score"]
NUMBER_SCALINGS: tuple[NumberScaling, ...] = ("min-max", "log-z-score")
BLOCK_ROWS = 16_384  # encoded at a time: intermediate arrays take several times the memory of the result
MOST_DEVIATIONS = np.float32(5)  # "log-z-score" clips to this many, or columns that rarely vary would dwarf the rest
UNKNOWN = 0  # code of a category value absent from training; known values count from 1


@dataclass(frozen=True, slots=True)
class RawFeatures:
    """A flow table as arrays, not yet scaled.

    ``numbers`` is float32 ``(n_flows, n_numbers)`` and may hold NaN and infinities; ``codes`` is int32
    ``(n_flows, n_categories)``, 0 for values absent from training.
    """

    numbers: NDArray[np.float32]
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(slots=True)
class FlowEncoder:
    """Encodes the features of one schema for a network.

    Numbers are clipped to the range of training (so an infinite rate counts as the largest finite one), missing ones
    become the training median, then they are scaled: ``"min-max"`` to 0..1, or ``"log-z-score"``: sign(x) log(1+|x|),
    minus mean, over standard deviation, clipped to -5..5. Each category is one-hot over the values of training; an
    unknown value is all zeros.

    Parameters
    ----------
    schema : Schema
        The feature columns in order.
    scaling : {"log-z-score", "min-max"}
    max_values : int
        Most values one category may have; the rarest beyond that count as unknown.

    Attributes
    ----------
    low_, high_, fill_, offset_, scale_ : arrays, float32, (n_numbers,)
        Bounds and median of training, in the units of the table; centre and divisor, after the logarithm if any.
    vocabulary_ : dict of str to list of str
        Values of each category, sorted; a value's code is its place in the list plus one.

    Examples
    --------
    >>> import polars as pl
    >>> from deepidea.flows.schema import Column, Schema
    >>> schema = Schema("custom", (Column("bytes", "number"), Column("service", "category")))
    >>> flows = pl.DataFrame({"bytes": [0.0, 10.0], "service": ["dns", "http"]})
    >>> FlowEncoder(schema, scaling="min-max").fit(flows).transform(flows)
    array([[0., 1., 0.],
           [1., 0., 1.]], dtype=float32)
    """

    schema: Schema
    scaling: NumberScaling = "log-z-score"
    max_values: int = 256
    low_: NDArray[np.float32] = field(init=False, repr=False)
    high_: NDArray[np.float32] = field(init=False, repr=False)
    fill_: NDArray[np.float32] = field(init=False, repr=False)
    offset_: NDArray[np.float32] = field(init=False, repr=False)
    scale_: NDArray[np.float32] = field(init=False, repr=False)
    vocabulary_: dict[str, list[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.scaling not in NUMBER_SCALINGS:
            raise ValueError(f"scaling must be one of {NUMBER_SCALINGS}, got {self.scaling!r}")

    @property
    def d_out(self) -> int:
        """Width of an encoded flow."""
        return len(self.schema.numbers) + sum(len(values) for values in self.vocabulary_.values())

    def fit(self, table: FlowTable, weight: NDArray[np.float64] | None = None) -> FlowEncoder:
        """Learn ranges, centres and vocabularies from training flows; one column at a time is in memory.

        Parameters
        ----------
        table : DataFrame or ShardedTable
            Holds at least the schema's features.
        weight : array, float64, (n_flows,), optional
            How many flows each row stands for; used for centre, spread and median.
        """
        if table.is_empty():
            raise DataError("cannot fit an encoder: the table has no rows")
        weight = np.ones(len(table)) if weight is None else weight
        k = len(self.schema.numbers)
        self.low_, self.high_, self.fill_, self.offset_, self.scale_ = (np.zeros(k, np.float32) for _ in range(5))
        for j, name in enumerate(self.schema.numbers):
            column = read_number(table[name])
            self._fit_range(j, column, weight)
            self._fit_scale(j, self._bounded(column, j), weight)
        self.vocabulary_ = {name: _most_common(table[name], weight, self.max_values) for name in self.schema.categories}
        return self

    def _fit_range(self, j: int, column: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
        # a column without a finite number keeps low = high = fill = 0: it is constant
        finite = np.isfinite(column)
        if finite.any():
            known = column[finite]
            self.low_[j], self.high_[j] = known.min(), known.max()
            self.fill_[j] = _weighted_median(known, weight[finite])

    def _fit_scale(self, j: int, bounded: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
        if self.scaling == "min-max":
            self.offset_[j], self.scale_[j] = self.low_[j], _nonzero(self.high_[j] - self.low_[j])
            return
        logs = signed_log(bounded).astype(np.float64)
        mean = np.average(logs, weights=weight)
        deviation = np.sqrt(np.average((logs - mean) ** 2, weights=weight))
        self.offset_[j], self.scale_[j] = mean, _nonzero(np.float32(deviation))
        # the clip at MOST_DEVIATIONS, expressed as bounds on the raw number
        reach = MOST_DEVIATIONS * self.scale_[j : j + 1]
        self.low_[j] = max(self.low_[j], _signed_exp(self.offset_[j : j + 1] - reach)[0])
        self.high_[j] = min(self.high_[j], _signed_exp(self.offset_[j : j + 1] + reach)[0])

    def _bounded(self, numbers: NDArray[np.float32], j: int | slice = slice(None)) -> NDArray[np.float32]:
        filled = np.where(np.isnan(numbers), self.fill_[j], numbers)
        return np.minimum(np.maximum(filled, self.low_[j]), self.high_[j])

    def raw(self, table: pl.DataFrame) -> RawFeatures:
        """Return the inputs of the ONNX graph, not yet scaled."""
        codes = [encode_category(table[name], values) for name, values in self.vocabulary_.items()]
        stacked = np.stack(codes, axis=1) if codes else np.zeros((len(table), 0), np.int32)
        return RawFeatures(read_numbers(table, self.schema), stacked)

    def encode(self, raw: RawFeatures) -> NDArray[np.float32]:
        """Return ``(n_flows, d_out)``: scaled numbers, then the one-hot blocks."""
        blocks = [self.scaled(raw)]
        for j, known in enumerate(self.vocabulary_.values()):
            blocks.append(np.eye(len(known) + 1, dtype=np.float32)[raw.codes[:, j], 1:])
        return np.concatenate(blocks, axis=1, dtype=np.float32)

    def transform(self, table: pl.DataFrame) -> NDArray[np.float32]:
        """Return the encoded flows, float32 ``(n_flows, d_out)``."""
        encoded = np.empty((len(table), self.d_out), np.float32)
        for start in range(0, len(table), BLOCK_ROWS):
            encoded[start : start + BLOCK_ROWS] = self.encode(self.raw(table[start : start + BLOCK_ROWS]))
        return encoded

    def scaled(self, raw: RawFeatures) -> NDArray[np.float32]:
        """Return the scaled numbers, ``(n_flows, n_numbers)``, the part of :meth:`encode` before the one-hot blocks."""
        bounded = self._bounded(raw.numbers)
        values = signed_log(bounded) if self.scaling == "log-z-score" else bounded
        scaled: NDArray[np.float32] = (values - self.offset_) / self.scale_
        return scaled

    def decode(self, scaled: NDArray[np.float32], codes: NDArray[np.int32]) -> pl.DataFrame:
        """Return the flows of scaled numbers and category codes, clipped to the range of training.

        Parameters
        ----------
        scaled : array, float32, (n_flows, n_numbers)
        codes : array, int32, (n_flows, n_categories)
            As in :class:`RawFeatures`; 0 is a missing value.
        """
        values = scaled * self.scale_ + self.offset_
        values = _signed_exp(values) if self.scaling == "log-z-score" else values
        numbers = dict(zip(self.schema.numbers, np.clip(values, self.low_, self.high_).T, strict=True))
        words = {
            name: pl.Series([None, *known], dtype=pl.String).gather(codes[:, j])
            for j, (name, known) in enumerate(self.vocabulary_.items())
        }
        return pl.DataFrame({name: {**numbers, **words}[name] for name in self.schema.features})

    def contract(self) -> dict[str, Any]:
        """Return the encoder as plain JSON values."""
        learnt = {name: getattr(self, name).tolist() for name in _LEARNT}
        return {"scaling": self.scaling, "max_values": self.max_values, "vocabulary": self.vocabulary_, **learnt}

    @classmethod
    def from_contract(cls, schema: Schema, contract: dict[str, Any]) -> FlowEncoder:
        """Rebuild an encoder from :meth:`contract`; :class:`ArtifactError` where the contract does not fit."""
        with reading_contract("encoder"):
            encoder = cls(schema, scaling=contract["scaling"], max_values=int(contract["max_values"]))
            for name in _LEARNT:
                setattr(encoder, name, np.asarray(contract[name], dtype=np.float32))
            encoder.vocabulary_ = {str(k): [str(v) for v in values] for k, values in contract["vocabulary"].items()}
        encoder._check_against_schema()
        return encoder

    def _check_against_schema(self) -> None:
        shapes = {getattr(self, name).shape for name in _LEARNT}
        if shapes != {(len(self.schema.numbers),)} or tuple(self.vocabulary_) != self.schema.categories:
            raise ArtifactError(
                f"the encoder does not match its schema: it has shapes {sorted(shapes)} and categories "
                f"{list(self.vocabulary_)}, the schema {len(self.schema.numbers)} numbers and categories "
                f"{list(self.schema.categories)}"
            )


_LEARNT = ("low_", "high_", "fill_", "offset_", "scale_")


def read_numbers(table: pl.DataFrame, schema: Schema) -> NDArray[np.float32]:
    """Return the numeric features as float32 ``(n_flows, n_numbers)``; missing cells are NaN."""
    if not schema.numbers:
        return np.zeros((len(table), 0), np.float32)
    columns = table.select(pl.col(name).cast(pl.Float32) for name in schema.numbers)
    return np.ascontiguousarray(columns.to_numpy(order="c"))


def read_number(column: pl.Series) -> NDArray[np.float32]:
    """Return a numeric column as float32 ``(n_flows,)``; missing cells are NaN."""
    return column.cast(pl.Float32).to_numpy()


def encode_category(column: pl.Series, values: list[str]) -> NDArray[np.int32]:
    """Return each value's index in ``values`` plus one, 0 for other values; int32 ``(n_flows,)``."""
    if not values:
        return np.zeros(len(column), np.int32)
    codes = pl.Series(range(1, len(values) + 1), dtype=pl.Int32)
    return column.cast(pl.String).replace_strict(pl.Series(values), codes, default=UNKNOWN).to_numpy()


def signed_log(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sign(x) log(1 + |x|)."""
    logs: NDArray[np.float32] = np.copysign(np.log(1 + np.abs(values)), values)
    return logs


def _signed_exp(logs: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.copysign(np.expm1(np.minimum(np.abs(logs), np.float32(88))), logs)
    return values


def _nonzero(scale: np.float32) -> np.float32:
    return scale if scale > 1e-6 else np.float32(1)


def _weighted_median(values: NDArray[np.float32], weight: NDArray[np.float64]) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _most_common(column: pl.Series, weight: NDArray[np.float64], most: int) -> list[str]:
    counts = pl.DataFrame({"value": column.cast(pl.String), "weight": weight}).drop_nulls("value")
    ranked = counts.group_by("value").agg(pl.col("weight").sum()).sort(["weight", "value"], descending=[True, False])
    return sorted(ranked["value"].head(most).to_list())
