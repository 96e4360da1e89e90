"""References that every table shows beside a detector: the majority class, and one comparison on one feature.

If the rule nearly wins, the test set is easy and a good score on it says little. Both are kept in detector files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import DataError, LabelError
from deepidea.evaluation.contracts import from_json_values
from deepidea.evaluation.metrics import Bools, Ints, Scores, evaluate
from deepidea.flows.labelled import LabelledFlows
from deepidea.flows.taxonomy import BENIGN


def codes_of(values: pl.Series, classes: tuple[str, ...]) -> Ints:
    """Return each value's place among the classes, int64 ``(n_flows,)``."""
    positions = pl.Series(range(len(classes)), dtype=pl.Int64)
    return values.cast(pl.String).replace_strict(list(classes), positions, return_dtype=pl.Int64).to_numpy()


def majority_class(train: npt.ArrayLike) -> int:
    """Return the most frequent class position of the training rows; the lower one of two equals.

    Examples
    --------
    >>> majority_class([0, 2, 2, 1, 2])
    2
    """
    return int(np.bincount(np.asarray(train)).argmax())


@dataclass(frozen=True, slots=True)
class OneRule:
    """One comparison on one column that calls a flow an attack.

    Numbers compare as float32; a missing number counts as the lowest, a missing category as empty text.

    Attributes
    ----------
    column : str
    operator : {">", "<=", "==", "!="}
    value : float or str
    training_balanced_accuracy : float
        Mean of the shares of attack and benign training rows that the rule gets right.
    """

    column: str
    operator: Literal[">", "<=", "==", "!="]
    value: float | str
    training_balanced_accuracy: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a comparison of order on text, or of equality on a number."""
        if isinstance(self.value, str) != (self.operator in ("==", "!=")):
            raise ValueError(f"{self.column} {self.operator} {self.value!r} compares unlike things")

    def __str__(self) -> str:
        if self.value == "":
            return f"{self.column} is {'' if self.operator == '==' else 'not '}missing"
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{self.column} {self.operator} {value}"

    def predict(self, table: pl.DataFrame) -> Bools:
        """Return which flows the rule calls an attack, shape (n_flows,)."""
        column = table[self.column]
        if isinstance(self.value, str):
            return np.asarray((_texts(column) == self.value).to_numpy() == (self.operator == "=="))
        return np.asarray((_ordered_numbers(column) > np.float32(self.value)) == (self.operator == ">"))


def one_rule(train_table: pl.DataFrame, train_is_attack: npt.ArrayLike) -> OneRule:
    """Find the one comparison on one column that best tells attack from benign on the training rows.

    Best is the highest mean of the shares of attack and benign rows that it gets right; the first column wins a tie.
    Columns of text are compared by equality, all others by a threshold. One sort per column.

    Parameters
    ----------
    train_table : polars.DataFrame, shape (n_flows, n_columns)
        Feature columns only.
    train_is_attack : array-like of bool, shape (n_flows,)

    Raises
    ------
    LabelError
        The rows are all attack or all benign.
    DataError
        There is no column, or not one flag per flow.

    Examples
    --------
    >>> flows = pl.DataFrame({"src_bytes": [10, 900, 1000, 20], "service": ["http", "http", "ftp", "http"]})
    >>> rule = one_rule(flows, [True, False, False, True])
    >>> str(rule), rule.predict(flows).tolist()
    ('src_bytes <= 20', [True, False, False, True])
    """
    is_attack = np.asarray(train_is_attack, dtype=bool)
    if len(is_attack) != train_table.height or train_table.width == 0:
        raise DataError(
            f"cannot find a rule: {train_table.height} flows of {train_table.width} columns, {len(is_attack)} flags"
        )
    if is_attack.all() or not is_attack.any():
        raise LabelError("cannot find a rule: the training rows are all attack or all benign")
    rules = (_best_rule(train_table[name], is_attack) for name in train_table.columns)
    return max(rules, key=lambda rule: rule.training_balanced_accuracy)


def _best_rule(column: pl.Series, is_attack: Bools) -> OneRule:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return _best_threshold(column.name, _ordered_numbers(column), is_attack)
    return _best_category(column.name, _texts(column), is_attack)


def _texts(column: pl.Series) -> pl.Series:
    return column.cast(pl.String).fill_null("")


def _ordered_numbers(column: pl.Series) -> npt.NDArray[np.float32]:
    # float32, as detectors read numbers, and missing ones below all others, so that a rule may ask for them.
    numbers = column.cast(pl.Float32).fill_null(-math.inf).fill_nan(-math.inf).to_numpy()
    lowest, highest = np.finfo(np.float32).min, np.finfo(np.float32).max
    return np.asarray(
        np.clip(numbers, lowest, highest) + np.float32(0)
    )  # finite, so that a rule is valid JSON; no -0.0


def _best_threshold(name: str, numbers: npt.NDArray[np.float32], is_attack: Bools) -> OneRule:
    # Value and label in one integer, the label in the lowest bit: a single sort gives the attacks up to each value.
    keys = np.sort(_sortable_bits(numbers).astype(np.uint64) << np.uint64(1) | is_attack)
    values = keys >> np.uint64(1)
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # the last row of each distinct value
    attacks = np.cumsum(keys & np.uint64(1), dtype=np.int64)[last]
    benign = last + 1 - attacks
    # specificity plus sensitivity over two; below one half the opposite comparison is the better rule
    above = (1 + benign / benign[-1] - attacks / attacks[-1]) / 2  # balanced accuracy of "> value"
    # Farthest from one half: a comparison that is always wrong is, turned around, always right.
    best = int(np.abs(above - 0.5).argmax())
    value = float(np.sort(numbers)[last[best]])
    return OneRule(name, ">" if above[best] >= 0.5 else "<=", value, float(max(above[best], 1 - above[best])))


def _sortable_bits(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Map floats without NaN to integers of the same order, so that a label fits beside each in one sort key."""
    # IEEE 754: positive floats order as their bits do, negative ones the other way round
    bits = numbers.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _best_category(name: str, texts: pl.Series, is_attack: Bools) -> OneRule:
    frame = pl.DataFrame({"value": texts, "attack": is_attack}).group_by("value").agg(
        attacks=pl.col("attack").sum(), rows=pl.len()
    ).sort("value")  # fmt: skip
    attacks, benign = frame["attacks"].to_numpy(), (frame["rows"] - frame["attacks"]).to_numpy().astype(np.int64)
    equal = (1 + attacks / attacks.sum() - benign / benign.sum()) / 2  # balanced accuracy of "== value"
    best = int(np.abs(equal - 0.5).argmax())
    accuracy = float(max(equal[best], 1 - equal[best]))
    return OneRule(name, "==" if equal[best] >= 0.5 else "!=", frame["value"][best], accuracy)


@dataclass(frozen=True, slots=True)
class Baselines:
    """Two references fitted on training rows: the majority class, and one comparison on one feature.

    If the rule nearly wins, the test set is easy and a good score on it says little.

    Attributes
    ----------
    majority : str
        The most frequent training class.
    rule : OneRule
    rule_class : str
        What the rule calls the flows it alarms on: the most frequent attack class of the training rows.
    """

    majority: str
    rule: OneRule
    rule_class: str

    @classmethod
    def fit(cls, train: LabelledFlows) -> Baselines:
        """Fit both on training rows; LabelError where they are all attack or all benign."""
        codes, is_attack = codes_of(train.classes, train.class_order), (train.classes != BENIGN).to_numpy()
        rule, attack = one_rule(train.features, is_attack), majority_class(codes[is_attack])
        return cls(train.class_order[majority_class(codes)], rule, train.class_order[attack])

    def scores(self, features: pl.DataFrame, truth: Ints, classes: tuple[str, ...]) -> dict[str, Scores]:
        """Score both on labelled flows; names are "majority: <class>" and "one rule: <rule>"."""
        majority = np.full(truth.size, classes.index(self.majority))
        alarms = self.rule.predict(features)
        # a rule has no class of its own: what it alarms on gets the most frequent attack class of training
        ruled = np.where(alarms, classes.index(self.rule_class), classes.index(BENIGN))
        return {
            f"majority: {self.majority}": evaluate(truth, majority, None, np.zeros(truth.size), classes),
            f"one rule: {self.rule}": evaluate(truth, ruled, None, alarms.astype(np.float64), classes),
        }

    @classmethod
    def from_contract(cls, contract: Mapping[str, Any], classes: Sequence[str], features: Collection[str]) -> Baselines:
        """Rebuild from a detector's manifest, which somebody else may have written; DataError where it does not fit."""
        made = from_json_values(dict(contract), cls, "the baselines of a detector file", "save the detector again")
        odd = sorted({made.majority, made.rule_class} - set(classes) | {made.rule.column} - set(features))
        if odd:
            raise DataError(f"the baselines of a detector file name {', '.join(odd)}, no class or feature of it")
        return made
