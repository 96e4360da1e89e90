"""Every protocol deals a data set so that its promise holds, tells what it did, and does the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark.tasks import deal_experiment, leave_one_type_out, list_protocols
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


def dropped(told) -> int:
    return sum(rows for of in told["dropped"].values() for rows in of.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_row_is_on_both_sides_and_all_are_accounted_for(protocol):
    told = (dealt := deal_experiment(IMPROVED, protocol)).told
    ids = [set(flows.table["flow_id"]) for flows in (dealt.train, dealt.test)]
    assert not ids[0] & ids[1]
    whole = len(load_dataset(IMPROVED, taxonomy=told["taxonomy"]).train)
    assert told["rows"] + told["test_rows"] + dropped(told) == whole == told["split"]["n_rows"]
    assert told["class_rows"] == dict(sorted(dealt.train.classes.value_counts().iter_rows()))
    assert sum(told["test_class_rows"].values()) == told["test_rows"] == len(dealt.test)
    assert dealt.train.class_order == dealt.test.class_order
    assert set(dealt.test.classes) <= set(dealt.train.classes) == set(dealt.train.class_order)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "to-cicids17"])
def test_the_same_arguments_deal_the_same_flows(protocol):
    first, second = (deal_experiment(IMPROVED, protocol, seed=3) for _ in range(2))
    assert json.loads(json.dumps(first.told)) == second.told
    assert first.train.table.equals(second.train.table)
    other = deal_experiment(IMPROVED, protocol, seed=4).told["sha256"]
    assert (other == first.told["sha256"]) is protocol.startswith(("by-time", "by-day", "to-"))


@pytest.mark.parametrize("protocol", ["stratified", "fold-1-of-5", *LABELS])
def test_twins_are_dropped_and_counted(protocol):
    dealt = deal_experiment(IMPROVED, protocol)
    assert not is_among(prints(dealt.test), prints(dealt.train)).any()
    assert sum(dealt.told["dropped"]["twin"].values()) > 5
    assert dealt.told["twins_in_training"] == 0


@pytest.mark.parametrize("protocol", ["stratified-keep", "by-day-friday", "by-host-pair"])
def test_twins_that_stay_are_counted(protocol):
    dealt = deal_experiment(IMPROVED, protocol)
    assert dealt.told["twins_in_training"] == is_among(prints(dealt.test), prints(dealt.train)).sum()
    assert "twin" not in dealt.told["dropped"]


@pytest.mark.parametrize(("protocol", "gap_s"), [("by-time", 120), ("by-time-30-min", 1800)])
def test_time_passes_between_training_and_test(protocol, gap_s):
    dealt = deal_experiment(IMPROVED, protocol)
    trained, tested = (flows.table["timestamp"].to_numpy() for flows in (dealt.train, dealt.test))
    assert (np.abs(tested[:, None] - trained[None, :]) / np.timedelta64(1, "s")).min() >= gap_s
    assert sum(dealt.told["dropped"]["embargo"].values()) > 0
    days = load_dataset(IMPROVED).train.table["timestamp"].dt.date().n_unique()
    assert dealt.test.table["timestamp"].dt.date().n_unique() == days == len(DAYS)


def test_a_day_left_out_is_asked_for_attack_or_benign():
    dealt = deal_experiment(IMPROVED, "by-day-friday")
    assert dealt.told["view"] == "attack or benign"
    assert dealt.test.class_order == ("benign", "attack")
    assert set(captures.capture_days(dealt.test.table)) == {"friday"}
    assert "friday" not in set(captures.capture_days(dealt.train.table))
    assert set(dealt.test.labels) == {"BENIGN", "PortScan", "Botnet"}


def test_days_are_told_by_file_names_where_there_are_no_times():
    dealt = deal_experiment("cicids17", "by-day-wednesday")
    assert set(dealt.test.labels) == {"BENIGN", *DAYS["wednesday"]}
    assert dealt.told["test_rows"] == capture_table("wednesday").height


def test_hosts_that_train_are_not_tested():
    dealt = deal_experiment(IMPROVED, "by-host-pair")
    trained, tested = (set(captures.host_pairs(flows.table)) for flows in (dealt.train, dealt.test))
    assert not trained & tested
    assert set(dealt.told["test_class_rows"]) > {"benign", "dos"}


def test_every_attack_label_is_left_out_once():
    left_out = []
    for dealt in leave_one_type_out(IMPROVED):
        label = dealt.told["split"]["params"]["label"]
        left_out.append(label)
        assert label not in set(dealt.train.labels)
        assert label in set(dealt.test.labels)
        assert {"BENIGN", "attack"} & set(dealt.told["test_label_rows"])
    assert sorted(left_out) == sorted(name for names in DAYS.values() for name in names)
    assert list(leave_one_type_out(IMPROVED, least_rows=10**6)) == []


def test_another_data_set_is_tested_by_the_features_of_both():
    dealt = deal_experiment("cicids17", f"to-{IMPROVED}")
    assert dealt.train.schema == dealt.test.schema
    assert dealt.train.table.columns == dealt.test.table.columns == list(dealt.train.schema.features)
    assert "dst_port" not in dealt.train.table.columns
    assert dealt.told["split"]["only_in_test"] == ["protocol"]
    rows = [len(load_dataset(name).train) for name in ("cicids17", IMPROVED)]
    assert rows == [dealt.told["rows"], dealt.told["test_rows"]]
    assert dealt.told["split"]["test"]["files"][0]["rows"] == 180


def test_a_taxonomy_may_be_named_with_the_data():
    dealt = deal_experiment(f"{IMPROVED}@native", "fold-1-of-5")
    assert set(dealt.train.class_order) == {"benign", *(name for names in DAYS.values() for name in names)}
    assert deal_experiment(IMPROVED, "stratified").told["taxonomy"] == "paper"
    assert deal_experiment(IMPROVED, "by-time").told["taxonomy"] == "family"
    with pytest.raises(LabelError, match="'fine' is not one of family, paper, native"):
        deal_experiment(f"{IMPROVED}@fine")


def test_an_experiment_is_the_split_of_training_and_evaluation():
    dealt, part = deal_experiment(IMPROVED, seed=2), flows_to_train(IMPROVED, taxonomy="paper", split_seed=2)
    assert dealt.told["split"] == part.contract["split"]
    assert dealt.train.features.equals(part.flows.features)
    assert dealt.test.features.equals(flows_to_test(IMPROVED, part.flows.schema, part.contract).features)


def test_auto_is_the_publishers_split_where_there_is_one():
    dealt = deal_experiment("kdd99")
    assert (len(dealt.train), len(dealt.test), dealt.told["split"]) == (27, 12, {"kind": "official"})
    assert dealt.told["sha256"] == deal_experiment("kdd99", "official", seed=9).told["sha256"]
    assert dealt.told["twins_in_training"] == 12


def test_protocols_are_listed_by_what_the_files_hold():
    always = ["auto", "stratified", "stratified-keep", *(f"fold-{fold}-of-5" for fold in range(1, 6))]
    days = ["by-day-friday", "by-day-monday", "by-day-wednesday"]
    labels = [*LABELS, "leave-out-ssh-patator"]
    others = ["to-cicids17", "to-cicids18"]
    assert list_protocols(IMPROVED) == [*always, "by-time", *days, "by-host-pair", *labels, *others]
    plain = ["leave-out-bot" if name == "leave-out-botnet" else name for name in labels]
    assert list_protocols("cicids17") == [*always, *days, *plain, f"to-{IMPROVED}", "to-cicids18"]
    assert list_protocols("kdd99")[:3] == ["auto", "official", "stratified"]
    assert "by-time" not in list_protocols("kdd99")


@pytest.mark.parametrize(
    ("data", "protocol", "message"),
    [
        ("cicids17", "official", "the publisher's, however: cicids17 has none; use stratified"),
        ("cicids17", "by-time", "needs timestamps, however: the files of cicids17 have none; use a stratified"),
        ("cicids17", "by-host-pair", "needs both addresses of every flow, however: src_ip, dst_ip is absent"),
        (IMPROVED, "by-day-sunday", "'sunday' is not one of friday, monday, wednesday"),
        (IMPROVED, "leave-out-dos-hulc", "'dos-hulc' is not; nearest: dos-hulk"),
        (IMPROVED, "leave-out-benign", "must be an attack label of the data set, however: 'benign' is not"),
        (IMPROVED, "fold-6-of-5", "a fold must be one of two or more, however: fold 6 of 5"),
        (IMPROVED, "fold-0-of-5", "a fold must be one of two or more, however: fold 0 of 5"),
        (IMPROVED, "by-tine", "however: 'by-tine'; nearest: by-time"),
        (IMPROVED, f"to-{IMPROVED}", "hold different flows, however: .* there is cicids17, cicids18"),
        ("kdd99", "to-nsl-kdd", "from kdd99 there is none"),
    ],
)
def test_what_a_data_set_cannot_give_is_told(data, protocol, message):
    with pytest.raises(DataError, match=message):
        deal_experiment(data, protocol)


def test_unknown_and_absent_data_sets_are_told():
    with pytest.raises(DatasetError, match="'cicids19' is not one of"):
        deal_experiment("cicids19")
    with pytest.raises(DatasetError, match="data set cicids18 must be registered"):
        deal_experiment(IMPROVED, "to-cicids18")


def test_a_taxonomy_that_leaves_no_attack_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    add_improved(tmp_path / "one", {"friday": capture_table("friday").filter(pl.col("Label") != "PortScan")})
    with pytest.raises(LabelError, match="under taxonomy paper; name another, as in cicids17-improved@native"):
        deal_experiment(IMPROVED, "stratified")
    assert [name for name in list_protocols(IMPROVED) if name.startswith(("strat", "fold", "by"))] == [
        "by-time",
        "by-host-pair",
    ]


@pytest.mark.data
def test_no_real_training_flow_lasts_into_the_test(data_root: Path, monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    dealt = deal_experiment(IMPROVED, "by-time")
    ends = dealt.train.table.select(
        day=pl.col("timestamp").dt.date(), end=pl.col("timestamp") + pl.duration(microseconds="duration_us")
    )
    begins = dealt.test.table.select(day=pl.col("timestamp").dt.date(), begin=pl.col("timestamp"))
    days = ends.group_by("day").agg(pl.max("end")).join(begins.group_by("day").agg(pl.min("begin")), on="day")
    assert days.height == 5
    assert days.filter(pl.col("end") > pl.col("begin")).is_empty()
