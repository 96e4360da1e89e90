"""Bad input of every kind: the rule, the fact, what to do; which file, line or column; the exit code; what is left."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.flows.datasets.specs import get_dataset_spec
from deepidea.flows.simulate import simulate_flows
from tests.conftest import Command, Ran
from tests.flows.datasets.test_download import Publisher, publisher  # noqa: F401 - a fixture
from tests.flows.datasets.test_loading import REQUIRED

TABLE = ("--label", "label", "--benign", "benign")


def site(n_flows: int = 300, seed: int = 0) -> pl.DataFrame:
    return simulate_flows(n_flows=n_flows, seed=seed)


def check_error(ran: Ran, code: int, message: str) -> None:
    """Check the exit code, and that the one line of the error matches; there is never a traceback."""
    assert "Traceback" not in ran.err
    assert ran.code == code, ran.err
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a file broken in a named way."""

    def write(what: str) -> Path:
        suffix = ".csv.gz" if "gzip" in what else ".parquet" if "Parquet" in what else ".csv"
        path = tmp_path / f"flows{suffix}"
        BROKEN[what](path)
        return path

    return write


def _cell(path: Path, value: str) -> None:
    lines = site().write_csv().splitlines(keepends=True)
    cells = lines[7].split(",")
    lines[7] = ",".join([*cells[:6], value, *cells[7:]])
    path.write_text("".join(lines))


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "empty": lambda path: path.write_text(""),
    "blank": lambda path: path.write_text("\n\n"),
    "another header": lambda path: path.write_text("time,host,message\n1,2,3\n"),
    "no header": lambda path: site().drop("label").write_csv(path, include_header=False),
    "a missing column": lambda path: site().drop("fwd_bytes").write_csv(path),
    "a doubled column": lambda path: path.write_text(site().write_csv().replace("label", "fwd_bytes", 1)),
    "text in a number": lambda path: _cell(path, "many"),
    "a short row": lambda path: path.write_text(site().write_csv() + "80,1.5,tcp\n"),
    "truncated gzip": lambda path: path.write_bytes(gzip.compress(site().write_csv().encode())[:-40]),
    "no gzip": lambda path: path.write_text("a,b\n1,2\n"),
    "truncated Parquet": lambda path: (site().write_parquet(path), path.write_bytes(path.read_bytes()[:-100])),
    "no Parquet": lambda path: path.write_text("a,b\n1,2\n"),
    "a folder without tables": lambda path: path.mkdir(),
}

SCORED = {
    "missing": r"cannot read .*flows\.csv: it does not exist; check the path",
    "empty": r"cannot read .*flows\.csv: it is empty",
    "blank": r"cannot read .*flows\.csv: it is empty",
    "another header": r"flows\.csv: .* 8 features, 8 missing: ",
    "no header": r"cannot read .*flows\.csv: its first line is mostly numbers",
    "a missing column": r"flows\.csv: .* 8 features, 1 missing: fwd_bytes",
    "a doubled column": r"flows\.csv: fwd_bytes of schema .* twice",
    "text in a number": r"cannot read .*flows\.csv, line 8: fwd_bytes 'many' is not a number; fix it",
    "a short row": r"flows\.csv, line 302: 3 cells instead of 10 in '80,1\.5,tcp'",
    "truncated gzip": r"cannot read .*flows\.csv\.gz: it is damaged or truncated .*; fetch it again",
    "no gzip": r"cannot read .*flows\.csv\.gz: a gzip file begins with 1f 8b, this one with b'a,b",
    "truncated Parquet": r"cannot read .*flows\.parquet: ",
    "no Parquet": r"cannot read .*flows\.parquet: a Parquet file begins with PAR1, this one with b'a,b",
    "a folder without tables": r"cannot read .*flows\.csv: it has no file that ends in \.csv",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_scored_is_reported_and_leaves_the_old_verdicts(
    command: Command, model_file: Path, broken: Callable[[str], Path], tmp_path: Path, what: str
):
    verdicts = tmp_path / "verdicts.parquet"
    verdicts.write_text("old")
    path = broken(what)
    before = sorted(tmp_path.iterdir())
    check_error(command("score", model_file, path, "-o", verdicts), 3, SCORED[what])
    assert verdicts.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == before


TRAINED = {
    **{
        what: SCORED[what]
        for what in ("missing", "empty", "blank", "truncated gzip", "truncated Parquet", "a short row")
    },
    "another header": "no label column 'label'; its columns: time, host, message",
    "no header": "no label column 'label'",
    "a doubled column": "no label column 'label'",
    "text in a number": r"flows\.csv row 7, column fwd_bytes: fwd_bytes='many' stands among numbers; correct 1",
}


@pytest.mark.parametrize("what", TRAINED)
def test_what_cannot_train_is_reported(command: Command, broken: Callable[[str], Path], tmp_path: Path, what: str):
    check_error(command("train", broken(what), *TABLE, "-o", tmp_path / "m.idea"), 3, TRAINED[what])
    assert not (tmp_path / "m.idea").exists()


EVALUATED = {
    "text in a number": r"flows\.csv: row 7: fwd_bytes 'many' is not a number",
    "a missing column": r"flows\.csv: .* 8 features, 1 missing: fwd_bytes",
    "another header": r"flows\.csv has no label column 'label'",
    "truncated gzip": SCORED["truncated gzip"],
    "missing": SCORED["missing"],
}


@pytest.mark.parametrize("what", EVALUATED)
def test_what_cannot_be_evaluated_is_reported(
    command: Command, model_file: Path, broken: Callable[[str], Path], what: str
):
    check_error(command("evaluate", model_file, broken(what)), 3, EVALUATED[what])


# --- what is harmless --------------------------------------------------------------------------------------------


def test_extra_columns_and_another_order_are_harmless(command: Command, model_file: Path, tmp_path: Path):
    site().write_csv(tmp_path / "plain.csv")
    extra = site().with_columns(note=pl.lit("x"), src_ip=pl.lit("10.0.0.1"))
    extra.select(extra.columns[::-1]).write_csv(tmp_path / "extra.csv")
    for name in ("plain", "extra"):
        assert command("score", model_file, tmp_path / f"{name}.csv", "-o", tmp_path / f"{name}.parquet").code == 0
    assert (tmp_path / "plain.parquet").read_bytes() == (tmp_path / "extra.parquet").read_bytes()


@pytest.mark.parametrize("value", ["NaN", "nan", "Infinity", "-inf", "", "  ", "1e300"])
def test_odd_numbers_are_scored_trained_on_and_evaluated(
    command: Command, model_file: Path, tmp_path: Path, tiny_presets: None, value: str
):
    _cell(tmp_path / "t.csv", value)
    assert command("score", model_file, tmp_path / "t.csv", "-o", tmp_path / "v.parquet").code == 0
    verdicts = pl.read_parquet(tmp_path / "v.parquet")
    assert verdicts.height == 300
    assert verdicts["score"].is_finite().all()
    assert command("evaluate", model_file, tmp_path / "t.csv").code == 0
    site(900).write_csv(tmp_path / "more.csv")
    trained = command(
        "train", tmp_path / "t.csv", tmp_path / "more.csv", *TABLE, "-o", tmp_path / "m.idea", "--seed", 0
    )
    assert trained.code == 0, trained.err


# --- labels ------------------------------------------------------------------------------------------------------


def relabelled(path: Path, **labels: pl.Expr) -> Path:
    site().with_columns(**labels).write_csv(path)
    return path


FIRST = pl.int_range(pl.len()) == 0
LABELS = {
    "one row of a class": (
        {"label": pl.when(FIRST).then(pl.lit("worm")).otherwise("label")},
        r"column label has one flow each of (.*, )?worm, .* drop",
    ),
    "a single class": ({"label": pl.lit("benign")}, "column label has no value but 'benign'; add flows of an attack"),
    "no benign value": (
        {"label": pl.col("label").replace("benign", "benignn")},
        "column label has no benign value 'benign'; nearest: benignn; its values: ",
    ),
    "a flow without a label": (
        {"label": pl.when(FIRST).then(None).otherwise("label")},
        r"1 flows have no label \(first: row 1, column label\); drop those rows",
    ),
    "two spellings of benign": (
        {"label": pl.when(FIRST).then(pl.lit("BENIGN")).otherwise("label")},
        "column label has one flow each of",
    ),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_cannot_train_are_reported(command: Command, tmp_path: Path, what: str):
    labels, message = LABELS[what]
    path = relabelled(tmp_path / "t.csv", **labels)
    check_error(command("train", path, *TABLE, "-o", tmp_path / "m.idea"), 3, message)
    assert not (tmp_path / "m.idea").exists()


def test_a_label_column_that_is_not_there_is_reported(command: Command, tmp_path: Path):
    path = relabelled(tmp_path / "t.csv")
    ran = command("train", path, "--label", "lable", "--benign", "benign", "-o", tmp_path / "m.idea")
    check_error(ran, 3, "no label column 'lable'; nearest: label; its columns: dst_port")


def test_a_table_without_label_options_is_reported(command: Command, tmp_path: Path):
    path = relabelled(tmp_path / "t.csv")
    check_error(command("train", path, "-o", tmp_path / "m.idea"), 3, "give --label COLUMN and --benign VALUE")


def test_an_unknown_class_at_evaluation_is_reported(command: Command, model_file: Path, tmp_path: Path):
    path = relabelled(tmp_path / "t.csv", **LABELS["one row of a class"][0])
    message = r"was not trained on 'worm' \(1 rows\), only on benign, beacon, .*; choose its taxonomy"
    check_error(command("evaluate", model_file, path), 3, message)


def test_an_official_split_of_a_table_is_reported(command: Command, tmp_path: Path):
    ran = command("train", relabelled(tmp_path / "t.csv"), *TABLE, "--split", "official", "-o", tmp_path / "m.idea")
    check_error(ran, 3, "cannot split a table official: only data sets can; use stratified")


@pytest.mark.parametrize(
    "argv", [("train", "kdd9", "-o", "m.idea"), ("data", "describe", "kdd9"), ("data", "get", "kdd9")]
)
def test_an_unknown_data_set_is_reported(command: Command, argv: tuple[str, ...], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_error(command(*argv), 3, "unknown data set 'kdd9'; nearest: kdd99; choose one of: kdd99, ")


def test_an_unregistered_data_set_is_reported(command: Command, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path))
    monkeypatch.delenv("DEEPIDEA_DATA", raising=False)
    check_error(command("train", "kdd99", "-o", tmp_path / "m.idea"), 3, "run 'deepidea data add kdd99 DIR'")


# --- detector files ----------------------------------------------------------------------------------------------


def _pickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(path) + ".exploded",)

    path.write_bytes(pickle.dumps(Bomb()))


def _edited(path: Path, edit: Callable[[dict[str, object]], None]) -> None:
    """Change the manifest and leave all hashes as they were."""
    with zipfile.ZipFile(path) as archive:
        members, comment = {name: archive.read(name) for name in archive.namelist()}, archive.comment
    manifest = json.loads(members["manifest.json"])
    edit(manifest)
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for name, data in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, data)


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: path.unlink(), r"m\.idea: no such file; train one first"),
    "empty": (lambda path: path.write_bytes(b""), r"cannot read detector file .*m\.idea as a zip"),
    "cut off": (
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        r"cannot read detector file .*m\.idea as a zip: .*; get a fresh copy",
    ),
    "a bit flipped": (_flipped, r"m\.idea"),
    "another class": (
        lambda path: _edited(path, lambda m: m.update(classes=["x"])),
        r"m\.idea was changed: manifest\.json",
    ),
    "a pickle": (_pickled, "is a Python pickle, which could run any code when loaded"),
    "a table": (lambda path: site().write_csv(path), r"cannot read detector file .*m\.idea as a zip"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), r"m\.idea"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_detector_file_is_reported(
    command: Command, model_file: Path, flow_file: Path, tmp_path: Path, what: str
):
    damage, message = DAMAGE[what]
    path = Path(shutil.copy(model_file, tmp_path / "m.idea"))
    damage(path)
    check_error(command("inspect", path), 4, message)
    check_error(command("score", path, flow_file, "-o", tmp_path / "v.csv"), 4, message)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"m.idea"}


def test_a_detector_of_another_schema_is_reported(command: Command, model_file: Path, tmp_path: Path):
    from tests.model.conftest import simulated_flows

    simulated_flows(50)[0].write_csv(tmp_path / "t.csv")
    ran = command("score", model_file, tmp_path / "t.csv", "-o", tmp_path / "v.csv")
    check_error(ran, 3, r"t\.csv: schema custom has 8 features, 7 missing: duration_s")


# --- what the system refuses -------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from deepidea.cli import app as cli
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
sys.argv = {1!r}
cli.main()
"""


def with_a_full_disk(room: int, *argv: object) -> Ran:
    """Run a command in a process that can write no file larger than `room` bytes."""
    script = LIMITED.format(room, ["deepidea", *map(str, argv)])
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_disk_that_fills_up_while_scoring_leaves_the_old_verdicts(
    model_file: Path, flow_file: Path, tmp_path: Path, suffix: str
):
    verdicts = tmp_path / f"v.{suffix}"
    verdicts.write_text("old")
    ran = with_a_full_disk(8_000, "score", model_file, flow_file, "-o", verdicts)
    check_error(ran, 5, rf"cannot write .*v\.{suffix}: File too large; an older file there is unchanged; free")
    assert verdicts.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [verdicts.name]


def test_a_disk_that_fills_up_while_a_detector_is_written_leaves_the_old_one(
    command: Command, model_file: Path, flow_file: Path, tmp_path: Path
):
    path = Path(shutil.copy(model_file, tmp_path / "m.idea"))
    options = (*TABLE, "--epochs", 1, "--threads", 1, "-o", path)
    ran = with_a_full_disk(8_000, "train", flow_file, *options)
    check_error(ran, 5, r"cannot write .*m\.idea: File too large; an older file there is unchanged; free")
    assert path.read_bytes() == model_file.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.idea"]


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_disk_that_fills_up_leaves_the_old_evaluation(model_file: Path, flow_file: Path, tmp_path: Path, option: str):
    path = tmp_path / "evaluation"
    path.write_text("old")
    check_error(
        with_a_full_disk(2_000, "evaluate", model_file, flow_file, option, path), 5, "cannot write .*evaluation"
    )
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation"]


def test_a_disk_that_fills_up_leaves_no_half_registered_data_set(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    _cic18_day(tmp_path / "files" / "day.csv", 2000)
    check_error(with_a_full_disk(3_000, "data", "add", "cicids18", tmp_path / "files"), 5, "cannot write ")
    assert list((tmp_path / "home" / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    ("output", "fault"),
    [("absent/x.idea", "there is no folder .*absent"), (".", "it is a folder"), ("f/x", "there is no folder .*f")],
)
def test_an_output_that_cannot_be_is_reported_before_training(
    command: Command, tmp_path: Path, output: str, fault: str
):
    (tmp_path / "f").write_text("a file")
    ran = command("train", tmp_path / "never-read.csv", *TABLE, "-o", tmp_path / output)
    check_error(ran, 5, f"cannot write /.*: {fault}; choose another place")


def test_a_folder_that_may_not_be_written_to_is_reported_before_training(command: Command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    ran = command("train", tmp_path / "never-read.csv", *TABLE, "-o", tmp_path / "m.idea")
    check_error(ran, 5, "folder .* is not writable; choose another place")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_reported(
    command: Command, flow_file: Path, model_file: Path, tmp_path: Path
):
    tmp_path.chmod(0o500)
    ran = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea")
    check_error(ran, 5, "folder .* is not writable; choose another place")
    check_error(command("score", model_file, flow_file, "-o", tmp_path / "v.csv"), 5, "Permission denied")


def test_an_output_of_no_known_format_is_reported(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    ran = command("score", model_file, flow_file, "-o", tmp_path / "v.xlsx")
    check_error(ran, 3, r"cannot write '.*v\.xlsx': the format is none of parquet, csv, jsonl; choose another suffix")
    assert not list(tmp_path.iterdir())


# --- downloads ---------------------------------------------------------------------------------------------------


def _cic18_day(path: Path, n_rows: int = 50) -> bytes:
    rng = np.random.default_rng(0)
    lines = ["dst_port,timestamp," + ",".join(REQUIRED) + ",Label"]
    for cells in rng.integers(0, 10**6, (n_rows, len(REQUIRED))).tolist():
        lines.append("80,14/02/2018 10:00:00," + ",".join(map(str, cells)) + ",Benign")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(lines) + "\n")
    return path.read_bytes()


def test_an_interrupted_download_is_kept_and_resumed(
    command: Command,
    publisher: Publisher,  # noqa: F811
    tmp_path: Path,
    monkeypatch,
):
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    body, first = _cic18_day(tmp_path / "made" / "day.csv"), get_dataset_spec("cicids18").downloads[0]
    publisher.files = {f"/{name}": body for name in get_dataset_spec("cicids18").downloads}
    get = ("data", "get", "cicids18", "--folder", tmp_path / "files", "--base", publisher.address)
    publisher.drop_after = [10_000, 0]
    publisher.errors = []
    monkeypatch.setattr("deepidea.flows.datasets.download._is_passing", lambda _: False)
    message = rf"cannot download .*; 10,000 bytes are kept in .*{first}\.part: run the same command again"
    check_error(command(*get), 5, message)
    assert (tmp_path / "files" / f"{first}.part").read_bytes() == body[:10_000]
    publisher.drop_after = []
    ran = command(*get)
    assert ran.code == 0, ran.err
    assert publisher.asked[:2] == [None, "bytes=10000-"]
    assert (tmp_path / "files" / first).read_bytes() == body


def test_a_publisher_that_is_not_there_is_reported(command: Command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("deepidea.flows.datasets.download._is_passing", lambda _: False)
    ran = command("data", "get", "cicids18", "--folder", tmp_path, "--base", "http://127.0.0.1:9")
    check_error(ran, 5, "cannot download .*; check the address and the network")
    check_error(command("data", "get", "nsl-kdd", "--folder", tmp_path), 3, "on a page or by a form alone: https://")
