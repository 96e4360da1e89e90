"""Traps 1 to 4 of an honest evaluation: giveaways, leaks from test rows, rows on both sides, easy splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.benchmark.tasks import load_experiment
from deepidea.errors import LeakError
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.evaluation.splits import Split, stratified_split
from deepidea.flows.schema import SCHEMAS
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from tests.conftest import TINY, Command
from tests.evaluation.captures import DAYS, add_improved, add_original, capture_table

TABLE = {"label": "label", "benign": "benign"}
OPTIONS = ("--label", "label", "--benign", "benign")


def site(n_flows: int = 600, seed: int = 0) -> pl.DataFrame:
    return simulate_flows(n_flows=n_flows, seed=seed)


# --- 1: identifiers, addresses, times, source port ---------------------------------------------------------------


def with_giveaways(table: pl.DataFrame) -> pl.DataFrame:
    """Add columns that tell the label outright, as those of a capture do: one host attacks, at one hour."""
    attack = pl.col("label") != "benign"
    row = pl.int_range(pl.len())
    return table.with_columns(
        Src_IP=pl.when(attack).then(pl.lit("172.16.0.1")).otherwise(pl.lit("192.168.10.5")),
        dst_ip=pl.when(attack).then(pl.lit("10.0.0.1")).otherwise(pl.lit("10.0.0.2")),
        timestamp=pl.when(attack).then(1_499_350_000 + row).otherwise(1_499_300_000 + row),
        flow_id=pl.format("{}-{}", "label", row),
        src_port=pl.when(attack).then(4444).otherwise(50_000 + row),
        day=pl.when(attack).then(pl.lit("Friday")).otherwise(pl.lit("Monday")),
        capture=pl.when(attack).then(pl.lit("attack.pcap")).otherwise(pl.lit("calm.pcap")),
        verdict_code=pl.col("label").rank("dense"),
        first_seen_at=pl.when(attack).then(pl.lit("2017-07-07 15:00")).otherwise(pl.lit("2017-07-03 09:00")),
        peer=pl.when(attack).then(pl.lit("172.16.0.1")).otherwise(pl.lit("192.168.10.5")),
    )


GIVEAWAYS = {
    "Src_IP": "an address, by its name",
    "dst_ip": "an address, by its name",
    "timestamp": "a time of capture, by its name",
    "flow_id": "a row number or identifier, by its name",
    "src_port": "a source port, by its name",
    "day": "a time of capture, by its name",
    "capture": "a name of the capture, by its name",
    "verdict_code": "it determines the label: each value occurs with one label",
    "first_seen_at": "its values are times",
    "peer": "its values are addresses",
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("captured") / "t.csv"
    with_giveaways(site()).write_csv(path)
    return path


def test_columns_that_give_the_label_away_are_refused_with_the_reason(
    command: Command, captured: Path, tmp_path: Path, tiny_presets: None
):
    told = command("train", captured, *OPTIONS, "-o", tmp_path / "m.idea").err
    for column, reason in GIVEAWAYS.items():
        assert f"not a feature: {column}: {reason}\n" in told
    schema = Detector.load(tmp_path / "m.idea").schema
    assert set(GIVEAWAYS).isdisjoint(column.name for column in schema.columns)
    assert set(schema.features) == set(site().columns) - {"label", "dst_port"}


def test_a_detector_with_and_without_giveaways_is_the_same(captured: Path, tmp_path: Path):
    site().write_csv(tmp_path / "plain.csv")
    assert state(learn(captured)) == state(learn(tmp_path / "plain.csv"))


def test_giveaways_change_no_verdict(captured: Path):
    detector, table = learn(captured), with_giveaways(site(seed=7))
    assert detector.score(table).equals(detector.score(table.drop(GIVEAWAYS)))
    assert detector.score(table).equals(detector.score(table.with_columns(pl.lit("10.9.9.9").alias("Src_IP"))))


@pytest.mark.parametrize("column", GIVEAWAYS)
def test_asking_for_a_giveaway_is_an_error(captured: Path, column: str):
    with pytest.raises(LeakError, match=rf"would leak the label: {column} \({GIVEAWAYS[column]}\); leave"):
        flows_to_train(str(captured), keep=[column], **TABLE)


def test_asking_for_an_address_is_exit_code_3(command: Command, captured: Path, tmp_path: Path):
    ran = command("train", captured, *OPTIONS, "-o", tmp_path / "m.idea", "--keep", "Src_IP")
    assert ran.code == 3
    assert "error: columns to keep would leak the label: Src_IP" in ran.err
    assert not (tmp_path / "m.idea").exists()


@pytest.mark.parametrize("name", SCHEMAS)
def test_registered_schemas_keep_identities_from_the_features(name: str):
    schema = SCHEMAS[name]
    identities = {column.name for column in schema.columns if column.kind == "identity"}
    ports = {column.name for column in schema.columns if column.kind == "port"}
    assert identities.isdisjoint(schema.with_port().features)
    assert ports.isdisjoint(schema.features)
    suspects = ("ip", "addr", "time", "timestamp", "id", "src_port", "difficulty", "label", "day", "file")
    assert not [feature for feature in schema.with_port().features if feature.split("_")[-1] in suspects[:2]]
    assert set(suspects).isdisjoint(schema.with_port().features)


def test_the_port_is_a_feature_on_request_alone(command: Command, captured: Path, tmp_path: Path, tiny_presets: None):
    for more, there in (((), False), (("--keep", "dst_port"), True)):
        command("train", captured, *OPTIONS, "-o", tmp_path / "m.idea", *more)
        assert ("dst_port" in Detector.load(tmp_path / "m.idea").schema.features) is there


# --- 2: test rows ------------------------------------------------------------------------------------------------


def learn(path: Path, preset: str = "default") -> Detector:
    part = flows_to_train(str(path), **TABLE)
    return train_detector(part.flows, preset=preset, card=part.card(), random_state=0, **TINY)


def state(detector: Detector) -> dict[str, object]:
    """All that was fitted; not the time it took, nor the hash of the file and what was counted of its test side."""
    contracts = {"encoder": detector.encoder.contract(), "decision": detector.decision.contract()}
    told = {name: value for name, value in detector.card["training"].items() if name != "seconds"}
    counted = {name: detector.card["data"][name] for name in ("rows", "class_rows")}
    files = {"graph": detector.graph, "weights": detector.weights, "rows": detector.training_fingerprints.tobytes()}
    names = {"classes": detector.classes, "labels": detector.labels, "schema": detector.schema.contract()}
    return {**contracts, **files, **names, **counted, "training": told, "baselines": detector.card["baselines"]}


def dealt(labels: list[str]) -> Split:
    return stratified_split(labels, np.arange(len(labels), dtype=np.uint64))


def swapped(labels: list[str], rng: np.random.Generator) -> list[str]:
    """Shuffle labels among the held-out rows as far as the same rows stay held out."""
    split = dealt(labels)
    for first, second in rng.choice(split.test, (150, 2)).tolist():
        tried = [*labels]
        tried[first], tried[second] = labels[second], labels[first]
        if dealt(tried).test.tolist() == split.test.tolist():
            labels = tried
    return labels


def poisoned(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Replace the held-out rows by garbage under shuffled labels; the others stay as they are."""
    rng, labels = np.random.default_rng(seed), table["label"].to_list()
    text = table.with_columns(pl.all().cast(pl.String))
    extremes = ["1e300", "-1e300", "inf", "-inf", "NaN", "", "1e-300", "-7"]
    for row in dealt(labels).test.tolist():
        for name in table.columns[:-1]:
            garbage = f"zz-{rng.integers(9)}" if table[name].dtype == pl.String else str(rng.choice(extremes))
            text[row, name] = garbage
    return text.with_columns(pl.Series("label", swapped(labels, rng)))


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_poisoned_test_rows_change_no_bit_of_the_detector(tmp_path: Path, preset: str):
    table = site()
    table.write_csv(tmp_path / "clean.csv")
    poison = poisoned(table, seed=0)
    poison.write_csv(tmp_path / "poison.csv")
    assert (poison["label"] != table["label"]).sum() > 10
    clean_lines, lines = ((tmp_path / name).read_text().splitlines() for name in ("clean.csv", "poison.csv"))
    changed = [j - 1 for j in range(len(lines)) if lines[j] != clean_lines[j]]
    assert changed == dealt(table["label"].to_list()).test.tolist()
    assert state(learn(tmp_path / "poison.csv", preset)) == state(learn(tmp_path / "clean.csv", preset))


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 99))
def test_poison_of_any_seed_changes_no_training_row(tmp_path_factory, seed: int):
    folder = tmp_path_factory.mktemp("poison")
    for name, table in (("clean", site(400, 5)), ("poison", poisoned(site(400, 5), seed))):
        table.write_csv(folder / f"{name}.csv")
    clean, poison = (flows_to_train(str(folder / f"{name}.csv"), **TABLE) for name in ("clean", "poison"))
    assert poison.flows.classes.equals(clean.flows.classes)
    assert poison.flows.features.cast(clean.flows.features.schema).equals(clean.flows.features)
    assert poison.card()["baselines"] == clean.card()["baselines"]


def test_changed_training_rows_do_change_the_detector(tmp_path: Path):
    table = site()
    table.write_csv(tmp_path / "clean.csv")
    row = int(dealt(table["label"].to_list()).train[0])
    table[row, "fwd_bytes"] = 10**9
    table.write_csv(tmp_path / "changed.csv")
    assert state(learn(tmp_path / "changed.csv")) != state(learn(tmp_path / "clean.csv"))


def test_evaluating_changes_neither_the_detector_nor_its_file(
    command: Command, model_file: Path, flow_file: Path, tmp_path: Path
):
    before = model_file.read_bytes()
    for n_flows in (50, 400):
        site(n_flows, seed=n_flows).write_csv(tmp_path / "t.csv")
        assert command("evaluate", model_file, tmp_path / "t.csv", "--report", tmp_path / "r.html").code == 0
    assert model_file.read_bytes() == before
    detector = Detector.load(model_file)
    was = state(detector)
    evaluate_detector(detector, flows_to_test(str(flow_file), detector.schema, detector.card["data"]))
    assert state(detector) == was
    detector.save(tmp_path / "again.idea")
    assert (tmp_path / "again.idea").read_bytes() == before


# --- 3: duplicates and contradictions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> Path:
    """600 flows, every second scan and flood twice, and 30 benign ones that stand there as an attack too."""
    table = site()
    attacks = table.filter(pl.col("label").is_in(["port_scan", "syn_flood"])).gather_every(2)
    contradictory = table.filter(pl.col("label") == "benign").head(30).with_columns(label=pl.lit("port_scan"))
    path = tmp_path_factory.mktemp("repeated") / "t.csv"
    pl.concat([table, attacks, contradictory]).write_csv(path)
    return path


def test_twins_across_the_split_are_dropped_and_counted(repeated: Path):
    part = flows_to_train(str(repeated), **TABLE)
    split, table = part.contract["split"], pl.read_csv(repeated)
    features = part.flows.features.columns
    trained = set(part.flows.features.rows())
    rows = [table[int(row)] for row in dealt(table["label"].to_list()).test]
    twins = [row["label"][0] for row in rows if row.select(features).row(0) in trained]
    assert split["dropped"] == {name: twins.count(name) for name in sorted(set(twins))}
    assert sum(split["dropped"].values()) > 10
    assert split["train_rows"] + split["test_rows"] + len(twins) == table.height


def test_an_evaluation_reports_repeats_and_contradictions(command: Command, repeated: Path, tmp_path: Path):
    learn(repeated).save(tmp_path / "m.idea")
    other = pl.concat([pl.read_csv(repeated), site(100, seed=9), site(100, seed=9)])
    other.write_csv(tmp_path / "other.csv")
    command("evaluate", tmp_path / "m.idea", tmp_path / "other.csv", "--json", tmp_path / "s.json")
    told = json.loads((tmp_path / "s.json").read_text())
    subsets, data = told["subsets"], told["data"]
    assert subsets["all"]["n_rows"] == other.height
    assert subsets["distinct"]["n_rows"] == data["distinct_rows"] == other.height - data["duplicate_rows"]
    assert subsets["unseen"]["n_rows"] == data["unseen_rows"] == other.height - data["twins_in_training"]
    assert data["duplicate_rows"] > 100
    assert data["twins_in_training"] > 500
    assert data["contradictory_rows"] >= 60


def test_contradictory_rows_are_counted_in_the_file(repeated: Path):
    part = flows_to_train(str(repeated), **TABLE)
    table = pl.read_csv(repeated)
    vectors = table.group_by(part.flows.features.columns).agg(pl.len(), pl.col("label").n_unique().alias("labels"))
    expected = vectors.filter(pl.col("labels") > 1)["len"].sum()
    assert part.contract["split"]["contradictory_rows"] == expected >= 60


# --- 4: splits ---------------------------------------------------------------------------------------------------

IMPROVED = "cicids17-improved"
IDENTITIES = ("id", "flow_id", "src_ip", "src_port", "dst_ip", "timestamp", "attempted_category")
BESIDE = ("id", "Flow ID", "Src IP", "Src Port", "Dst IP", "Timestamp", "Attempted Category")
OFFERED = ("stratified", "fold-1-of-5", "by-time", "by-day-friday", "by-host-pair", "leave-out-ddos", "to-cicids17")


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPIDEA_DATA", raising=False)
    add_improved(tmp_path / "improved")
    add_original(tmp_path / "original")
    return tmp_path


@pytest.mark.parametrize("protocol", OFFERED)
def test_what_a_split_stands_on_is_no_feature(capture: Path, protocol: str):
    dealt = load_experiment(IMPROVED, protocol)
    for flows in (dealt.train, dealt.test):
        assert set(flows.features.columns).isdisjoint({*IDENTITIES, "dst_port", "file", "day"})
        assert flows.features.columns == list(dealt.train.schema.features)


def shuffled_identities(table: pl.DataFrame) -> pl.DataFrame:
    """Shuffle addresses, times and the like; the features of a row stay with its label."""
    order = np.random.default_rng(5).permutation(table.height)
    return table.with_columns(table[name].gather(order) for name in BESIDE)


def test_identities_change_no_feature_and_no_random_split(capture: Path):
    before = {protocol: load_experiment(IMPROVED, protocol) for protocol in OFFERED}
    add_improved(capture / "shuffled", {day: shuffled_identities(capture_table(day)) for day in DAYS})
    for protocol, dealt in before.items():
        again = load_experiment(IMPROVED, protocol)
        moved = protocol in ("by-time", "by-host-pair")
        assert again.train.features.equals(dealt.train.features) is not moved
        assert (again.facts["sha256"] == dealt.facts["sha256"]) is not moved


@pytest.mark.parametrize("protocol", ["by-time", "by-host-pair"])
def test_a_detector_does_not_learn_by_what_a_split_stands_on(capture: Path, protocol: str):
    dealt = load_experiment(IMPROVED, protocol)
    detector = train_detector(dealt.train, random_state=0, **TINY)
    assert set(IDENTITIES).isdisjoint(detector.schema.features)
    bare = dealt.test.features
    assert detector.score(dealt.test.table).equals(detector.score(bare))


def test_training_and_evaluating_hold_such_rows_out(command: Command, capture: Path, tiny_presets: None):
    for split in ("by-time", "by-host-pair"):
        trained = command("train", IMPROVED, "--split", split, "-o", capture / "m.idea", "--seed", 1)
        assert trained.code == 0, trained.err
        assert command("evaluate", capture / "m.idea", IMPROVED, "--json", capture / "s.json").code == 0
        told, dealt = json.loads((capture / "s.json").read_text()), load_experiment(IMPROVED, split, seed=1)
        assert (told["data"]["class_rows"], told["n_rows"]) == (
            {name: dealt.facts["test_class_rows"].get(name, 0) for name in dealt.train.class_order},
            len(dealt.test),
        )
