"""Training that goes on: what it keeps, what joins in, what stays held out, and how it is compared with before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from deepidea.errors import ArtifactError, DataError, LabelError, SchemaError
from deepidea.evaluation.analyst_labels import read_analyst_labels
from deepidea.evaluation.continued_training import compare_on, compare_with_start, gather
from deepidea.evaluation.model_comparison import compare_detectors, decide_outcome, paired_differences
from deepidea.evaluation.protocol import flows_to_test
from deepidea.evaluation.splits import is_among
from deepidea.flows.feedback_columns import guard_cells
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import CONTINUED_RATE, train_detector
from tests.conftest import TINY, Command

TABLE = ("--label", "label", "--benign", "benign")
FRESH: dict[str, Any] = {}


def labelled(n: int = 800, seed: int = 0) -> LabelledFlows:
    return labelled_flows_from_table(simulate_flows(n_flows=n, seed=seed), "label", "benign")[0]


@pytest.fixture(scope="module")
def detector(model_file: Path) -> Detector:
    return Detector.load(model_file)


@pytest.fixture
def labelled_file(tmp_path: Path) -> Path:
    """Thirty flows that the detector has not seen, and that an analyst called benign."""
    table = simulate_flows(n_flows=400, seed=77).filter(pl.col("label") != "benign").head(30)
    path = tmp_path / "labelled.parquet"
    table.with_columns(
        label=pl.lit("benign"), model=pl.lit("5eed"), note=pl.lit("=1+1"), judged_at=pl.lit("now")
    ).write_parquet(path)
    return path


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["attack-sharing", "balanced-softmax", "hierarchical"])
def test_a_step_of_nothing_changes_no_logit(loss: str) -> None:
    flows = labelled()
    old = train_detector(flows, random_state=0, loss=loss, **TINY)
    new = train_detector(flows, start=old, random_state=1, learning_rate=1e-12, n_epochs=1)
    sample = old.schema.conform(flows.features)
    assert np.allclose(old.logits(sample), new.logits(sample), atol=1e-4)
    assert new.encoder.contract() == old.encoder.contract()
    assert (new.classes, new.labels) == (old.classes, old.labels)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_parameters_stay_but_for_a_lower_rate_and_a_seed_repeats_it(preset: str) -> None:
    flows = labelled()
    old = train_detector(flows, preset=preset, random_state=0, **TINY)
    one, two = (
        train_detector(flows, start=old, random_state=3, extra=labelled(800, 9).take(np.arange(60))) for _ in range(2)
    )
    told, before = one.card["training"], old.card["training"]
    assert told["parameters"] == {**before["parameters"], "learning_rate": CONTINUED_RATE * TINY["learning_rate"]}
    assert told["preset"] == preset
    assert (one.graph, one.weights) == (two.graph, two.weights)
    assert is_among(old.training_fingerprints, one.training_fingerprints).all()


def test_labels_finer_than_classes_go_on_too() -> None:
    table = simulate_flows(n_flows=900)
    flows, _ = labelled_flows_from_table(table, "label", "benign")
    attack = flows.classes != "benign"
    finer = flows.labels.to_frame("label").select(
        pl.when(attack).then(pl.format("{}-{}", "label", pl.int_range(pl.len()) % 2)).otherwise("label")
    )
    flows = LabelledFlows(flows.table, finer.to_series(), flows.classes, flows.schema, flows.class_order, "t")
    old = train_detector(flows, labels=True, random_state=0, **TINY)
    new = train_detector(flows, start=old, random_state=0, n_epochs=1)
    assert new.labels == old.labels != old.classes
    with pytest.raises(LabelError, match="exactly the detector's labels"):
        train_detector(labelled(), start=old, random_state=0, n_epochs=1)


def test_extra_flows_are_never_held_out_and_weigh_what_they_are_given(detector: Detector) -> None:
    flows = labelled()
    wrong = flows.take((flows.classes != "benign").to_numpy()).take(np.arange(20))
    extra = LabelledFlows(
        wrong.table, wrong.labels, pl.Series("class", ["benign"] * 20), flows.schema, ("benign",), "labelled"
    )
    old = train_detector(flows, random_state=0, **TINY)
    shares = []
    for weight in (0.01, 1000.0):
        new = train_detector(flows, start=old, extra=extra, extra_weight=weight, random_state=0, learning_rate=1e-2)
        shares.append(float(new.score(wrong.features)["p_benign"].mean()))
        assert new.card["training"]["extra_weight"] == weight
    assert shares[0] < 0.3 < 0.6 < shares[1]


@pytest.mark.parametrize("member", ["weights", "training_fingerprints"])
def test_a_file_that_lacks_what_training_goes_on_with_is_refused(detector: Detector, member: str) -> None:
    bare = detector.with_card()
    setattr(bare, member, None)
    with pytest.raises(ArtifactError, match=r"continue training: the detector has no .*train without --continue"):
        train_detector(labelled(), start=bare, random_state=0)


def test_weights_of_another_network_are_refused(detector: Detector) -> None:
    table = simulate_flows(n_flows=800).drop(detector.schema.numbers[0])
    other = train_detector(labelled_flows_from_table(table, "label", "benign")[0], random_state=0, **TINY)
    for weights, told in ((b"junk", "cannot read weights"), (other.weights, "does not fit encoder and outputs")):
        odd = detector.with_card()
        odd.weights = weights
        with pytest.raises(ArtifactError, match=told):
            train_detector(labelled(), start=odd, random_state=0)


def test_classes_that_would_be_unlearnt_or_are_new_are_refused(detector: Detector) -> None:
    flows = labelled()
    fewer = flows.take((flows.classes != detector.classes[-1]).to_numpy())
    with pytest.raises(LabelError, match=f"no flows of {detector.classes[-1]}, which the detector would unlearn"):
        train_detector(fewer, start=detector, random_state=0)
    new = LabelledFlows(flows.table, flows.labels, flows.classes.replace({detector.classes[-1]: "worm"}),
                        flows.schema, flows.class_order, "t")  # fmt: skip
    with pytest.raises(LabelError, match=r"cannot continue training with flows of worm"):
        train_detector(new, start=detector, random_state=0)


# --- what is held out ------------------------------------------------------------------------------------------------


def test_what_was_held_out_stays_held_out(flow_file: Path, detector: Detector, model_file: Path) -> None:
    gathered = gather(str(flow_file), continued=model_file, fresh=FRESH)
    assert gathered.card["data"] == detector.card["data"]
    assert gathered.card["continued_from"]["model"] == detector.fingerprint
    test = flows_to_test(str(flow_file), detector.schema, detector.card["data"])
    prints = [row_fingerprints(part.features, detector.schema) for part in (test, gathered.part.flows)]
    assert not is_among(prints[0], prints[1]).any()
    assert len(gathered.part.flows) == detector.card["data"]["rows"]


def test_options_that_stand_are_refused(flow_file: Path, model_file: Path) -> None:
    for fresh, told in (({"use_port": True}, "--port"), ({"preset": "paper"}, "--preset")):
        with pytest.raises(DataError, match=f"{told} cannot change with --continue"):
            gather(str(flow_file), continued=model_file, fresh=fresh)
    with pytest.raises(DataError, match="stays split as it was"):
        gather(str(flow_file), continued=model_file, fresh=FRESH, split="none")


def test_other_data_goes_on_too_and_is_split(tmp_path: Path, model_file: Path) -> None:
    simulate_flows(n_flows=700, seed=8).write_csv(tmp_path / "later.csv")
    gathered = gather(str(tmp_path / "later.csv"), continued=model_file, fresh=FRESH)
    assert gathered.card["data"]["source"] == "later.csv"
    assert gathered.card["data"]["split"]["kind"] == "stratified"


# --- labelled flows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_labelled_flows_are_read_as_the_detector_reads_them(
    labelled_file: Path, detector: Detector, suffix: str
) -> None:
    table = pl.read_parquet(labelled_file)
    path = labelled_file.with_suffix(f".{suffix}")
    if suffix == "csv":
        guard_cells(table).write_csv(path)
    found = read_analyst_labels([path], detector.schema, {name: name for name in detector.classes}, only_known=True)
    assert found.flows.features.columns == list(detector.schema.features)
    assert found.contract()["class_rows"] == {"benign": 30}
    assert detector.score(found.flows.features).equals(detector.score(table))


def test_a_class_that_the_detector_does_not_know_is_refused_only_where_it_goes_on(
    labelled_file: Path, detector: Detector
) -> None:
    pl.read_parquet(labelled_file).with_columns(label=pl.lit("worm")).write_parquet(labelled_file)
    known = {name: name for name in detector.classes}
    with pytest.raises(LabelError, match=r"does not know worm \(30\), only .*; train anew with --extra and without"):
        read_analyst_labels([labelled_file], detector.schema, known, only_known=True)
    found = read_analyst_labels([labelled_file], detector.schema, known)
    assert found.flows.class_order == ("worm",)
    new = train_detector(labelled(), extra=found.flows, random_state=0, **TINY)
    assert "worm" in new.classes


def test_flows_that_a_schema_cannot_tell_are_left_out_by_origin(labelled_file: Path, detector: Detector) -> None:
    good = pl.read_parquet(labelled_file)
    other = pl.DataFrame({"history": ["Sh"] * 5, "label": ["benign"] * 5, "model": ["other"] * 5})
    pl.concat([good, other], how="diagonal").write_parquet(labelled_file)
    found = read_analyst_labels([labelled_file], detector.schema, {}, only_known=False)
    assert len(found.flows) == 30
    ((origin, n),) = found.left_out.items()
    assert n == 5
    assert "detector other" in origin
    other.write_parquet(labelled_file)
    with pytest.raises(SchemaError, match=r"under schema custom: .*they lack"):
        read_analyst_labels([labelled_file], detector.schema, {})


def test_flows_of_cicflow_are_projected_beside_those_of_conn(tmp_path: Path) -> None:
    names = get_schema("cicflow").features
    flows = pl.DataFrame({name: ["6"] * 20 if name == "protocol" else [1e6] * 20 for name in names})
    conn = pl.DataFrame({"duration_s": [1.0], "protocol": ["tcp"], "fwd_packets": [3.0], "source": ["zeek"]})
    whole = pl.concat([flows.with_columns(source=pl.lit("pcap")), conn], how="diagonal_relaxed")
    whole.with_columns(label=pl.lit("benign")).write_parquet(tmp_path / "j.parquet")
    found = read_analyst_labels(
        [tmp_path / "j.parquet"], get_schema("conn").restrict(["duration_s", "fwd_packets"]), {}
    )
    assert found.flows.features.height == 21
    assert found.flows.features["duration_s"].null_count() == 0
    with pytest.raises(SchemaError, match="which single flows do not have"):
        read_analyst_labels([tmp_path / "j.parquet"], get_schema("conn+context"), {})


def test_a_label_is_asked_for(labelled_file: Path, detector: Detector) -> None:
    table = pl.read_parquet(labelled_file)
    for odd, told in (
        (table.drop("label"), "has no column label"),
        (table.with_columns(label=None), "30 flows have no"),
    ):
        odd.write_parquet(labelled_file)
        with pytest.raises(LabelError, match=told):
            read_analyst_labels([labelled_file], detector.schema, {})


# --- comparison ------------------------------------------------------------------------------------------------------


def test_differences_are_those_of_drawing_flows_again() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    old, new = (np.where(rng.random(900) < share, truth, rng.integers(0, 3, 900)) for share in (0.6, 0.8))
    found = paired_differences(truth, old, new)
    drawn = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(np.flatnonzero(truth == c), (truth == c).sum()) for c in range(3)])
        recalls = [[(who[rows] == c)[truth[rows] == c].mean() for c in range(3)] for who in (old, new)]
        drawn.append(np.mean(recalls[1]) - np.mean(recalls[0]))
    assert found["cba"].value == pytest.approx(np.mean(drawn), abs=0.005)
    assert [found["cba"].low, found["cba"].high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    swapped = paired_differences(truth, new, old)
    assert swapped["cba"].value == pytest.approx(-found["cba"].value)
    assert decide_outcome(found["cba"], None)[0] == "better"
    assert decide_outcome(swapped["cba"], None)[0] == "worse"


def test_a_detector_is_no_worse_than_itself_and_rows_trained_on_are_left_out(detector: Detector) -> None:
    fresh, seen = labelled(500, 21), labelled(300, 22)
    flows = LabelledFlows(pl.concat([fresh.table, seen.table]), pl.concat([fresh.labels, seen.labels]),
                          pl.concat([fresh.classes, seen.classes]), fresh.schema, fresh.class_order, "t")  # fmt: skip
    other = train_detector(seen, random_state=0, **TINY)
    comparison = compare_detectors(detector, other, flows, analyst_flows=seen)
    assert comparison.n_flows + comparison.n_left_out == 800
    assert comparison.n_left_out >= 300
    assert comparison.labelled is not None
    assert comparison.labelled.n_flows == 0
    same = compare_detectors(detector, detector, flows)
    assert (same.verdict, same.cba.low, same.cba.high) == ("no worse", 0.0, 0.0)
    json.dumps(same.to_dict(), allow_nan=False)


def test_where_nothing_is_left_to_compare_on_it_says_so(flow_file: Path, detector: Detector) -> None:
    train = flows_to_test(str(flow_file), detector.schema, {}, label="label", benign="benign")
    unheld = train_detector(train, random_state=0, card={"data": {"split": {"kind": "none"}}}, **TINY)
    assert compare_with_start(detector, unheld, str(flow_file)) == "no flows were held out for a comparison"
    with pytest.raises(DataError, match="cannot compare on"):
        compare_on(detector, unheld, str(flow_file), label="label", benign="benign")


def test_train_goes_on_by_one_command_and_keeps_the_comparison(
    flow_file: Path, model_file: Path, labelled_file: Path, tmp_path: Path, command: Command
) -> None:
    new = tmp_path / "new.idea"
    ran = command("train", flow_file, "-o", new, "--continue", model_file, "--extra", labelled_file, "--seed", 1)
    assert ran.code == 0, ran.err
    card = Detector.load(new).card
    assert card["comparison"]["old"] == card["continued_from"]["model"] == Detector.load(model_file).fingerprint
    assert card["comparison"]["new"] == Detector.load(new).fingerprint
    assert (card["extra"]["rows"], card["extra"]["class_rows"]) == (30, {"benign": 30})
    assert "adding 30 labelled alerts: benign 30" in ran.err
    assert "class-balanced accuracy" in ran.out
    assert f"{card['continued_from']['model']} ({model_file.name})" in command("inspect", new).out
    refused = command("train", flow_file, "-o", new, "--continue", model_file, "--no-labels")
    assert "--labels cannot change with --continue" in refused.err
    anew = command("train", flow_file, *TABLE, "-o", new, "--extra", labelled_file, "--seed", 1, "--epochs", 1)
    assert anew.code == 0, anew.err
    assert "continued_from" not in Detector.load(new).card
