"""Which rows train and which rows test, decided once, the same on every machine, and replayed from a model file.

The order that assigns rows is a hash of row number and seed, not a random generator, so no library version can change a
split. Rows are counted in table order: the same file gives the same split. `stratified_split` and `stratified_fold` are
for a table without an official test file; `leave_types_out_folds` and `leave_label_out_split` test on an attack that
training never showed, as in use. `deepidea.evaluation.capture_splits` splits by time, day and hosts;
`deepidea.evaluation.splitters` finds all of them by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from deepidea.errors import DataError, LabelError
from deepidea.flows.fingerprint import spread_bits
from deepidea.flows.taxonomy import BENIGN

Ints = npt.NDArray[np.int64]
Prints = npt.NDArray[np.uint64]
Column = pl.Series | npt.NDArray[Any] | Sequence[str] | Sequence[int]
Duplicates = Literal["drop", "keep"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers to train on and to test on.

    Attributes
    ----------
    train, test : ndarray of int64, ascending
        Positions in the table that was split. They share no row.
    kind : str
        "stratified", "fold", "leave_types_out", "leave_label_out", "by_time", "by_day" or "by_host_pair".
    params : mapping
        The arguments, as JSON values.
    n_rows : int
        Rows of the table that was split.
    dropped : mapping of class to int
        Test rows that were left out because a training row has the same features.
    contradictory : int
        Rows of the whole table whose features also occur with another class; they stay.
    left_out : mapping of reason to mapping of class to int
        Rows on neither side for another reason: too near to a training row in time, of a class without training rows.
        ``train``, ``test``, ``dropped`` and ``left_out`` together are all rows of the table.
    """

    train: Ints
    test: Ints
    kind: str
    params: Mapping[str, Any]
    n_rows: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    contradictory: int = 0
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Digest of the row numbers on both sides."""
        both = hashlib.sha256()
        for rows in (self.train, self.test):
            # The length goes in as well, or rows moved from one side to the end of the other would give the same
            # digest.
            both.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return both.hexdigest()

    def to_contract(self) -> dict[str, Any]:
        """Return JSON values by which `deepidea.evaluation.splitters.replay_rows` finds the same rows again."""
        counts = {"train_rows": len(self.train), "test_rows": len(self.test), "contradictory_rows": self.contradictory}
        recipe = {"kind": self.kind, "params": dict(self.params), "n_rows": self.n_rows, "sha256": self.sha256}
        left_out = {reason: dict(rows) for reason, rows in self.left_out.items()}
        return {**recipe, **counts, "dropped": dict(self.dropped), **({"left_out": left_out} if left_out else {})}


# --- rows by class -----------------------------------------------------------------------------------------------


def name_codes(values: Column) -> tuple[Ints, list[str]]:
    """Return positions in the sorted names, shape (n_flows,), and the names.

    Raises
    ------
    LabelError
        A value is missing.

    Examples
    --------
    >>> codes, names = name_codes(["dos", "benign", "dos"])
    >>> codes.tolist(), names
    ([1, 0, 1], ['benign', 'dos'])
    """
    series = pl.Series("value", values)
    series = series if series.dtype.is_integer() else series.cast(pl.String)
    if series.null_count():
        raise LabelError(f"cannot split: {series.null_count()} of {len(series)} rows have no class; drop them")
    names = series.unique().sort()
    # Sorted names: codes do not depend on the order of the rows.
    codes = series.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64), return_dtype=pl.Int64)
    return codes.to_numpy(), [str(name) for name in names]


def count_names(codes: Ints, names: Sequence[str]) -> dict[str, int]:
    """Return the rows of each name that has any.

    Examples
    --------
    >>> count_names(np.array([1, 1]), ["benign", "dos"])
    {'dos': 2}
    """
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def shuffle_keys(n_rows: int, seed: int) -> Prints:
    """Hash each row number with the seed (the finaliser of splitmix64): a shuffled order that never changes.

    Examples
    --------
    >>> shuffle_keys(4, seed=0).argsort().tolist()
    [0, 3, 1, 2]
    """
    if not 0 <= seed < 2**63:
        raise DataError(f"seed must be in 0..2^63-1, got {seed}")
    # splitmix64: a weyl sequence from an offset that the seed decides, then two rounds of shift-xor-multiply
    offset = int.from_bytes(hashlib.sha256(b"split" + seed.to_bytes(8, "little")).digest()[:8], "little")
    keys = np.arange(n_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(offset)
    return spread_bits(keys)


def _places(codes: Ints, n_codes: int, seed: int) -> Ints:
    """Return every row's place in its group in shuffled order, from 0."""
    order = np.lexsort((shuffle_keys(codes.size, seed), codes))  # by group, shuffled within it
    starts = np.searchsorted(codes[order], np.arange(n_codes))
    places = np.empty_like(codes)
    places[order] = np.arange(codes.size) - starts[codes[order]]
    return places


def is_among(fingerprints: Prints, known: Prints) -> npt.NDArray[np.bool_]:
    """Return which fingerprints occur among the known ones, shape (n_flows,).

    Examples
    --------
    >>> is_among(np.array([3, 5], np.uint64), np.array([1, 3], np.uint64)).tolist()
    [True, False]
    """
    return pl.Series(fingerprints).is_in(pl.Series(known).unique().implode()).to_numpy()


def count_contradictory(classes: Column, fingerprints: Prints) -> int:
    """Count the rows whose features also occur with another class.

    Examples
    --------
    >>> count_contradictory(["benign", "dos", "benign"], np.array([7, 7, 8], np.uint64))
    2
    """
    table = pl.DataFrame({"fingerprint": fingerprints, "class": pl.Series("class", classes)})
    vectors = table.lazy().group_by("fingerprint").agg(rows=pl.len(), lowest=pl.min("class"), highest=pl.max("class"))
    return int(vectors.filter(pl.col("lowest") != pl.col("highest")).select(pl.col("rows").sum()).collect().item())


@dataclass(frozen=True, slots=True)
class _Rows:
    """The classes and fingerprints of a table, and the split that a choice of test rows makes of it."""

    codes: Ints
    names: list[str]
    prints: Prints

    @classmethod
    def of(cls, classes: Column, fingerprints: Prints, duplicates: str = "drop") -> _Rows:
        if len(classes) != len(fingerprints):
            raise DataError(f"cannot split: {len(classes)} classes but {len(fingerprints)} fingerprints")
        if duplicates not in ("drop", "keep"):
            raise DataError(f"duplicates must be 'drop' or 'keep', got {duplicates!r}")
        if len(classes) == 0:
            raise LabelError("cannot split: the table has no rows")
        return cls(*name_codes(classes), fingerprints)

    @property
    def sizes(self) -> Ints:
        return np.bincount(self.codes, minlength=len(self.names))

    def split(self, tested: npt.NDArray[np.bool_], kind: str, params: Mapping[str, Any], *, drop: bool) -> Split:
        """Return a split; `drop` leaves out test rows that repeat the features of a training row."""
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        # A test row whose features occur in training tests memory; labels are not compared.
        twins = is_among(self.prints[test], self.prints[train]) & drop
        dropped = count_names(self.codes[test][twins], self.names)
        contradictory = count_contradictory(pl.Series(self.codes), self.prints)
        return Split(train, test[~twins], kind, params, self.codes.size, dropped, contradictory)


# --- stratified --------------------------------------------------------------------------------------------------


def stratified_split(
    classes: Column,
    fingerprints: Prints,
    *,
    test_fraction: float = 1 / 6,
    seed: int = 0,
    duplicates: Duplicates = "drop",
) -> Split:
    """Split each class's rows into training and test in the same proportion.

    A test row that repeats a training row's features tests memory alone. With ``duplicates="drop"`` such rows leave the
    test side, whatever their class, and are counted; the shares of the classes in the rest then differ from those of
    the table. Repeats within one side stay.

    Parameters
    ----------
    classes : Series or sequence of str or int, shape (n_flows,)
    fingerprints : ndarray of uint64, shape (n_flows,)
        `deepidea.flows.fingerprint.row_fingerprints` of the features.
    test_fraction : float
        Above 0 and below 1. Each class gives at least one row to each side.
    seed : int
    duplicates : {"drop", "keep"}
        "keep" is for parity with published results; the twins then inflate every score.

    Raises
    ------
    LabelError
        A class has a single row, or all of its test rows repeat training rows.
    DataError
        A fraction outside 0..1, an unknown choice, columns of different length.

    Examples
    --------
    >>> split = stratified_split(["benign"] * 6 + ["dos"] * 6, np.arange(12, dtype=np.uint64))
    >>> len(split.train), len(split.test), split.dropped
    (10, 2, {})
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    rows = _Rows.of(classes, fingerprints, duplicates)
    _refuse_small_classes(rows, 2, "a split needs two, one to train and one to test")
    # At least one row on each side, however small the class and the fraction.
    wanted = np.clip(np.rint(rows.sizes * test_fraction).astype(np.int64), 1, rows.sizes - 1)
    # By place in a shuffled order that hashing gives: a larger fraction tests the same rows and more.
    tested = _places(rows.codes, len(rows.names), seed) < wanted[rows.codes]
    params = {"test_fraction": test_fraction, "seed": seed, "duplicates": duplicates}
    split = rows.split(tested, "stratified", params, drop=duplicates == "drop")
    left = count_names(rows.codes[split.test], rows.names)
    emptied = [f"{name!r} ({n} rows)" for name, n in split.dropped.items() if name not in left]
    if emptied:
        raise LabelError(
            f"cannot test {', '.join(emptied)}: every test row repeats a training row; raise test_fraction, try "
            "another seed, or merge the class with another"
        )
    return split


def _refuse_small_classes(rows: _Rows, least: int, rule: str) -> None:
    few = [f"{name!r} ({n})" for name, n in zip(rows.names, rows.sizes.tolist(), strict=True) if n < least]
    if few:
        raise LabelError(
            f"too few rows of {', '.join(few)}: {rule}; add rows, merge the class with another, or leave it out"
        )


def stratified_fold(
    classes: Column,
    fingerprints: Prints,
    *,
    fold: int,
    n_folds: int = 5,
    seed: int = 0,
    duplicates: Duplicates = "drop",
) -> Split:
    """Return one of the folds that share each class's rows evenly; over all folds every row is tested once.

    Parameters
    ----------
    classes, fingerprints, seed, duplicates
        As of :func:`stratified_split`. A class whose rows of this fold all repeat training rows has no test row left;
        it is not an error here, because the other folds test the class.
    fold : int
        Which fold is tested, in 0..n_folds-1.
    n_folds : int
        At least 2; every class has at least as many rows.

    Raises
    ------
    LabelError
        A class has fewer rows than there are folds.
    DataError
        A fold outside the range, an unknown choice, columns of different length.

    Examples
    --------
    >>> classes, prints = ["benign"] * 6 + ["dos"] * 4, np.arange(10, dtype=np.uint64)
    >>> folds = [stratified_fold(classes, prints, fold=fold, n_folds=2) for fold in (0, 1)]
    >>> sorted(row for fold in folds for row in fold.test.tolist()) == list(range(10))
    True
    """
    if not (n_folds >= 2 and 0 <= fold < n_folds):
        raise DataError(f"fold must be in 1..n_folds with two folds or more, got fold {fold + 1} of {n_folds}")
    rows = _Rows.of(classes, fingerprints, duplicates)
    _refuse_small_classes(rows, n_folds, f"{n_folds} folds need {n_folds} of each class")
    tested = _places(rows.codes, len(rows.names), seed) % n_folds == fold
    params = {"fold": fold, "n_folds": n_folds, "seed": seed, "duplicates": duplicates}
    return rows.split(tested, "fold", params, drop=duplicates == "drop")


# --- attacks that training never shows ---------------------------------------------------------------------------


def leave_types_out_folds(labels: Column, classes: Column, n_folds: int = 5, seed: int = 0) -> Iterator[Split]:
    """Yield folds that test on whole attack types which their training rows never show.

    On rows held out at random a network looks calibrated, and on a new kind of attack it is not: temperature, prior
    weight and thresholds are chosen on these folds. An attack type is a native label.
    The types of each class are shared by the folds, never all of them in one, so that training rows always show the
    class by some other type. Benign rows are shared at random, and so are the rows of a type that is the only one of
    its class: that type stays in training in every fold. Over all folds every row is tested once, but for a row that is
    alone in such a class.

    Parameters
    ----------
    labels, classes : Series or sequence of str, shape (n_flows,)
        Native labels, and the classes they belong to; "benign" is the class that is no attack.
    n_folds : int
        At least 2, at most the number of types that can be left out.
    seed : int

    Yields
    ------
    Split
        Its params name the left-out types under ``"left_out"``.

    Raises
    ------
    LabelError
        No attack class has two types (then calibrate on a stratified split instead), or fewer types than folds.

    Examples
    --------
    >>> labels = ["normal", "normal", "smurf", "neptune", "back", "perl"]
    >>> classes = ["benign", "benign", "dos", "dos", "dos", "u2r"]
    >>> for fold in leave_types_out_folds(labels, classes, n_folds=2):
    ...     print(fold.params["left_out"], len(fold.train), len(fold.test))
    ['neptune', 'smurf'] 3 3
    ['back'] 4 2
    """
    # Three kinds of rows: of a type that a fold leaves out whole; of a type that stays, shared by the folds; and the
    # single row of such a type, which trains in every fold (-1).
    codes, types = _type_codes(labels, classes)
    fold_of_type = _assign_types(types, n_folds, seed)
    places = _places(codes, len(types), seed)
    alone = np.bincount(codes, minlength=len(types))[codes] == 1
    fold_of_row = np.where(fold_of_type[codes] >= 0, fold_of_type[codes], np.where(alone, -1, places % n_folds))
    for fold in range(n_folds):
        left_out = sorted(label for (_, label), at in zip(types, fold_of_type, strict=True) if at == fold)
        params = {"n_folds": n_folds, "seed": seed, "fold": fold, "left_out": left_out}
        tested = fold_of_row == fold
        yield Split(np.flatnonzero(~tested), np.flatnonzero(tested), "leave_types_out", params, codes.size)


def _type_codes(labels: Column, classes: Column) -> tuple[Ints, list[tuple[str, str]]]:
    """Return each row's type, and the types as (class, label), sorted."""
    label_codes, label_names = name_codes(labels)
    class_codes, class_names = name_codes(classes)
    if label_codes.size != class_codes.size:
        raise DataError(f"cannot split: {label_codes.size} labels but {class_codes.size} classes")
    # one number for each pair, so that a label that two classes share is two types
    pairs, codes = np.unique(class_codes * len(label_names) + label_codes, return_inverse=True)
    names = [divmod(pair, len(label_names)) for pair in pairs.tolist()]
    return codes.astype(np.int64), [(class_names[of_class], label_names[label]) for of_class, label in names]


def _assign_types(types: Sequence[tuple[str, str]], n_folds: int, seed: int) -> Ints:
    """Return the fold that leaves each type out, -1 for types that stay in; no fold takes all types of a class."""
    classes = np.array([name for name, _ in types])
    siblings = np.array([(classes == name).sum() for name in classes])
    leavable = np.flatnonzero((siblings > 1) & (classes != BENIGN))
    if len(leavable) == 0:
        raise LabelError("cannot leave attack types out: no attack class has two native labels; use a stratified split")
    if not 2 <= n_folds <= len(leavable):
        raise LabelError(f"n_folds must be in 2..{len(leavable)}, the types that can be left out, got {n_folds}")
    keys = shuffle_keys(len(types), seed)
    # Class by class, so that the types of one class go to different folds: each fold keeps some of every class.
    ordered = sorted(leavable.tolist(), key=lambda at: (str(classes[at]), int(keys[at])))
    fold_of_type = np.full(len(types), -1, dtype=np.int64)
    fold_of_type[ordered] = np.arange(len(ordered)) % n_folds
    return fold_of_type


def leave_label_out_split(
    labels: Column,
    classes: Column,
    fingerprints: Prints,
    *,
    label: str,
    test_fraction: float = 1 / 6,
    seed: int = 0,
) -> Split:
    """Test on every row of one attack label, and on a stratified share of the rest; train on what remains of the rest.

    Test rows that repeat a training row's features are dropped and counted, those of the label left out too: such a
    row cannot be separated from the training row that it equals.

    Parameters
    ----------
    labels, classes : Series or sequence of str, shape (n_flows,)
        Native labels, and the classes they belong to.
    fingerprints : ndarray of uint64, shape (n_flows,)
    label : str
        The label left out; not a benign one.
    test_fraction, seed
        Of the share of the rest.

    Raises
    ------
    LabelError
        No attack has the label, no other attack remains, or nothing is left of the label without repeated rows.

    Examples
    --------
    >>> labels = ["normal"] * 6 + ["smurf"] * 6 + ["neptune"] * 2
    >>> classes, prints = ["benign"] * 6 + ["dos"] * 8, np.arange(14, dtype=np.uint64)
    >>> split = leave_label_out_split(labels, classes, prints, label="neptune")
    >>> split.test.tolist()[-2:], len(split.train)
    ([12, 13], 10)
    """
    is_label = (pl.Series(labels).cast(pl.String) == label).to_numpy()
    kinds = pl.Series(classes).cast(pl.String)
    _refuse_label_to_leave_out(label, kinds.filter(is_label), kinds.filter(~is_label))
    rest = np.flatnonzero(~is_label)
    # Known attacks and benign flows are tested beside the unknown label, or its false alarms could not be seen.
    of_rest = stratified_split(
        kinds.gather(rest), fingerprints[rest], test_fraction=test_fraction, seed=seed, duplicates="keep"
    )
    tested = is_label.copy()
    tested[rest[of_rest.test]] = True
    params = {"label": label, "test_fraction": test_fraction, "seed": seed}
    split = _Rows.of(kinds, fingerprints).split(tested, "leave_label_out", params, drop=True)
    if not is_label[split.test].any():
        raise LabelError(f"cannot leave {label!r} out: every row of it repeats a training row; name another label")
    return split


def _refuse_label_to_leave_out(label: str, of_label: pl.Series, of_rest: pl.Series) -> None:
    if of_label.is_empty() or (of_label == BENIGN).any():
        fact = "is benign" if len(of_label) else "has no rows"
        raise LabelError(f"cannot leave {label!r} out: it {fact}; name a label of an attack")
    if (of_rest == BENIGN).all():
        raise LabelError(f"cannot leave {label!r} out: it is the only attack; use a stratified split")
