"""Every protocol deals a data set so that its promise holds, tells what it did, and does the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark.tasks import load_experiment
from deepidea.errors import DataError, DatasetError, LabelError
from deepidea.evaluation import capture_splits as captures
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.evaluation.splits import is_among
from deepidea.flows.datasets.loading import add_dataset, load_dataset
from deepidea.flows.fingerprint import row_fingerprints
from tests.evaluation.captures import DAYS, add_improved, add_original, capture_table
from tests.flows.datasets.test_loading import _write_kdd, kdd_lines

IMPROVED = "cicids17-improved"
LABELS = [f"leave-out-{name}" for name in ("botnet", "ddos", "dos-goldeneye", "dos-hulk", "ftp-patator", "portscan")]
ROWS = ["stratified", "stratified-keep", "fold-1-of-5", "fold-5-of-5", "by-time", "by-day-friday", "by-day-monday"]
PROTOCOLS = [*ROWS, "by-host-pair", "by-time-30-min", "fold-2-of-3-keep", *LABELS, "leave-out-ssh-patator"]


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patched:
        home = tmp_path_factory.mktemp("experiments")
        patched.setenv("DEEPIDEA_HOME", str(home / "home"))
        patched.delenv("DEEPIDEA_DATA", raising=False)
        add_improved(home / "improved")
        add_original(home / "original")
        test = kdd_lines(*["normal.", "smurf.", "neptune."] * 4)
        add_dataset("kdd99", _write_kdd(home / "kdd", kdd_lines(*["normal.", "smurf.", "neptune."] * 9), test))
        yield


def prints(flows):
    return row_fingerprints(flows.table, flows.schema)


def dropped(facts) -> int:
    return sum(rows for of in facts["dropped"].values() for rows in of.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_row_is_on_both_sides_and_all_are_accounted_for(protocol):
    facts = (experiment := load_experiment(IMPROVED, protocol)).facts
    ids = [set(flows.table["flow_id"]) for flows in (experiment.train, experiment.test)]
    assert not ids[0] & ids[1]
    whole = len(load_dataset(IMPROVED, taxonomy=facts["taxonomy"]).train)
    assert facts["rows"] + facts["test_rows"] + dropped(facts) == whole == facts["split"]["n_rows"]
    assert facts["class_rows"] == dict(sorted(experiment.train.classes.value_counts().iter_rows()))
    assert sum(facts["test_class_rows"].values()) == facts["test_rows"] == len(experiment.test)
    assert experiment.train.class_order == experiment.test.class_order
    assert set(experiment.test.classes) <= set(experiment.train.classes) == set(experiment.train.class_order)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "to-cicids17"])
def test_the_same_arguments_deal_the_same_flows(protocol):
    first, second = (load_experiment(IMPROVED, protocol, seed=3) for _ in range(2))
    assert json.loads(json.dumps(first.facts)) == second.facts
    assert first.train.table.equals(second.train.table)
    other = load_experiment(IMPROVED, protocol, seed=4).facts["sha256"]
    assert (other == first.facts["sha256"]) is protocol.startswith(("by-time", "by-day", "to-"))


@pytest.mark.parametrize("protocol", ["stratified", "fold-1-of-5", *LABELS])
def test_twins_are_dropped_and_counted(protocol):
    experiment = load_experiment(IMPROVED, protocol)
    assert not is_among(prints(experiment.test), prints(experiment.train)).any()
    assert sum(experiment.facts["dropped"]["twin"].values()) > 5
    assert experiment.facts["twins_in_training"] == 0


@pytest.mark.parametrize("protocol", ["stratified-keep", "by-day-friday", "by-host-pair"])
def test_twins_that_stay_are_counted(protocol):
    experiment = load_experiment(IMPROVED, protocol)
    assert experiment.facts["twins_in_training"] == is_among(prints(experiment.test), prints(experiment.train)).sum()
    assert "twin" not in experiment.facts["dropped"]


@pytest.mark.parametrize(("protocol", "gap_s"), [("by-time", 120), ("by-time-30-min", 1800)])
def test_time_passes_between_training_and_test(protocol, gap_s):
    experiment = load_experiment(IMPROVED, protocol)
    trained, tested = (flows.table["timestamp"].to_numpy() for flows in (experiment.train, experiment.test))
    assert (np.abs(tested[:, None] - trained[None, :]) / np.timedelta64(1, "s")).min() >= gap_s
    assert sum(experiment.facts["dropped"]["embargo"].values()) > 0
    days = load_dataset(IMPROVED).train.table["timestamp"].dt.date().n_unique()
    assert experiment.test.table["timestamp"].dt.date().n_unique() == days == len(DAYS)


def test_a_day_left_out_is_asked_for_attack_or_benign():
    experiment = load_experiment(IMPROVED, "by-day-friday")
    assert experiment.facts["view"] == "attack or benign"
    assert experiment.test.class_order == ("benign", "attack")
    assert set(captures.capture_days(experiment.test.table)) == {"friday"}
    assert "friday" not in set(captures.capture_days(experiment.train.table))
    assert set(experiment.test.labels) == {"BENIGN", "PortScan", "Botnet"}


def test_days_are_taken_from_file_names_where_there_are_no_times():
    experiment = load_experiment("cicids17", "by-day-wednesday")
    assert set(experiment.test.labels) == {"BENIGN", *DAYS["wednesday"]}
    assert experiment.facts["test_rows"] == capture_table("wednesday").height


def test_hosts_that_train_are_not_tested():
    experiment = load_experiment(IMPROVED, "by-host-pair")
    trained, tested = (set(captures.host_pairs(flows.table)) for flows in (experiment.train, experiment.test))
    assert not trained & tested
    assert set(experiment.facts["test_class_rows"]) > {"benign", "dos"}


def test_another_data_set_is_tested_by_the_features_of_both():
    experiment = load_experiment("cicids17", f"to-{IMPROVED}")
    assert experiment.train.schema == experiment.test.schema
    assert experiment.train.table.columns == experiment.test.table.columns == list(experiment.train.schema.features)
    assert "dst_port" not in experiment.train.table.columns
    assert experiment.facts["split"]["only_in_test"] == ["protocol"]
    rows = [len(load_dataset(name).train) for name in ("cicids17", IMPROVED)]
    assert rows == [experiment.facts["rows"], experiment.facts["test_rows"]]
    assert experiment.facts["split"]["test"]["files"][0]["rows"] == 180


def test_a_taxonomy_may_be_named_with_the_data():
    experiment = load_experiment(f"{IMPROVED}@native", "fold-1-of-5")
    assert set(experiment.train.class_order) == {"benign", *(name for names in DAYS.values() for name in names)}
    assert load_experiment(IMPROVED, "stratified").facts["taxonomy"] == "paper"
    assert load_experiment(IMPROVED, "by-time").facts["taxonomy"] == "family"
    with pytest.raises(LabelError, match=r"'fine'; .* family, paper, native"):
        load_experiment(f"{IMPROVED}@fine")


def test_an_experiment_is_the_split_of_training_and_evaluation():
    experiment, part = load_experiment(IMPROVED, seed=2), flows_to_train(IMPROVED, taxonomy="paper", split_seed=2)
    assert experiment.facts["split"] == part.contract["split"]
    assert experiment.train.features.equals(part.flows.features)
    assert experiment.test.features.equals(flows_to_test(IMPROVED, part.flows.schema, part.contract).features)


def test_auto_is_the_publishers_split_where_there_is_one():
    experiment = load_experiment("kdd99")
    assert (len(experiment.train), len(experiment.test), experiment.facts["split"]) == (27, 12, {"kind": "official"})
    assert experiment.facts["sha256"] == load_experiment("kdd99", "official", seed=9).facts["sha256"]
    assert experiment.facts["twins_in_training"] == 12


@pytest.mark.parametrize(
    ("data", "protocol", "message"),
    [
        ("cicids17", "official", "cicids17 has no official split; use stratified"),
        ("cicids17", "by-time", "the files of cicids17 have no timestamps; use a stratified"),
        ("cicids17", "by-host-pair", "src_ip, dst_ip"),
        (IMPROVED, "by-day-sunday", "'sunday'; .*friday, monday, wednesday"),
        (IMPROVED, "leave-out-dos-hulc", "'dos-hulc' out: .*; nearest: dos-hulk"),
        (IMPROVED, "leave-out-benign", "'benign' out: it is no attack label"),
        (IMPROVED, "fold-6-of-5", "got fold 6 of 5"),
        (IMPROVED, "fold-0-of-5", "got fold 0 of 5"),
        (IMPROVED, "by-tine", "'by-tine'; nearest: by-time"),
        (IMPROVED, f"to-{IMPROVED}", "from cicids17-improved: cicids17, cicids18"),
        ("kdd99", "to-nsl-kdd", "from kdd99: none"),
    ],
)
def test_what_a_data_set_cannot_give_is_reported(data, protocol, message):
    with pytest.raises(DataError, match=message):
        load_experiment(data, protocol)


def test_unknown_and_absent_data_sets_are_reported():
    with pytest.raises(DatasetError, match="unknown data set 'cicids19'"):
        load_experiment("cicids19")
    with pytest.raises(DatasetError, match="data set cicids18 is not installed"):
        load_experiment(IMPROVED, "to-cicids18")


def test_a_taxonomy_that_leaves_no_attack_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    add_improved(tmp_path / "one", {"friday": capture_table("friday").filter(pl.col("Label") != "PortScan")})
    with pytest.raises(LabelError, match=r"under taxonomy paper, .*; name another, as in cicids17-improved@native"):
        load_experiment(IMPROVED, "stratified")


@pytest.mark.data
def test_no_real_training_flow_lasts_into_the_test(data_root: Path, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    experiment = load_experiment(IMPROVED, "by-time")
    ends = experiment.train.table.select(
        day=pl.col("timestamp").dt.date(), end=pl.col("timestamp") + pl.duration(microseconds="duration_us")
    )
    begins = experiment.test.table.select(day=pl.col("timestamp").dt.date(), begin=pl.col("timestamp"))
    days = ends.group_by("day").agg(pl.max("end")).join(begins.group_by("day").agg(pl.min("begin")), on="day")
    assert days.height == 5
    assert days.filter(pl.col("end") > pl.col("begin")).is_empty()
