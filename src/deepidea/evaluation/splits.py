"""Which rows train and which rows test, decided once, the same on every machine, and replayed from a model file.

The order that deals rows out is a hash of row number and seed, not a random generator, so no library version can
change a split. Rows are counted in table order: the same file gives the same split. On offer are `stratified_split` and
`stratified_fold` for a table without an official test file, and `leave_types_out_folds` and `leave_label_out_split`,
where what is tested is an attack that was never seen, as it will be in use. `deepidea.evaluation.capture_splits` splits
by time, day and hosts; `deepidea.evaluation.splitters` finds all of them by name.
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
from deepidea.flows.taxonomy import BENIGN

Ints = npt.NDArray[np.int64]
Column = pl.Series | npt.NDArray[Any] | Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers to train on and to test on.

    Attributes
    ----------
    train, test : ndarray of int64, ascending
        Positions in the table that was split. They share no row.
    dropped : mapping of class to int
        Test rows that were left out, by class, because a training row has the same features.
    contradictory : int
        Rows (of the whole table) whose features also occur with another class. None of them is dropped for that.
    left_out : mapping of reason to mapping of class to int
        Rows on neither side for any other reason: too near to a training row in time, of a class that no training row
        has. ``train``, ``test``, ``dropped`` and ``left_out`` together are all rows of the table.
    kind : str
        Which function made it: "stratified", "fold", "leave_types_out", "leave_label_out", "by_time", "by_day",
        "by_host_pair".
    params : mapping
        The arguments that lead here, JSON-able.
    n_rows : int
        Rows of the table that was split.
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
            both.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return both.hexdigest()

    def to_contract(self) -> dict[str, Any]:
        """Return what `split_from_contract` needs to find the same rows again, and to prove that they are the same."""
        counts = {"train_rows": len(self.train), "test_rows": len(self.test), "contradictory_rows": self.contradictory}
        recipe = {"kind": self.kind, "params": dict(self.params), "n_rows": self.n_rows, "sha256": self.sha256}
        left_out = {reason: dict(rows) for reason, rows in self.left_out.items()}
        return {**recipe, **counts, "dropped": dict(self.dropped), **({"left_out": left_out} if left_out else {})}


# --- dealing rows out --------------------------------------------------------------------------------------------


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
        raise LabelError(f"every row needs a class, however: {series.null_count()} of {len(series)} rows have none")
    names = series.unique().sort()
    codes = series.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64), return_dtype=pl.Int64)
    return codes.to_numpy(), [str(name) for name in names]


def shuffle_keys(n_rows: int, seed: int) -> npt.NDArray[np.uint64]:
    """Hash each row number with the seed (the finaliser of splitmix64): a shuffled order that never changes.

    Examples
    --------
    >>> shuffle_keys(4, seed=0).argsort().tolist()
    [0, 3, 1, 2]
    """
    if not 0 <= seed < 2**63:
        raise DataError(f"seed must lie in 0..2^63-1, however: {seed}")
    offset = int.from_bytes(hashlib.sha256(b"split" + seed.to_bytes(8, "little")).digest()[:8], "little")
    keys = np.arange(n_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(offset)
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(multiplier)
    return np.asarray(keys ^ (keys >> np.uint64(31)))


def _places(codes: Ints, n_codes: int, seed: int) -> Ints:
    """Return every row's place in its group in shuffled order, from 0."""
    order = np.lexsort((shuffle_keys(codes.size, seed), codes))
    starts = np.searchsorted(codes[order], np.arange(n_codes))
    places = np.empty_like(codes)
    places[order] = np.arange(codes.size) - starts[codes[order]]
    return places


# --- stratified --------------------------------------------------------------------------------------------------


def stratified_split(
    classes: Column,
    fingerprints: npt.NDArray[np.uint64],
    *,
    test_fraction: float = 1 / 6,
    seed: int = 0,
    duplicates: Literal["drop", "keep"] = "drop",
) -> Split:
    """Split each class's rows into training and test in the same proportion.

    A test row that repeats a training row's features asks only whether the network remembers. With
    ``duplicates="drop"`` such rows leave the test side, whatever their class, and are counted; the shares of the
    classes in what remains then differ from those of the table. Repeats within one side stay.

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
    _check_arguments(classes, fingerprints, test_fraction, duplicates)
    codes, names = name_codes(classes)
    sizes = np.bincount(codes, minlength=len(names))
    _refuse_single_rows(sizes, names)
    wanted = np.clip(np.rint(sizes * test_fraction).astype(np.int64), 1, sizes - 1)
    tested = _places(codes, len(names), seed) < wanted[codes]
    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    dropped: dict[str, int] = {}
    if duplicates == "drop":
        twins = is_among(fingerprints[test], fingerprints[train])
        _refuse_emptied_classes(codes[test], twins, names)
        test, dropped = test[~twins], count_names(codes[test][twins], names)
    params = {"test_fraction": test_fraction, "seed": seed, "duplicates": duplicates}
    return Split(train, test, "stratified", params, codes.size, dropped, count_contradictory(classes, fingerprints))


def count_names(codes: Ints, names: Sequence[str]) -> dict[str, int]:
    """Return the rows of each name that has any.

    Examples
    --------
    >>> count_names(np.array([1, 1]), ["benign", "dos"])
    {'dos': 2}
    """
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def _check_arguments(classes: Column, fingerprints: npt.NDArray[np.uint64], fraction: float, duplicates: str) -> None:
    if len(classes) != len(fingerprints):
        raise DataError(f"each row needs a fingerprint, however: {len(fingerprints)} for {len(classes)} rows")
    if not 0 < fraction < 1:
        raise DataError(f"test_fraction must lie between 0 and 1, however: {fraction}")
    if duplicates not in ("drop", "keep"):
        raise DataError(f"duplicates must be 'drop' or 'keep', however: {duplicates!r}")
    if len(classes) == 0:
        raise LabelError("a split needs rows, however: the table is empty")


def stratified_fold(
    classes: Column,
    fingerprints: npt.NDArray[np.uint64],
    *,
    fold: int,
    n_folds: int = 5,
    seed: int = 0,
    duplicates: Literal["drop", "keep"] = "drop",
) -> Split:
    """Return one of the folds that deal each class's rows out evenly; over all folds every row is tested once.

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
    _check_arguments(classes, fingerprints, 1 / 2, duplicates)
    if not (n_folds >= 2 and 0 <= fold < n_folds):
        raise DataError(f"a fold must be one of two or more, however: fold {fold + 1} of {n_folds}")
    codes, names = name_codes(classes)
    _refuse_fewer_rows_than_folds(np.bincount(codes, minlength=len(names)), names, n_folds)
    tested = _places(codes, len(names), seed) % n_folds == fold
    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    twins = is_among(fingerprints[test], fingerprints[train]) & (duplicates == "drop")
    params = {"fold": fold, "n_folds": n_folds, "seed": seed, "duplicates": duplicates}
    contradictory, dropped = count_contradictory(classes, fingerprints), count_names(codes[test][twins], names)
    return Split(train, test[~twins], "fold", params, codes.size, dropped, contradictory)


def _refuse_fewer_rows_than_folds(sizes: Ints, names: Sequence[str], n_folds: int) -> None:
    few = [f"{name!r} ({size})" for name, size in zip(names, sizes.tolist(), strict=True) if size < n_folds]
    if few:
        raise LabelError(
            f"every class needs {n_folds} rows, one for each fold, however: fewer rows of {', '.join(few)}; take fewer "
            "folds, or a taxonomy that merges the class with another or leaves it out"
        )


def _refuse_single_rows(sizes: Ints, names: Sequence[str]) -> None:
    alone = [name for name, size in zip(names, sizes.tolist(), strict=True) if size < 2]
    if alone:
        raise LabelError(
            "every class needs two rows, one to train and one to test, however: a single row of "
            f"{', '.join(map(repr, alone))}; add rows, merge the class with another, or leave it out"
        )


def _refuse_emptied_classes(codes: Ints, twins: npt.NDArray[np.bool_], names: Sequence[str]) -> None:
    all_rows, left = (np.bincount(rows, minlength=len(names)).tolist() for rows in (codes, codes[~twins]))
    emptied = [f"{name!r} ({rows} rows)" for name, rows, kept in zip(names, all_rows, left, strict=True) if not kept]
    if emptied:
        raise LabelError(
            "every class needs a test row that does not repeat a training row, however: all repeat in "
            f"{', '.join(emptied)}; raise test_fraction, try another seed, or merge the class with another"
        )


def is_among(fingerprints: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which fingerprints occur among the known ones, shape (n_flows,).

    Examples
    --------
    >>> is_among(np.array([3, 5], np.uint64), np.array([1, 3], np.uint64)).tolist()
    [True, False]
    """
    return pl.Series(fingerprints).is_in(pl.Series(known).unique().implode()).to_numpy()


def count_contradictory(classes: Column, fingerprints: npt.NDArray[np.uint64]) -> int:
    """Count the rows whose features also occur with another class.

    Examples
    --------
    >>> count_contradictory(["benign", "dos", "benign"], np.array([7, 7, 8], np.uint64))
    2
    """
    table = pl.DataFrame({"fingerprint": fingerprints, "class": pl.Series("class", classes)})
    vectors = table.lazy().group_by("fingerprint").agg(rows=pl.len(), lowest=pl.min("class"), highest=pl.max("class"))
    return int(vectors.filter(pl.col("lowest") != pl.col("highest")).select(pl.col("rows").sum()).collect().item())


# --- leave attack types out --------------------------------------------------------------------------------------


def leave_types_out_folds(labels: Column, classes: Column, n_folds: int = 5, seed: int = 0) -> Iterator[Split]:
    """Yield folds that test on whole attack types which their training rows never show.

    On rows held out at random a network looks calibrated, and on a new kind of attack it is not: temperature, prior
    weight and thresholds are chosen on these folds. An attack type is a native label.
    The types of each class are dealt out over the folds, never all of them to one, so that training rows always show
    the class by some other type. Benign rows are dealt out at random, and so are the rows of a type that is the only
    one of its class: that type stays in training in every fold. Over all folds every row is tested once, but for a
    row that is alone in such a class.

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
    codes, types = _type_codes(labels, classes)
    fold_of_type = _deal_types(types, n_folds, seed)
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
        raise DataError(f"each label needs a class, however: {label_codes.size} labels, {class_codes.size} classes")
    pairs, codes = np.unique(class_codes * len(label_names) + label_codes, return_inverse=True)
    names = [divmod(pair, len(label_names)) for pair in pairs.tolist()]
    return codes.astype(np.int64), [(class_names[of_class], label_names[label]) for of_class, label in names]


def _deal_types(types: Sequence[tuple[str, str]], n_folds: int, seed: int) -> Ints:
    """Return the fold that leaves each type out, -1 for types that stay in; no fold takes all types of a class."""
    classes = np.array([name for name, _ in types])
    siblings = np.array([(classes == name).sum() for name in classes])
    leavable = np.flatnonzero((siblings > 1) & (classes != BENIGN))
    if len(leavable) == 0:
        raise LabelError(
            "leaving attack types out needs an attack class with two native labels, however: each class has one; "
            "use a stratified split"
        )
    if not 2 <= n_folds <= len(leavable):
        raise LabelError(f"n_folds must lie in 2..{len(leavable)}, the types that can be left out, however: {n_folds}")
    keys = shuffle_keys(len(types), seed)
    dealt = sorted(leavable.tolist(), key=lambda at: (str(classes[at]), int(keys[at])))
    fold_of_type = np.full(len(types), -1, dtype=np.int64)
    fold_of_type[dealt] = np.arange(len(dealt)) % n_folds
    return fold_of_type


def leave_label_out_split(
    labels: Column,
    classes: Column,
    fingerprints: npt.NDArray[np.uint64],
    *,
    label: str,
    test_fraction: float = 1 / 6,
    seed: int = 0,
) -> Split:
    """Test on every row of one attack label, and on a stratified share of the rest; train on what remains of the rest.

    Test rows that repeat a training row's features are dropped and counted, those of the label left out too: nobody
    can tell such a row from the training row that it equals.

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
    dealt = stratified_split(
        kinds.filter(~is_label), fingerprints[rest], test_fraction=test_fraction, seed=seed, duplicates="keep"
    )
    train, test = rest[dealt.train], np.sort(np.concatenate([rest[dealt.test], np.flatnonzero(is_label)]))
    twins = is_among(fingerprints[test], fingerprints[train])
    if not is_label[test[~twins]].any():
        raise LabelError(f"a label left out needs rows unlike all others, however: every row of {label!r} repeats one")
    codes, names = name_codes(kinds)
    params = {"label": label, "test_fraction": test_fraction, "seed": seed}
    dropped = count_names(codes[test][twins], names)
    contradictory = count_contradictory(kinds, fingerprints)
    return Split(train, test[~twins], "leave_label_out", params, codes.size, dropped, contradictory)


def _refuse_label_to_leave_out(label: str, of_label: pl.Series, of_rest: pl.Series) -> None:
    if of_label.is_empty() or (of_label == BENIGN).any():
        fact = "is benign" if len(of_label) else "has no rows"
        raise LabelError(f"what is left out must be an attack, however: {label!r} {fact}; name a label of an attack")
    if (of_rest == BENIGN).all():
        raise LabelError(f"training needs another attack, however: {label!r} is the only one; use a stratified split")


# --- replay ------------------------------------------------------------------------------------------------------


def split_from_contract(
    contract: Mapping[str, Any],
    classes: Column,
    *,
    fingerprints: npt.NDArray[np.uint64] | None = None,
    labels: Column | None = None,
) -> Split:
    """Repeat the split that a model file records, and prove that the rows are the same.

    Parameters
    ----------
    contract : mapping
        From `Split.to_contract`; it may come from a file that somebody else wrote.
    classes : Series or sequence of str or int, shape (n_flows,)
    fingerprints : ndarray of uint64, shape (n_flows,), optional
        Needed for a stratified split.
    labels : Series or sequence of str, shape (n_flows,), optional
        Needed for a leave-types-out fold.

    Raises
    ------
    DataError
        The contract is damaged, a column it needs was not given, or the table is not the one that was split.

    Examples
    --------
    >>> classes, prints = ["benign"] * 6 + ["dos"] * 6, np.arange(12, dtype=np.uint64)
    >>> split = stratified_split(classes, prints, seed=3)
    >>> again = split_from_contract(split.to_contract(), classes, fingerprints=prints)
    >>> again.test.tolist() == split.test.tolist()
    True
    """
    kind, params = _checked_recipe(contract)
    refuse_other_table(contract, len(classes))
    if kind == "stratified":
        if fingerprints is None:
            raise DataError("repeating a stratified split needs fingerprints, however: none given")
        split = stratified_split(classes, fingerprints, **params)
    else:
        if labels is None:
            raise DataError("repeating a leave-types-out fold needs native labels, however: none given")
        split = _fold(labels, classes, **params)
    refuse_other_rows(contract, split)
    return split


def refuse_other_table(contract: Mapping[str, Any], n_rows: int) -> None:
    """Refuse a table that has not as many rows as the one that was split."""
    rows = contract.get("n_rows")
    if rows != n_rows:
        raise DataError(f"the recorded split is of {rows} rows, however: the table has {n_rows}; give that table")


def refuse_other_rows(contract: Mapping[str, Any], split: Split) -> None:
    """Refuse a repeated split that does not deal the recorded rows."""
    if split.sha256 != contract.get("sha256"):
        raise DataError(
            f"the recorded split has SHA-256 {contract.get('sha256')}, however: {split.sha256}; rows differ"
        )


_PARAMS: Mapping[str, Mapping[str, type]] = {
    "stratified": {"test_fraction": float, "seed": int, "duplicates": str},
    "leave_types_out": {"n_folds": int, "seed": int, "fold": int},
}


def _checked_recipe(contract: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    kind, params = contract.get("kind"), contract.get("params")
    kinds = _PARAMS.get(kind) if isinstance(kind, str) else None
    if not kinds or not isinstance(params, Mapping) or any(type(params.get(n)) is not t for n, t in kinds.items()):
        raise DataError(f"a split contract must name a known kind and its parameters, however: {kind!r}, {params!r}")
    return str(kind), {name: params[name] for name in kinds}


def _fold(labels: Column, classes: Column, *, n_folds: int, seed: int, fold: int) -> Split:
    for split in leave_types_out_folds(labels, classes, n_folds, seed):
        if split.params["fold"] == fold:
            return split
    raise DataError(f"fold must lie in 0..{n_folds - 1}, however: {fold}")
