from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from deepidea.errors import CellError, DataError, DatasetError, LabelError, SchemaError
from deepidea.flows.datasets import installed
from deepidea.flows.datasets.loading import add_dataset, installed_datasets, load_dataset
from deepidea.flows.schema import get_schema

KDD_CELLS = "0,tcp,http,SF,181,5450" + ",0" * 35


def kdd_lines(*labels: str) -> list[str]:
    return [f"{KDD_CELLS},{label}\n" for label in labels]


def _write_kdd(folder: Path, train: list[str], test: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "kddcup.data_10_percent.gz").write_bytes(gzip.compress("".join(train).encode()))
    (folder / "corrected").write_text("".join(test or kdd_lines("normal.", "smurf.")))
    return folder


CIC = get_schema("cicflow")
REQUIRED = [name for name in CIC.features if not CIC[name].optional]


def _write_cic(path: Path, rows: list[dict[str, str]], header: Callable[[str], str] = str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    names = ["dst_port", "timestamp", *REQUIRED, "Fwd Header Length.1", "Label"]
    cells = [{**dict.fromkeys(names, "1"), "timestamp": "5/7/2017 10:01", "Label": "BENIGN", **row} for row in rows]
    lines = [[header(name) for name in names], *([row[name] for name in names] for row in cells)]
    path.write_bytes("".join(",".join(line) + "\r\n" for line in lines).encode("cp1252"))
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPIDEA_DATA", raising=False)
    return tmp_path / "home"


def test_kdd99_is_registered_and_loaded(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    folder = _write_kdd(tmp_path / "kdd", kdd_lines("normal.", "smurf.", "smurf."))
    registration = add_dataset("kdd99", folder, progress=lambda *done: seen.append(done))
    assert [(f.name, f.role, f.rows, f.official) for f in registration.files] == [
        ("kddcup.data_10_percent.gz", "train", 3, False),
        ("corrected", "test", 2, False),
    ]
    assert seen[-1][0] == seen[-1][1]
    data = load_dataset("kdd99")
    assert data.train.classes.to_list() == ["benign", "dos", "dos"]
    assert data.train.features.columns == list(get_schema("kdd99").features)
    assert data.test is not None
    assert data.classes == ("benign", "dos") == data.test.class_order
    assert data.quirks == {"labels_with_final_dot": 5}
    assert data.training == "10-percent"


def test_the_full_training_file_is_taken_where_it_is(tmp_path: Path) -> None:
    folder = _write_kdd(tmp_path / "kdd", kdd_lines("normal.", "smurf."))
    (folder / "kddcup.data").write_text("".join(kdd_lines("normal.", "smurf.", "perl.")))
    assert add_dataset("kdd99", folder).training == "full"
    assert len(load_dataset("kdd99").train) == 3
    assert add_dataset("kdd99", folder, training="10-percent").training == "10-percent"
    assert len(load_dataset("kdd99").train) == 2


def test_quirks_are_handled_and_counted(tmp_path: Path) -> None:
    rows = [
        {"bytes_per_s": "Infinity", "packets_per_s": " NaN ", "bwd_init_window_bytes": "-1"},
        {"Label": "Web Attack \u2013 XSS", "timestamp": "5/7/2017 3:30"},
        {"Label": "Label"},
        {"timestamp": "7/5/2017 16:00:01", "duration_us": ""},
    ]
    path = _write_cic(tmp_path / "cic" / "Thursday.csv", rows, header=lambda name: f" {name}")
    with path.open("ab") as file:
        file.write(b"," * (len(REQUIRED) + 3) + b"\r\n\r\n")
    add_dataset("cicids17", path.parent)
    data = load_dataset("cicids17")
    assert data.quirks == {
        "doubled_columns": 1,
        "empty_rows": 2,
        "header_names_with_spaces": len(REQUIRED) + 4,
        "infinite_cells": 1,
        "labels_with_odd_dash": 1,
        "minus_one_windows": 1,
        "missing_cells": 1,
        "nan_cells": 1,
        "repeated_header_rows": 1,
        "timestamps_month_first": 1,
        "timestamps_moved_to_afternoon": 1,
    }
    days = [datetime(2017, 7, 5, 10, 1), datetime(2017, 7, 5, 15, 30), datetime(2017, 7, 5, 16, 0, 1)]
    assert data.train.table["timestamp"].to_list() == days
    assert data.train.classes.to_list() == ["benign", "web_attack", "benign"]
    assert data.test is None


def test_identities_are_kept_and_are_no_features(tmp_path: Path) -> None:
    _write_cic(tmp_path / "cic" / "Monday.csv", [{}, {"Label": "Bot"}])
    add_dataset("cicids17", tmp_path / "cic")
    data = load_dataset("cicids17")
    assert {"timestamp", "dst_port", "file"} <= set(data.train.table.columns)
    assert data.train.table["file"].to_list() == ["Monday.csv"] * 2
    assert data.train.features.columns == REQUIRED
    assert load_dataset("cicids17", use_port=True).train.features.columns == ["dst_port", *REQUIRED]


def test_whole_numbers_become_integers_and_stay_exact(tmp_path: Path) -> None:
    rows = [{"duration_us": "119999999", "fwd_bytes": "9007199254740991", "iat_mean_us": "0.5"}, {"Label": "Bot"}]
    _write_cic(tmp_path / "cic" / "a.csv", rows)
    add_dataset("cicids17", tmp_path / "cic")
    table = load_dataset("cicids17").train.table
    assert table.schema["duration_us"].is_integer()
    assert table.schema["iat_mean_us"].is_float()
    assert table.select("duration_us", "fwd_bytes", "iat_mean_us").row(0) == (119_999_999, 9_007_199_254_740_991, 0.5)


def test_files_of_several_days_may_differ_in_identities(tmp_path: Path) -> None:
    first = _write_cic(tmp_path / "cic" / "a.csv", [{}])
    text = first.read_text().replace("dst_port", "Src IP", 1)
    (first.parent / "b.csv").write_text(text)
    add_dataset("cicids17", first.parent)
    table = load_dataset("cicids17").train.table
    assert table["src_ip"].to_list() == [None, "1"]
    assert table["dst_port"].to_list() == [1, None]


BROKEN_KDD = {
    "text in a number": (f"x{KDD_CELLS},normal.\n", CellError, r"gz, line 3: duration 'x0' is not a number"),
    "an unknown label": (f"{KDD_CELLS},smurff.\n", LabelError, r"line 3: unknown labels smurff \(1\); nearest: smurf"),
    "a line too long": (f"{KDD_CELLS},normal.,1\n", CellError, "line 3: 43 cells instead of 42"),
    "a line too short": ("0,tcp,http\n", CellError, "line 3: 3 cells instead of 42"),
}


@pytest.mark.parametrize("what", BROKEN_KDD)
def test_bad_lines_are_named(tmp_path: Path, what: str) -> None:
    line, error, message = BROKEN_KDD[what]
    folder = _write_kdd(tmp_path / "kdd", [*kdd_lines("normal.", "smurf."), line])
    with pytest.raises(error, match=message):
        add_dataset("kdd99", folder)
    assert installed_datasets()["kdd99"] is None
    assert list(installed.datasets_folder().iterdir()) == []


def test_lines_are_counted_from_the_file_not_from_the_batch(tmp_path: Path) -> None:
    lines = kdd_lines(*["normal."] * 200_000) + [f"{KDD_CELLS.replace('181', 'many')},normal.\n"]
    with pytest.raises(CellError, match=r"line 200001: src_bytes 'many'"):
        add_dataset("kdd99", _write_kdd(tmp_path / "kdd", lines))


def test_damaged_files_are_reported(tmp_path: Path) -> None:
    folder = _write_kdd(tmp_path / "kdd", kdd_lines(*["normal."] * 1000))
    train = folder / "kddcup.data_10_percent.gz"
    whole = train.read_bytes()
    for bad, message in [(whole[:-20], "damaged or truncated"), (b"", "is empty"), (b"a,b\n", "begins with 1f 8b")]:
        train.write_bytes(bad)
        with pytest.raises(DataError, match=message):
            add_dataset("kdd99", folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("duration_us", "length_us", "line 1: 1 missing columns: duration_us"),
        ("Label", "Verdict", "1 missing columns: label"),
        ("Fwd Header Length.1", "Attempted Category", "attempted_category of the corrected data set"),
    ],
)
def test_wrong_headers_are_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _write_cic(tmp_path / "cic" / "a.csv", [{}])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(SchemaError, match=message):
        add_dataset("cicids17", path.parent)


def test_absent_folders_and_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no folder; the publisher's page: http"):
        add_dataset("kdd99", tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"lacks kddcup.data_10_percent, corrected"):
        add_dataset("kdd99", tmp_path)
    with pytest.raises(DatasetError, match="has no CSV files"):
        add_dataset("cicids17", tmp_path)
    with pytest.raises(DatasetError, match="nearest: kdd99"):
        add_dataset("kdd98", tmp_path)


def test_one_file_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("MachineLearningCVE", "TrafficLabelling"):
        _write_cic(tmp_path / folder / "Monday.csv", [{}])
    with pytest.raises(DatasetError, match="add one of those folders"):
        add_dataset("cicids17", tmp_path)


def test_an_unregistered_data_set_names_both_commands() -> None:
    with pytest.raises(DatasetError, match=r"deepidea data add kdd99 DIR.*deepidea data get kdd99"):
        load_dataset("kdd99")


def test_a_data_set_in_the_environment_registers_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_kdd(tmp_path / "data" / "kdd99", kdd_lines("normal.", "smurf."))
    monkeypatch.setenv("DEEPIDEA_DATA", str(tmp_path / "data"))
    assert len(load_dataset("kdd99").train) == 2
    assert installed_datasets()["kdd99"] is not None


def _damage_part(home: Path) -> None:
    part = next(home.glob("datasets/*/kddcup*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


def _remove_part(home: Path) -> None:
    next(home.glob("datasets/*/kddcup*.parquet")).unlink()


def _cut_record(home: Path) -> None:
    record = home / "datasets" / "kdd99.json"
    record.write_text(record.read_text()[:-20])


def _raise_format(home: Path) -> None:
    record = home / "datasets" / "kdd99.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))


@pytest.mark.parametrize("damage", [_damage_part, _remove_part, _cut_record, _raise_format])
def test_a_damaged_copy_is_reported_and_mended_by_adding(
    tmp_path: Path, own_home: Path, damage: Callable[[Path], None]
) -> None:
    folder = _write_kdd(tmp_path / "kdd", kdd_lines("normal.", "smurf."))
    add_dataset("kdd99", folder)
    damage(own_home)
    with pytest.raises(DatasetError, match="add it again: deepidea data add kdd99 DIR"):
        load_dataset("kdd99")
    add_dataset("kdd99", folder)
    assert len(load_dataset("kdd99").train) == 2


def test_a_failed_registration_leaves_the_one_before(tmp_path: Path) -> None:
    add_dataset("kdd99", _write_kdd(tmp_path / "good", kdd_lines("normal.", "smurf.")))
    with pytest.raises(LabelError):
        add_dataset("kdd99", _write_kdd(tmp_path / "bad", kdd_lines("normal.", "strange.")))
    assert len(load_dataset("kdd99").train) == 2


def test_registering_at_once_leaves_one_whole_copy(tmp_path: Path, own_home: Path) -> None:
    folders = [_write_kdd(tmp_path / f"k{n}", kdd_lines(*["normal."] * n, "smurf.")) for n in range(1, 7)]
    with ThreadPoolExecutor(4) as pool:
        registrations = list(pool.map(lambda folder: add_dataset("kdd99", folder), folders))
    current = installed_datasets()["kdd99"]
    assert current in registrations
    assert current is not None
    assert len(load_dataset("kdd99").train) + 2 == current.rows


SHAPES = {
    "kdd99": (494_021, 311_029, 41, ("benign", "dos", "probe", "u2r", "r2l")),
    "nsl-kdd": (125_973, 22_544, 41, ("benign", "dos", "probe", "u2r", "r2l")),
    "cicids17": (116_934, None, 76, ("benign", "dos", "ddos", "brute_force", "port_scan", "botnet", "web_attack")),
    "cicids17-improved": (56_277, None, 82, ("benign", "dos", "ddos", "brute_force", "port_scan", "botnet")),
    "cicids18": (5_594, None, 77, ("benign", "brute_force")),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SHAPES)
def test_real_data_sets_load(data_root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    data, (n_train, n_test, n_features, classes) = load_dataset(name), SHAPES[name]
    assert len(data.train) == n_train
    assert (data.test and len(data.test)) == n_test
    assert data.train.features.width == n_features
    assert data.classes[: len(classes)] == classes
    assert data.train.classes.null_count() == 0


@pytest.mark.data
def test_nsl_kdd_has_its_extra_table(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    data = load_dataset("nsl-kdd")
    assert {name: len(flows) for name, flows in data.extras.items()} == {"KDDTest-21": 11_850}
    assert "difficulty" in data.train.table.columns
    assert "difficulty" not in data.train.features.columns


@pytest.mark.data
def test_the_paper_taxonomy_gives_the_papers_test_counts(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    test = load_dataset("kdd99", taxonomy="paper").test
    assert test is not None
    counts = [int((test.classes == name).sum()) for name in test.class_order]
    assert counts == [60_593, 231_455, 4_166, 245, 14_570]


@pytest.mark.data
def test_the_corrected_flows_keep_addresses_and_microseconds(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPIDEA_DATA", str(data_root))
    data = load_dataset("cicids17-improved")
    rows = np.flatnonzero((data.train.labels == "Web Attack - Sql Injection").to_numpy())
    table = data.train.take(rows).table
    assert set(table["src_ip"]) == {"172.16.0.1"}
    assert table["timestamp"].dt.microsecond().max() != 0
    assert "protocol" in data.schema.categories
