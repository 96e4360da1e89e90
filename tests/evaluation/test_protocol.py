"""Which rows train and which test, and that a detector finds them again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.errors import CellError, DataError, DatasetError, LabelError, SchemaError
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.evaluation.splits import is_among, stratified_split
from deepidea.flows.datasets.loading import add_dataset
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from tests.conftest import TINY
from tests.evaluation.captures import add_improved, add_original
from tests.flows.datasets.test_loading import _write_cic, _write_kdd, kdd_lines

TABLE = {"label": "label", "benign": "benign"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPIDEA_DATA", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def detector(model_file: Path) -> Detector:
    return Detector.load(model_file)


def rows_for(data, detector, **options):
    return flows_to_test(data, detector.schema, detector.card["data"], **options)


def write(path: Path, table: pl.DataFrame) -> str:
    table.write_csv(path)
    return str(path)


# --- tables ------------------------------------------------------------------------------------------------------


def test_training_and_test_rows_are_a_table_dealt_in_two(flow_file, detector):
    part, rest = flows_to_train(str(flow_file), **TABLE), rows_for(str(flow_file), detector)
    dropped = sum(part.contract["split"]["dropped"].values())
    assert len(part.flows) + len(rest) + dropped == 1500
    assert len(rest) == part.contract["split"]["test_rows"]
    prints = [row_fingerprints(flows.table, flows.schema) for flows in (rest, part.flows)]
    assert not is_among(*prints).any()


def test_replaying_finds_the_same_rows(flow_file, detector):
    first, again = (rows_for(str(flow_file), detector) for _ in range(2))
    assert first.table.equals(again.table)
    assert first.classes.equals(again.classes)
    assert detector.card["data"]["split"]["test_rows"] == len(first)


@pytest.mark.parametrize(("fraction", "seed"), [(0.5, 0), (1 / 6, 7)])
def test_fraction_and_seed_are_replayed(flow_file, detector, fraction, seed):
    part = flows_to_train(str(flow_file), test_fraction=fraction, split_seed=seed, **TABLE)
    rest = flows_to_test(str(flow_file), detector.schema, part.contract)
    assert len(rest) == pytest.approx(1500 * fraction, rel=0.05)
    prints = [row_fingerprints(flows.table, flows.schema) for flows in (rest, part.flows)]
    assert not is_among(*prints).any()


def test_the_evaluation_of_the_training_file_has_no_twin_in_training(flow_file, detector):
    data = evaluate_detector(detector, rows_for(str(flow_file), detector)).data
    assert data["twins_in_training"] == 0
    assert data["unseen_rows"] == data["rows"] < 300


def test_the_same_bytes_under_another_name_are_the_same_file(flow_file, detector, tmp_path):
    moved = shutil.copy(flow_file, tmp_path / "moved.csv")
    assert rows_for(str(moved), detector).table.equals(rows_for(str(flow_file), detector).table)


def test_an_edited_file_under_the_same_name_is_another_one(flow_file, detector, tmp_path):
    path = tmp_path / flow_file.name
    path.write_text(flow_file.read_text() + flow_file.read_text().splitlines()[-1] + "\n")
    flows = rows_for(str(path), detector)
    assert len(flows) == 1501
    assert evaluate_detector(detector, flows).data["twins_in_training"] > 1200


def test_another_file_is_tested_whole(detector, tmp_path):
    other = write(tmp_path / "other.csv", simulate_flows(n_flows=300, seed=8))
    flows = rows_for(other, detector)
    assert (len(flows), flows.source) == (300, "other.csv")


def test_another_labels_name_and_benign_value(detector, tmp_path):
    table = simulate_flows(n_flows=300, seed=8).with_columns(pl.col("label").replace({"benign": "ok"}))
    other = write(tmp_path / "other.csv", table.rename({"label": "verdict"}))
    flows = rows_for(other, detector, label="verdict", benign="ok")
    assert set(flows.classes) == set(detector.classes)


def test_training_on_everything_is_tested_on_everything(flow_file, detector):
    part = flows_to_train(str(flow_file), split="none", **TABLE)
    assert len(part.flows) == 1500
    assert len(flows_to_test(str(flow_file), detector.schema, part.contract)) == 1500


def test_several_files_are_one_table(detector, tmp_path):
    table = simulate_flows(n_flows=600, seed=4)
    first = write(tmp_path / "1.csv", table[:300])
    second = write(tmp_path / "2.csv", table[300:].select(table.columns[::-1]))
    part = flows_to_train([first, second], **TABLE)
    assert part.contract["source"] == "1.csv and 1 more"
    assert len(flows_to_test([first, second], detector.schema, part.contract)) < 110
    assert (
        len(flows_to_test([second, first], detector.schema, part.contract)) == 600
    )  # another order: other row numbers


def test_a_table_trained_from_a_stream_is_never_taken_for_the_same(flow_file, detector, monkeypatch):
    contract = {**detector.card["data"], "files": [{"name": "-", "sha256": None}]}
    table = pl.read_csv(flow_file)
    monkeypatch.setattr("deepidea.evaluation.protocol.read_table", lambda _: table)
    assert len(flows_to_test("-", detector.schema, contract)) == 1500


def test_the_contract_says_where_flows_come_from(flow_file):
    contract = flows_to_train(str(flow_file), **TABLE).contract
    assert contract["source"] == "site.csv"
    assert (contract["label"], contract["benign"]) == ("label", "benign")
    assert len(contract["files"][0]["sha256"]) == 64
    assert sum(contract["class_rows"].values()) == contract["rows"] == 1250
    assert contract["split"]["params"] == {"test_fraction": 1 / 6, "seed": 0, "duplicates": "drop"}


# --- data sets ---------------------------------------------------------------------------------------------------


def test_an_official_split_trains_on_the_one_file_and_tests_on_the_other(home):
    kdd = _write_kdd(home / "kdd", kdd_lines(*["normal.", "smurf."] * 5), kdd_lines("normal.", "smurf.", "perl."))
    add_dataset("kdd99", kdd)
    part = flows_to_train("kdd99")
    assert (len(part.flows), part.contract["split"]) == (10, {"kind": "official"})
    assert len(flows_to_test("kdd99", part.flows.schema, part.contract)) == 3


def test_the_taxonomy_of_training_is_that_of_testing(home):
    test = kdd_lines("normal.", "warezmaster.")
    add_dataset("kdd99", _write_kdd(home / "kdd", kdd_lines("normal.", "smurf.", "warezmaster."), test))
    part = flows_to_train("kdd99", taxonomy="paper")
    assert part.contract["taxonomy"] == "paper"
    assert flows_to_test("kdd99", part.flows.schema, part.contract).classes.to_list() == ["benign", "dos"]
    other = flows_to_test("kdd99", part.flows.schema, part.contract, taxonomy="official")
    assert other.classes.to_list() == ["benign", "r2l"]


def test_another_data_set_of_the_same_schema(home):
    add_dataset("kdd99", _write_kdd(home / "kdd", kdd_lines("normal.", "smurf.")))
    (home / "nsl").mkdir()
    for name, n_rows in (("KDDTrain+.txt", 6), ("KDDTest+.txt", 3)):
        lines = [line.replace(".\n", ",21\n") for line in kdd_lines(*["normal.", "smurf."] * 3)[:n_rows]]
        (home / "nsl" / name).write_text("".join(lines))
    add_dataset("nsl-kdd", home / "nsl")
    part = flows_to_train("kdd99", taxonomy="paper")
    flows = flows_to_test("nsl-kdd", part.flows.schema, part.contract)
    assert (len(flows), flows.source) == (3, "nsl-kdd/test")


def cic_rows(n_rows: int) -> list[dict[str, str]]:
    return [{"fwd_packets": str(j), "Label": "Bot" if j % 4 == 0 else "BENIGN"} for j in range(n_rows)]


def test_a_data_set_without_an_official_split_is_dealt_in_two(home):
    _write_cic(home / "cic" / "a.csv", cic_rows(60))
    add_dataset("cicids17", home / "cic")
    part = flows_to_train("cicids17")
    assert part.contract["split"]["kind"] == "stratified"
    rest = flows_to_test("cicids17", part.flows.schema, part.contract)
    assert (len(part.flows), len(rest)) == (50, 10)
    assert set(part.flows.table["fwd_packets"]).isdisjoint(rest.table["fwd_packets"])


@pytest.mark.parametrize("split", ["by-time", "by-host-pair"])
def test_a_split_by_circumstance_is_replayed(home, split):
    add_improved(home / "days")
    part = flows_to_train("cicids17-improved", split=split, test_fraction=0.3, split_seed=4)
    contract = json.loads(json.dumps(part.contract))
    rest = flows_to_test("cicids17-improved", part.flows.schema, contract)
    told = contract["split"]
    left_out = sum(rows for of in told.get("left_out", {}).values() for rows in of.values())
    assert len(part.flows) + len(rest) + left_out == told["n_rows"] == 540
    assert set(part.flows.table["flow_id"]).isdisjoint(rest.table["flow_id"])
    assert set(rest.classes) <= set(part.flows.classes)
    assert rest.source == "cicids17-improved/held out"


def test_a_damaged_record_of_such_a_split_is_refused(home):
    add_improved(home / "days")
    part = flows_to_train("cicids17-improved", split="by-time")
    recorded = part.contract["split"]
    changes = ({"params": {"embargo_s": "1"}}, {"params": [1]}, {"n_rows": 9}, {"sha256": "0"})
    messages = ("params", "params", "of 9 rows", "rows differ")
    for change, message in zip(changes, messages, strict=True):
        with pytest.raises(DataError, match=message):
            flows_to_test("cicids17-improved", part.flows.schema, {**part.contract, "split": {**recorded, **change}})


def test_a_split_that_data_cannot_give_is_reported(home, flow_file):
    add_original(home / "days")
    for split, message in (
        ("by-time", "the files of cicids17 have no timestamps"),
        ("by-host-pair", "src_ip, dst_ip is absent"),
    ):
        with pytest.raises(DataError, match=message):
            flows_to_train("cicids17", split=split)
        with pytest.raises(DataError, match=f"cannot split a table {split}: .*; use stratified"):
            flows_to_train(str(flow_file), split=split, **TABLE)


def test_a_data_set_that_changed_since_is_reported(home):
    _write_cic(home / "cic" / "a.csv", cic_rows(60))
    add_dataset("cicids17", home / "cic")
    part = flows_to_train("cicids17")
    _write_cic(home / "cic" / "a.csv", cic_rows(64))
    add_dataset("cicids17", home / "cic")
    with pytest.raises(DataError, match="of 60 rows, the table has 64"):
        flows_to_test("cicids17", part.flows.schema, part.contract)


def test_the_port_is_replayed_as_a_feature(home):
    _write_cic(home / "cic" / "a.csv", cic_rows(60))
    add_dataset("cicids17", home / "cic")
    part = flows_to_train("cicids17", use_port=True)
    flows = flows_to_test("cicids17", part.flows.schema, part.contract)
    assert "dst_port" in flows.features.columns


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taxonomy": "paper"}, "--taxonomy is for a data set, and the input is .*site.csv"),
        ({"use_port": True}, "--port is for a data set"),
        ({"split": "official"}, "cannot split a table official"),
    ],
)
def test_options_of_data_sets_are_refused_for_tables(flow_file, options, message):
    with pytest.raises(DataError, match=message):
        flows_to_train(str(flow_file), **TABLE, **options)


def test_options_of_tables_are_refused_for_data_sets(home):
    with pytest.raises(DataError, match=r"--label, --benign is for a table of one's own.*kdd99; leave it"):
        flows_to_train("kdd99", label="label", benign="normal")


def test_an_official_split_that_is_not_there_is_reported(home):
    _write_cic(home / "cic" / "a.csv", cic_rows(60))
    add_dataset("cicids17", home / "cic")
    with pytest.raises(DataError, match="CICIDS2017 has no official split; use --split stratified"):
        flows_to_train("cicids17", split="official")


def test_a_table_needs_its_label_and_benign_value(flow_file):
    with pytest.raises(LabelError, match=r"site.csv is no data set .*--label COLUMN and --benign VALUE"):
        flows_to_train(str(flow_file), label="label")


@pytest.mark.parametrize("name", ["kdd98", "nsl", "cicids-17"])
def test_a_bare_word_was_meant_to_be_a_data_set(name):
    with pytest.raises(DatasetError, match=f"unknown data set '{name}'.*kdd99"):
        flows_to_train(name, **TABLE)


def test_files_of_different_columns_are_reported(tmp_path):
    table = simulate_flows(n_flows=60)
    paths = [write(tmp_path / "1.csv", table), write(tmp_path / "2.csv", table.drop("state"))]
    with pytest.raises(
        SchemaError, match=r"2\.csv and .*1\.csv as one table: they differ in the columns state; name files"
    ):
        flows_to_train(paths, **TABLE)


def test_a_word_among_numbers_is_reported_with_its_place(tmp_path):
    table = simulate_flows(n_flows=100).with_columns(pl.col("fwd_bytes").cast(pl.String))
    table[41, "fwd_bytes"] = "many"
    path = write(tmp_path / "t.csv", table)
    with pytest.raises(CellError, match=r"t.csv row 42, column fwd_bytes: fwd_bytes='many' stands among numbers"):
        flows_to_train(path, **TABLE)


def test_words_and_identities_with_odd_cells_are_no_fault(tmp_path):
    rng = np.random.default_rng(0)
    table = simulate_flows(n_flows=100).with_columns(
        pl.Series("src_port", ["0x0303", *map(str, rng.integers(1, 9, 99))]),
        pl.Series("mixed", ["6", "icmp"] * 50),
    )
    part = flows_to_train(write(tmp_path / "t.csv", table), split="none", **TABLE)
    assert "mixed" in part.flows.schema.categories
    assert "src_port" in part.refused


def test_columns_that_a_detector_lacks_are_reported_with_the_file(detector, tmp_path):
    path = write(tmp_path / "t.csv", simulate_flows(n_flows=60).drop("fwd_bytes"))
    with pytest.raises(SchemaError, match=r"^t.csv: .*1 missing: fwd_bytes"):
        rows_for(path, detector)


def test_training_needs_an_attack_and_a_benign_class(home):
    _write_cic(home / "cic" / "a.csv", [{"fwd_packets": str(j)} for j in range(20)])
    add_dataset("cicids17", home / "cic")
    part = flows_to_train("cicids17")
    with pytest.raises(LabelError):
        train_detector(part.flows, card=part.card(), **TINY)


# --- real data ---------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_a_sample_of_real_flows_is_learnt_and_tested_on_held_out_rows(data_root, home):
    (home / "days").mkdir()
    for path in sorted((data_root / "cicids17").rglob("*.csv")):
        lines = path.read_bytes().splitlines(keepends=True)
        (home / "days" / path.name).write_bytes(b"".join([lines[0], *lines[1::10]]))
    add_dataset("cicids17", home / "days")
    part = flows_to_train("cicids17")
    detector = train_detector(part.flows, card=part.card(), random_state=0, hidden=(32,), n_epochs=20)
    evaluation = evaluate_detector(detector, rows_for("cicids17", detector))
    assert evaluation.data["twins_in_training"] == 0
    assert evaluation.scores.detection_rate > 0.8
    assert evaluation.scores.cba > evaluation.baselines["majority: benign"].cba


def test_the_schema_is_inferred_from_training_rows_alone(tmp_path: Path) -> None:
    table = simulate_flows(n_flows=600, seed=3).with_columns(odd=pl.lit(1))
    table.write_csv(tmp_path / "flows.csv")
    first = flows_to_train([tmp_path / "flows.csv"], label="label", benign="benign")
    held_out = np.ones(len(table), bool)
    held_out[stratified_split(table["label"], np.arange(600, dtype=np.uint64)).train] = False
    poisoned = table.with_columns(odd=pl.Series(np.where(held_out, np.arange(600) + 1_600_000_000, 1)))
    poisoned.write_csv(tmp_path / "poisoned.csv")
    second = flows_to_train([tmp_path / "poisoned.csv"], label="label", benign="benign")
    assert second.flows.schema == first.flows.schema
    assert second.refused == first.refused
