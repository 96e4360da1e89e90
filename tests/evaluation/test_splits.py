from __future__ import annotations

import json
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import DataError, LabelError
from deepidea.evaluation import splits
from deepidea.evaluation.splitters import replay_rows, split_rows
from tests.benchmark.fakes import labelled as labelled_flows


@st.composite
def tables(draw):
    """Classes with at least two rows each, and fingerprints of which some repeat, also across classes."""
    sizes = draw(st.dictionaries(st.sampled_from(["benign", "dos", "probe", "u2r"]), st.integers(2, 40), min_size=1))
    classes = np.repeat(list(sizes), list(sizes.values()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.permutation(classes).tolist(), rng.integers(0, draw(st.sampled_from([3, 10_000])), classes.size).astype(
        np.uint64
    )


@given(tables(), st.floats(0.05, 0.95), st.integers(0, 2**62))
def test_kept_duplicates_leave_a_partition_stratified_by_class(drawn, fraction, seed):
    classes, prints = drawn
    split = splits.stratified_split(classes, prints, test_fraction=fraction, seed=seed, duplicates="keep")
    assert sorted([*split.train, *split.test]) == list(range(len(classes)))
    tested, whole = Counter(np.take(classes, split.test).tolist()), Counter(classes)
    for name, rows in whole.items():
        assert 1 <= tested[name] < rows
        assert abs(tested[name] - rows * fraction) <= 1


@given(tables(), st.integers(0, 99))
def test_dropped_duplicates_leave_no_twin_and_are_counted(drawn, seed):
    classes, prints = drawn
    kept = splits.stratified_split(classes, prints, seed=seed, duplicates="keep")
    fresh = [row for row in kept.test if prints[row] not in set(prints[kept.train])]
    if {classes[row] for row in fresh} != set(classes):
        with pytest.raises(LabelError, match="raise test_fraction"):
            splits.stratified_split(classes, prints, seed=seed)
        return
    split = splits.stratified_split(classes, prints, seed=seed)
    assert split.test.tolist() == fresh
    assert split.train.tolist() == kept.train.tolist()
    assert not set(prints[split.train]) & set(prints[split.test])
    assert sum(split.dropped.values()) == len(kept.test) - len(split.test)


@given(tables())
def test_contradictory_rows_are_counted(drawn):
    classes, prints = drawn
    seen = defaultdict(set)
    for name, mark in zip(classes, prints.tolist(), strict=True):
        seen[mark].add(name)
    expected = sum(len(seen[mark]) > 1 for mark in prints.tolist())
    assert splits.count_contradictory(classes, prints) == expected


def test_a_split_never_changes():
    classes, prints = ["benign"] * 60 + ["dos"] * 30 + ["u2r"] * 3, np.arange(93, dtype=np.uint64)
    split = splits.stratified_split(pl.Series(classes), prints, seed=7)
    assert split.sha256 == "885a1409f2e68fc89d23f08bd491785e21b5c1c580136f6957b18c5b1b7ca94a"
    assert splits.stratified_split(np.array(classes), prints, seed=7).sha256 == split.sha256
    assert splits.stratified_split(classes, prints, seed=8).sha256 != split.sha256


def test_shuffled_order_is_uniform():
    first_tenth = splits.shuffle_keys(100_000, 0) < 2**64 // 10
    assert first_tenth.mean() == pytest.approx(0.1, abs=0.005)
    assert np.corrcoef(first_tenth[:-1], first_tenth[1:])[0, 1] == pytest.approx(0, abs=0.02)


def test_a_class_too_small_is_reported():
    with pytest.raises(LabelError, match=r"'u2r' \(1\)"):
        splits.stratified_split(["benign", "benign", "u2r"], np.arange(3, dtype=np.uint64))
    with pytest.raises(LabelError, match=r"'dos' \(1 rows\): every test row repeats"):
        splits.stratified_split(["benign"] * 4 + ["dos"] * 2, np.array([1, 2, 3, 4, 9, 9], np.uint64))


@pytest.mark.parametrize(
    "change", [{"test_fraction": 0.0}, {"test_fraction": 1.0}, {"seed": -1}, {"duplicates": "some"}]
)
def test_bad_arguments_are_reported(change):
    with pytest.raises(DataError, match=next(iter(change))):
        splits.stratified_split(["a"] * 4, np.arange(4, dtype=np.uint64), **change)


def test_rows_without_class_or_fingerprint_are_reported():
    with pytest.raises(LabelError, match="1 of 2 rows"):
        splits.stratified_split(pl.Series(["a", None]), np.arange(2, dtype=np.uint64))
    with pytest.raises(DataError, match="2 classes but 3 fingerprints"):
        splits.stratified_split(["a", "a"], np.arange(3, dtype=np.uint64))
    with pytest.raises(LabelError, match="no rows"):
        splits.stratified_split([], np.arange(0, dtype=np.uint64))


@st.composite
def labelled(draw):
    types = {"normal": "benign", "smurf": "dos", "neptune": "dos", "back": "dos", "nmap": "probe", "satan": "probe"}
    types["perl"] = "u2r"
    counts = draw(st.lists(st.integers(1, 12), min_size=7, max_size=7))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(list(types), counts)).tolist()
    return labels, [types[label] for label in labels]


@given(labelled(), st.integers(2, 5), st.integers(0, 99))
def test_folds_never_train_on_a_left_out_type(drawn, n_folds, seed):
    labels, classes = drawn
    for fold in splits.leave_types_out_folds(labels, classes, n_folds, seed):
        trained, left_out = {labels[row] for row in fold.train}, set(fold.params["left_out"])
        assert left_out
        assert not trained & left_out
        assert {labels[row] for row in fold.test} >= left_out
        assert {classes[row] for row in fold.train} >= set(classes) - {"benign"}
        assert sorted([*fold.train, *fold.test]) == list(range(len(labels)))


@given(labelled(), st.integers(2, 5), st.integers(0, 99))
def test_folds_test_every_row_once_and_every_type_once(drawn, n_folds, seed):
    labels, classes = drawn
    folds = list(splits.leave_types_out_folds(labels, classes, n_folds, seed))
    tested = Counter(row for fold in folds for row in fold.test.tolist())
    alone = {row for row, label in enumerate(labels) if label in ("perl", "normal") and labels.count(label) == 1}
    assert tested == Counter(set(range(len(labels))) - alone)
    left_out = [label for fold in folds for label in fold.params["left_out"]]
    assert sorted(left_out) == ["back", "neptune", "nmap", "satan", "smurf"]


def test_folds_need_types_to_leave_out():
    with pytest.raises(LabelError, match="two native labels"):
        list(splits.leave_types_out_folds(["benign", "dos"], ["benign", "dos"], 2))
    with pytest.raises(LabelError, match=r"in 2\.\.2"):
        list(splits.leave_types_out_folds(["n", "a", "b"], ["benign", "dos", "dos"], 3))
    with pytest.raises(DataError, match="3 labels but 2 classes"):
        list(splits.leave_types_out_folds(["n", "a", "b"], ["benign", "dos"], 2))


def flows_of(classes, prints=()):
    """Labelled flows of these classes, whose features repeat where the fingerprints do."""
    marks = pl.Series(prints if len(prints) else range(len(classes))).cast(pl.Float64)
    table = pl.DataFrame({"evidence": marks}).with_columns(size=0.0, protocol=pl.lit("tcp"))
    return labelled_flows(table, pl.Series(classes))


@given(tables(), st.integers(0, 99))
def test_a_recorded_split_replays(drawn, seed):
    flows = flows_of(*drawn)
    split = split_rows(flows, "stratified-keep", seed=seed)
    contract = json.loads(json.dumps(split.to_contract()))
    again = replay_rows(flows, contract)
    assert again.test.tolist() == split.test.tolist()
    assert again.to_contract() == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "official"}, "kind"),
        ({"kind": ["stratified"]}, "kind"),
        ({"params": None}, "params"),
        ({"params": {"seed": "0", "test_fraction": 0.5, "duplicates": "keep"}}, "params.seed"),
        ({"params": {"seed": 0, "test_fraction": 0.5, "duplicates": "some"}}, "params.duplicates"),
        ({"n_rows": 9}, "of 9 rows, the table has 12"),
        ({"sha256": "0"}, "rows differ"),
        ({"params": {"seed": 1, "test_fraction": 0.5, "duplicates": "keep"}}, "rows differ"),
    ],
)
def test_a_damaged_record_is_refused(change, message):
    flows = flows_of(["benign"] * 6 + ["dos"] * 6)
    contract = split_rows(flows, "stratified").to_contract()
    with pytest.raises(DataError, match=message):
        replay_rows(flows, {**contract, **change})


# --- folds, and one label left out -------------------------------------------------------------------------------


@given(tables(), st.integers(2, 6), st.integers(0, 99), st.sampled_from(["drop", "keep"]))
def test_folds_test_every_row_once_or_drop_it(drawn, n_folds, seed, duplicates):
    classes, prints = drawn
    options = {"n_folds": n_folds, "seed": seed, "duplicates": duplicates}
    if min(Counter(classes).values()) < n_folds:
        with pytest.raises(LabelError, match=f"{n_folds} folds need {n_folds} of each class"):
            splits.stratified_fold(classes, prints, fold=0, **options)
        return
    folds = [splits.stratified_fold(classes, prints, fold=fold, **options) for fold in range(n_folds)]
    tested = Counter(row for fold in folds for row in fold.test.tolist())
    assert set(tested.values()) <= {1}
    assert len(tested) + sum(sum(fold.dropped.values()) for fold in folds) == len(classes)
    for fold in folds:
        twins = set(prints[fold.train]) & set(prints[fold.test])
        assert not fold.dropped if duplicates == "keep" else not twins
        assert len(fold.train) + len(fold.test) + sum(fold.dropped.values()) == len(classes)


def test_folds_keep_the_share_of_each_class():
    classes, prints = ["benign"] * 50 + ["dos"] * 20 + ["u2r"] * 5, np.arange(75, dtype=np.uint64)
    for fold in range(5):
        split = splits.stratified_fold(classes, prints, fold=fold)
        assert Counter(np.take(classes, split.test).tolist()) == {"benign": 10, "dos": 4, "u2r": 1}
    for fold, n_folds in ((5, 5), (-1, 5), (0, 1)):
        with pytest.raises(DataError, match=f"got fold {fold + 1} of {n_folds}"):
            splits.stratified_fold(classes, prints, fold=fold, n_folds=n_folds)


@given(labelled(), st.integers(0, 99), st.sampled_from([4, 10_000]))
def test_a_label_left_out_is_tested_and_never_trained(drawn, seed, n_vectors):
    labels, classes = drawn
    prints = np.random.default_rng(seed).integers(0, n_vectors, len(labels)).astype(np.uint64)
    try:
        split = splits.leave_label_out_split(labels, classes, prints, label="satan", seed=seed)
    except LabelError as error:
        if "too few rows of" not in str(error) and "repeats a training row" not in str(error):
            raise
        return
    assert "satan" not in {labels[row] for row in split.train}
    assert not set(prints[split.train]) & set(prints[split.test])
    fresh = {row for row, label in enumerate(labels) if label == "satan" and prints[row] not in prints[split.train]}
    assert {row for row in split.test.tolist() if labels[row] == "satan"} == fresh
    assert len(split.train) + len(split.test) + sum(split.dropped.values()) == len(labels)


@pytest.mark.parametrize(
    ("label", "message"),
    [("normal", "is benign"), ("worm", "has no rows"), ("smurf", "'smurf' out: it is the only attack")],
)
def test_only_an_attack_beside_others_is_left_out(label, message):
    labels, classes = ["normal"] * 4 + ["smurf"] * 4, ["benign"] * 4 + ["dos"] * 4
    with pytest.raises(LabelError, match=message):
        splits.leave_label_out_split(labels, classes, np.arange(8, dtype=np.uint64), label=label)
    twins = np.zeros(8, np.uint64)
    with pytest.raises(LabelError, match="'back' out: every row of it repeats"):
        splits.leave_label_out_split([*labels[:6], "back", "back"], classes, twins, label="back")
