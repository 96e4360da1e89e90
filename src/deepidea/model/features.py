"""Flow tables to network inputs: scaled numbers, one-hot categories, all parameters from training rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.schema import Schema
from deepidea.flows.shards import FlowTable
from deepidea.model.contracts import reading_contract, require
from deepidea.model.quantile_steps import MOST_QUANTILES, QuantileSteps, StepKind, fit_edges, weighted_quantiles

NumberScaling = Literal["min-max", "log-z-score"]
NUMBER_SCALINGS: tuple[NumberScaling, ...] = ("min-max", "log-z-score")
NumberEncoding = Literal[
    "scaled", "thermometer", "piecewise-linear", "scaled+thermometer", "scaled+piecewise-linear"
]  # what a network gets of a number: scaled, steps between quantiles, or both
NUMBER_ENCODINGS: tuple[NumberEncoding, ...] = get_args(NumberEncoding)
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
    minus mean, over standard deviation, clipped to -5..5. A thermometer compares the number itself with quantiles of
    training, a piecewise-linear encoding places the scaled number between quantiles, see
    :class:`deepidea.model.quantile_steps.QuantileSteps`. Each category is one-hot over the values of training; an
    unknown value is all zeros.

    Parameters
    ----------
    schema : Schema
        The feature columns in order.
    scaling : {"log-z-score", "min-max"}
    max_values : int
        Most values one category may have; the rarest beyond that count as unknown.
    number_encoding : {"scaled", "thermometer", "piecewise-linear", "scaled+thermometer", "scaled+piecewise-linear"}
    n_quantiles : int
        Edges of a thermometer, or bins of a piecewise-linear encoding; fewer where numbers repeat.

    Attributes
    ----------
    low_, high_, fill_, offset_, scale_ : arrays, float32, (n_numbers,)
        Bounds and median of training, in the units of the table; centre and divisor, after the logarithm if any.
    vocabulary_ : dict of str to list of str
        Values of each category, sorted; a value's code is its place in the list plus one.
    steps_ : QuantileSteps, or None
        None where numbers are scaled alone.

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
    number_encoding: NumberEncoding = "scaled"
    n_quantiles: int = 8
    low_: NDArray[np.float32] = field(init=False, repr=False)
    high_: NDArray[np.float32] = field(init=False, repr=False)
    fill_: NDArray[np.float32] = field(init=False, repr=False)
    offset_: NDArray[np.float32] = field(init=False, repr=False)
    scale_: NDArray[np.float32] = field(init=False, repr=False)
    vocabulary_: dict[str, list[str]] = field(init=False, repr=False)
    steps_: QuantileSteps | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.scaling not in NUMBER_SCALINGS:
            raise ValueError(f"scaling must be one of {NUMBER_SCALINGS}, got {self.scaling!r}")
        if self.number_encoding not in NUMBER_ENCODINGS:
            raise ValueError(f"number_encoding must be one of {NUMBER_ENCODINGS}, got {self.number_encoding!r}")
        if not 1 <= self.n_quantiles <= MOST_QUANTILES:
            raise ValueError(f"n_quantiles must be in 1..{MOST_QUANTILES}, got {self.n_quantiles}")

    @property
    def has_scaled(self) -> bool:
        """Whether the scaled numbers are part of an encoded flow."""
        return self.number_encoding.startswith("scaled")

    @property
    def step_kind(self) -> StepKind | None:
        """Kind of the steps that are part of an encoded flow."""
        kind = self.number_encoding.removeprefix("scaled").removeprefix("+")
        return cast("StepKind", kind) if kind else None

    @property
    def sources(self) -> NDArray[np.int64]:
        """Feature of each column of an encoded flow, int64 ``(d_out,)``: numbers in order, then categories."""
        k = len(self.schema.numbers)
        words = np.repeat(np.arange(len(self.vocabulary_)), [len(values) for values in self.vocabulary_.values()])
        steps = np.zeros(0, np.int64) if self.steps_ is None else self.steps_.source
        return np.concatenate([np.arange(k if self.has_scaled else 0), steps, k + words.astype(np.int64)])

    @property
    def d_numbers(self) -> int:
        """Width of the encoded numbers, which precede the one-hot blocks."""
        steps = 0 if self.steps_ is None else len(self.steps_)
        return steps + len(self.schema.numbers) * self.has_scaled

    @property
    def d_out(self) -> int:
        """Width of an encoded flow."""
        return self.d_numbers + sum(len(values) for values in self.vocabulary_.values())

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
        edges = []
        for j, name in enumerate(self.schema.numbers):
            column = read_number(table[name])
            self._fit_range(j, column, weight)
            self._fit_scale(j, self._bounded(column, j), weight)
            edges.append(self._fit_edges(j, column, weight))
        self.steps_ = None if self.step_kind is None else QuantileSteps(self.step_kind, tuple(edges))
        self.vocabulary_ = {name: _most_common(table[name], weight, self.max_values) for name in self.schema.categories}
        return self

    def _fit_range(self, j: int, column: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
        # a column without a finite number keeps low = high = fill = 0: it is constant
        finite = np.isfinite(column)
        if finite.any():
            known = column[finite]
            self.low_[j], self.high_[j] = known.min(), known.max()
            self.fill_[j] = weighted_quantiles(known, weight[finite], np.array([0.5]))[0][0]

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

    def _fit_edges(self, j: int, column: NDArray[np.float32], weight: NDArray[np.float64]) -> NDArray[np.float32]:
        if self.step_kind is None:
            return np.zeros(0, np.float32)
        bounded = self._bounded(column, j)
        values = bounded if self.step_kind == "thermometer" else self._scale(bounded, j)
        return fit_edges(self.step_kind, values, weight, self.n_quantiles)

    def _bounded(self, numbers: NDArray[np.float32], j: int | slice = slice(None)) -> NDArray[np.float32]:
        filled = np.where(np.isnan(numbers), self.fill_[j], numbers)
        return np.minimum(np.maximum(filled, self.low_[j]), self.high_[j])

    def raw(self, table: pl.DataFrame) -> RawFeatures:
        """Return the inputs of the ONNX graph, not yet scaled."""
        codes = [encode_category(table[name], values) for name, values in self.vocabulary_.items()]
        stacked = np.stack(codes, axis=1) if codes else np.zeros((len(table), 0), np.int32)
        return RawFeatures(read_numbers(table, self.schema), stacked)

    def encode(self, raw: RawFeatures) -> NDArray[np.float32]:
        """Return ``(n_flows, d_out)``: scaled numbers, steps, then the one-hot blocks."""
        bounded = self._bounded(raw.numbers)
        scaled = self._scale(bounded)
        blocks = [scaled] if self.has_scaled else []
        if self.steps_ is not None:
            blocks.append(self.steps_.encode(bounded if self.steps_.kind == "thermometer" else scaled))
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
        """Return the scaled numbers, float32 ``(n_flows, n_numbers)``, whatever the encoding of numbers."""
        return self._scale(self._bounded(raw.numbers))

    def _scale(self, bounded: NDArray[np.float32], j: int | slice = slice(None)) -> NDArray[np.float32]:
        values = signed_log(bounded) if self.scaling == "log-z-score" else bounded
        scaled: NDArray[np.float32] = (values - self.offset_[j]) / self.scale_[j]
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
        steps: dict[str, Any] = {}
        if self.steps_ is not None:  # absent where numbers are scaled alone, as in the first format of detector files
            edges = [of.tolist() for of in self.steps_.edges]
            steps = {"number_encoding": self.number_encoding, "n_quantiles": self.n_quantiles, "edges": edges}
        known = {"scaling": self.scaling, "max_values": self.max_values, "vocabulary": self.vocabulary_}
        return {**known, **learnt, **steps}

    @classmethod
    def from_contract(cls, schema: Schema, contract: dict[str, Any]) -> FlowEncoder:
        """Rebuild an encoder from :meth:`contract`; :class:`ArtifactError` where the contract does not fit."""
        with reading_contract("encoder"):
            encoding = contract.get("number_encoding", "scaled")
            options = {"number_encoding": encoding, "n_quantiles": int(contract.get("n_quantiles", 8))}
            encoder = cls(schema, scaling=contract["scaling"], max_values=int(contract["max_values"]), **options)
            if encoder.step_kind is not None:
                encoder.steps_ = QuantileSteps.from_lists(encoder.step_kind, contract["edges"])
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
        n_edges = None if self.steps_ is None else len(self.steps_.edges)
        fits = n_edges in (None, len(self.schema.numbers))
        require(fits, "encoder", f"edges must be given for {len(self.schema.numbers)} numbers", n_edges)


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


def _most_common(column: pl.Series, weight: NDArray[np.float64], most: int) -> list[str]:
    counts = pl.DataFrame({"value": column.cast(pl.String), "weight": weight}).drop_nulls("value")
    ranked = counts.group_by("value").agg(pl.col("weight").sum()).sort(["weight", "value"], descending=[True, False])
    return sorted(ranked["value"].head(most).to_list())
