"""The command line end to end, on small invented flows and on small files in the official formats."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from deepidea.flows.datasets.specs import get_dataset_spec
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from tests.conftest import Command
from tests.flows.datasets.test_download import Publisher, publisher  # noqa: F401 - a fixture
from tests.flows.datasets.test_loading import REQUIRED

TABLE = ("--label", "label", "--benign", "benign")
SCORES = {"cba", "macro_f1", "accuracy", "detection_rate", "false_alarm_rate", "per_class"}
CLASSES = ["benign", "beacon", "brute_force", "exfiltration", "port_scan", "syn_flood"]


def deepidea(*argv: object, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    line = [sys.executable, "-m", "deepidea.cli.app", *map(str, argv)]
    return subprocess.run(line, input=stdin, capture_output=True, check=False, timeout=120, env={**os.environ, **more})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no data set is registered."""
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPIDEA_DATA", raising=False)
    return tmp_path / "home"


def kdd_rows(n_rows: int, *labels: str, shift: int = 0) -> str:
    """Rows of a KDD Cup file: no header, 41 features, a label with a final dot."""

    def row(j: int) -> str:
        kind = j % len(labels)
        return f"{j % 7},{('tcp', 'udp', 'icmp')[j % 3]},http,SF,{j + shift},{100 * kind}{',0' * 35},{labels[kind]}."

    rows = (row(j) for j in range(n_rows))
    return "\n".join(rows) + "\n"


@pytest.fixture
def kdd_folder(tmp_path: Path) -> Path:
    """A pair of official-format files, 60 flows and 40."""
    folder = tmp_path / "kdd"
    folder.mkdir()
    train = kdd_rows(60, "normal", "smurf", "neptune", "portsweep")
    (folder / "kddcup.data_10_percent.gz").write_bytes(gzip.compress(train.encode()))
    (folder / "corrected").write_text(kdd_rows(40, "normal", "smurf", "portsweep", shift=40))
    return folder


# --- train, evaluate, inspect ------------------------------------------------------------------------------------


def test_train_evaluate_and_inspect_a_table(command: Command, flow_file: Path, tmp_path: Path, tiny_presets: None):
    model, scores, page = tmp_path / "m.idea", tmp_path / "s.json", tmp_path / "r.html"
    trained = command("train", flow_file, *TABLE, "-o", model, "--seed", 1)
    assert trained.code == 0, trained.err
    assert "training on 1,250 flows of site.csv: benign 1,055" in trained.err
    assert f"next: deepidea evaluate {model} {flow_file}\n" in trained.err
    assert "epoch" in trained.err
    evaluated = command("evaluate", model, flow_file, "--json", scores, "--report", page)
    assert evaluated.code == 0, evaluated.err
    assert "class-balanced" in evaluated.out
    assert json.loads(scores.read_text())["data"]["rows"] in range(200, 251)  # a sixth, but for twins
    assert page.read_text().startswith("<!doctype html>")


def test_the_json_of_an_evaluation_has_the_promised_keys(
    command: Command, model_file: Path, flow_file: Path, tmp_path: Path
):
    assert command("evaluate", model_file, flow_file, "--json", tmp_path / "s.json").code == 0
    written = json.loads((tmp_path / "s.json").read_text())
    assert set(written) >= SCORES | {"subsets", "data", "model"}
    assert list(written["per_class"]) == CLASSES
    assert all({"precision", "recall", "f1", "support"} <= set(of) for of in written["per_class"].values())
    assert set(written["subsets"]) == {"all", "distinct", "unseen"}
    for subset in written["subsets"].values():
        assert set(subset) >= SCORES
        assert list(subset["per_class"]) == CLASSES
    assert written["subsets"]["all"]["cba"] == written["cba"]


def test_a_table_is_trained_on_in_shards(command: Command, flow_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.idea"
    ran = command("train", flow_file, *TABLE, "-o", model, "--seed", 1, "--shards", 3, "--epochs", 1)
    assert ran.code == 0, ran.err
    assert "distinct rows in 3 shards" in ran.err
    assert command("score", model, flow_file, "-o", tmp_path / "v.parquet").code == 0


@pytest.mark.parametrize(
    "more", [("--split", "stratified"), ("--continue", "x.idea"), ("--taxonomy", "x"), ("--port",), ("--labels",)]
)
def test_what_does_not_go_with_shards_is_refused(command: Command, flow_file: Path, tmp_path: Path, more) -> None:
    ran = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea", "--shards", 3, *more)
    assert ran.code == 3
    assert f"{more[0]} cannot be combined with --shards" in ran.err


def test_a_data_set_in_shards_is_refused(command: Command, tmp_path: Path) -> None:
    ran = command("train", "kdd99", "-o", tmp_path / "m.idea", "--shards", 3)
    assert (ran.code, "leave --shards out" in ran.err) == (3, True)


def test_a_folder_for_shards_must_be_there(command: Command, flow_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    ran = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea", "--shards", 3)
    assert (ran.code, "TMPDIR is " in ran.err) == (3, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_shards_go_where_training_is_ended(
    command: Command, flow_file: Path, tmp_path: Path, monkeypatch, number: signal.Signals
) -> None:
    def end(*_: object, **__: object) -> None:
        assert list((tmp_path / "t").glob("deepidea-shards-*/*.parquet"))
        os.kill(os.getpid(), number)

    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setattr("deepidea.model.presets.train_on_shards", end)
    ran = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea", "--shards", 3)
    assert ran.code == 128 + number
    assert not list((tmp_path / "t").iterdir())


def test_shards_go_where_training_is_ended_while_they_go(
    command: Command, flow_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def remove(*given: object, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        rmtree(*given, **more)

    rmtree = shutil.rmtree
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setattr("deepidea.model.presets.train_on_shards", end)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea", "--shards", 3).code == 130
    assert not list((tmp_path / "t").iterdir())


def test_options_of_training_reach_the_model_card(
    command: Command, flow_file: Path, tmp_path: Path, tiny_presets: None
):
    model = tmp_path / "m.idea"
    options = ("--preset", "paper", "--attack-weight", 3, "--epochs", 1, "--threads", 1, "--seed", 9, "--split", "none")
    assert command("train", flow_file, *TABLE, "-o", model, "--keep", "dst_port", *options).code == 0
    shown = command("inspect", model, "--json")
    card = json.loads(shown.out)
    training = card["training"]
    assert (training["preset"], training["random_state"], training["n_threads"]) == ("paper", 9, 1)
    assert training["parameters"]["attack_weight"] == 3.0
    assert len(training["epochs"]) == 1
    assert (card["data"]["split"], card["data"]["rows"]) == ({"kind": "none"}, 1500)
    assert card["schema"]["use_port"] is True


@pytest.mark.parametrize(("options", "loss"), [((), "attack-sharing"), (("--loss", "focal"), "focal")])
def test_the_loss_is_the_presets_unless_one_is_named(
    command: Command, flow_file: Path, tmp_path: Path, tiny_presets: None, options: tuple[str, ...], loss: str
):
    model = tmp_path / "m.idea"
    trained = command("train", flow_file, *TABLE, "-o", model, "--seed", 1, *options)
    assert trained.code == 0, trained.err
    assert f"loss={loss}," in trained.out
    card = json.loads(command("inspect", model, "--json").out)
    assert card["training"]["parameters"]["loss"] == loss


def test_the_command_line_knows_every_loss_and_no_other(command: Command, flow_file: Path, tmp_path: Path):
    from deepidea.cli.train import Loss
    from deepidea.model.losses import LOSSES

    assert get_args(Loss) == tuple(LOSSES)
    refused = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea", "--loss", "fokal")
    assert refused.code == 2
    assert "'focal'" in refused.err


def test_columns_that_are_refused_are_listed(command: Command, flow_file: Path, tmp_path: Path, tiny_presets: None):
    path = tmp_path / "t.csv"
    pl.read_csv(flow_file).with_row_index("flow_id").write_csv(path)
    printed = command("train", path, *TABLE, "-o", tmp_path / "m.idea").err
    assert "not a feature: flow_id: a row number or identifier, by its name\n" in printed


def test_inspect_shows_the_card(command: Command, model_file: Path):
    shown = command("inspect", model_file)
    assert shown.code == 0
    for word in ("DeepIDEA detector", "custom", "site.csv", "stratified", "log-z-score", "softmax(z", "port_scan"):
        assert word in shown.out


def test_a_detector_without_a_card_is_inspected_and_evaluated(command: Command, flow_file: Path, tmp_path: Path):
    from deepidea.model.estimators import DeepIDEAClassifier

    table = pl.read_csv(flow_file)
    classifier = DeepIDEAClassifier(hidden=(4,), min_steps=5, n_epochs=1, random_state=0)
    classifier.fit(table.drop("label"), table["label"].to_numpy()).to_detector().save(tmp_path / "m.idea")
    assert command("inspect", tmp_path / "m.idea").code == 0
    assert command("evaluate", tmp_path / "m.idea", flow_file).code == 3
    assert command("evaluate", tmp_path / "m.idea", flow_file, *TABLE).code == 0


# --- score -------------------------------------------------------------------------------------------------------

READERS = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}


@pytest.mark.parametrize("format", READERS)
def test_verdicts_come_in_every_format(
    command: Command, model_file: Path, flow_file: Path, tmp_path: Path, format: str
):
    path = tmp_path / f"v.{format}"
    ran = command("score", model_file, flow_file, "-o", path)
    assert ran.code == 0
    assert f"scored 1,500 flows into {path}\n" in ran.err
    verdicts = READERS[format](path)
    assert verdicts.height == 1500
    assert verdicts.columns == ["class", "score", *(f"p_{name}" for name in CLASSES), "anomaly", "unknown"]
    assert set(verdicts["class"]) <= set(CLASSES)


def test_the_format_may_be_named(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    assert command("score", model_file, flow_file, "-o", tmp_path / "verdicts", "--format", "jsonl").code == 0
    assert pl.read_ndjson(tmp_path / "verdicts").height == 1500


def test_columns_are_kept_beside_their_verdicts(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    command("score", model_file, flow_file, "-o", tmp_path / "v.csv", "--keep-columns")
    table, kept = pl.read_csv(flow_file), pl.read_csv(tmp_path / "v.csv")
    assert kept.select(table.columns).equals(table)
    assert kept.columns[: table.width + 2] == [*table.columns, "class", "score"]


def test_several_files_are_one_stream(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    table = pl.read_csv(flow_file)
    table[:700].write_csv(tmp_path / "day-1.csv")
    table[700:].write_parquet(tmp_path / "day-2.parquet")
    command("score", model_file, flow_file, "-o", tmp_path / "one.csv")
    assert command("score", model_file, tmp_path / "day-*", "-o", tmp_path / "two.csv").code == 0
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_bad_rows_are_skipped_and_counted(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    lines = flow_file.read_text().splitlines()
    lines[3] = lines[3].replace(",udp,", ",udp").replace(",tcp,", ",tcp")
    lines[5] = ",".join([lines[5].split(",")[0], "soon", *lines[5].split(",")[2:]])
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    ran = command("score", model_file, tmp_path / "t.csv", "-o", tmp_path / "v.csv", "--on-error", "skip")
    assert ran.code == 0
    assert "2 rows skipped: " in ran.err
    assert "1 x duration_s is not a number" in ran.err
    assert pl.read_csv(tmp_path / "v.csv").height == 1498


def test_no_flows_are_no_verdicts(command: Command, model_file: Path, flow_file: Path, tmp_path: Path):
    (tmp_path / "t.csv").write_text(flow_file.read_text().splitlines()[0] + "\n")
    for more in ((), ("--keep-columns",)):
        ran = command("score", model_file, tmp_path / "t.csv", "-o", tmp_path / "v.csv", *more)
        assert (ran.code, "scored 0 flows" in ran.err) == (0, True)
        assert pl.read_csv(tmp_path / "v.csv").columns[:2] == ["class", "score"]


def test_standard_input_and_output(model_file: Path, flow_file: Path):
    ran = deepidea("score", model_file, "-", "-o", "-", stdin=flow_file.read_bytes())
    assert ran.returncode == 0, ran.stderr
    assert pl.read_csv(io.BytesIO(ran.stdout)).height == 1500
    assert b"scored 1,500 flows" in ran.stderr


def test_headerless_files_and_streams(
    command: Command, home: Path, kdd_folder: Path, tmp_path: Path, tiny_presets: None
):
    assert command("data", "add", "kdd99", kdd_folder).code == 0
    assert command("train", "kdd99", "-o", tmp_path / "k.idea", "--seed", 0).code == 0
    rows = kdd_rows(50, "normal", "smurf").encode()
    (tmp_path / "rows.gz").write_bytes(gzip.compress(rows))
    ran = command(
        "score", tmp_path / "k.idea", tmp_path / "rows.gz", "--no-header", "--keep-columns", "-o", tmp_path / "v.csv"
    )
    assert ran.code == 0, ran.err
    verdicts = pl.read_csv(tmp_path / "v.csv")
    assert verdicts.columns[:42] == [*get_schema("kdd99").features, "extra_1"]
    assert verdicts.height == 50
    for stream in (rows, gzip.compress(rows)):
        piped = deepidea("score", tmp_path / "k.idea", "-", "--no-header", "-o", "-", stdin=stream)
        assert piped.stdout.decode().splitlines()[1:] == [
            ",".join(line.split(",")[42:]) for line in (tmp_path / "v.csv").read_text().splitlines()[1:]
        ]


# --- data sets ---------------------------------------------------------------------------------------------------


def test_a_data_set_is_added_listed_and_described(command: Command, home: Path, kdd_folder: Path):
    assert "not registered" in command("data", "list").out
    added = command("data", "add", "kdd99", kdd_folder)
    assert "registered kdd99: 100 flows of 2 files\n" in added.err
    listed = [line for line in command("data", "list").out.splitlines() if line.startswith("kdd99")]
    assert "100" in listed[0]
    described = command("data", "describe", "kdd99")
    assert (described.code, "benign" in described.out, "smurf" in described.out) == (0, True, True)


def test_the_json_of_a_description(command: Command, home: Path, kdd_folder: Path):
    command("data", "add", "kdd99", kdd_folder)
    written = json.loads(command("data", "describe", "kdd99", "--json").out)
    assert (written["name"], written["taxonomy"], written["n_features"]) == ("kdd99", "official", 41)
    assert written["train"]["classes"] == {"benign": 15, "dos": 30, "probe": 15}
    assert written["test"]["rows"] == 40
    assert written["quirks"] == {"labels_with_final_dot": 100}
    assert [file["role"] for file in written["files"]] == ["train", "test"]


def test_a_data_set_is_trained_on_and_evaluated_by_name(
    command: Command, home: Path, kdd_folder: Path, tmp_path: Path, tiny_presets: None
):
    command("data", "add", "kdd99", kdd_folder)
    model = tmp_path / "k.idea"
    assert command("train", "kdd99", "-o", model, "--seed", 0).code == 0
    assert command("evaluate", model, "kdd99", "--json", tmp_path / "s.json").code == 0
    written = json.loads((tmp_path / "s.json").read_text())
    assert (written["data"]["source"], written["data"]["rows"]) == ("kdd99/test", 40)
    assert written["model"]["data"]["split"] == {"kind": "official"}
    assert written["per_class"]["dos"]["support"] == 13


def test_data_come_from_another_address(
    command: Command,
    home: Path,
    publisher: Publisher,  # noqa: F811
    tmp_path: Path,
):
    day = "dst_port,timestamp," + ",".join(REQUIRED) + ",Label\n"
    day += ("80,14/02/2018 10:00:00" + ",1" * len(REQUIRED) + ",Benign\n") * 2
    for name in get_dataset_spec("cicids18").downloads:
        publisher.files[f"/{name}"] = day.encode()
    ran = command("data", "get", "cicids18", "--folder", tmp_path / "files", "--base", publisher.address)
    assert ran.code == 0, ran.err
    assert "registered cicids18: 20 flows of 10 files\n" in ran.err
    assert len(list((tmp_path / "files").iterdir())) == 10


@pytest.mark.data
def test_the_facts_of_nsl_kdd(command: Command, home: Path, data_root: Path):
    assert (
        "registered nsl-kdd: 160,367 flows of 3 files\n" in command("data", "add", "nsl-kdd", data_root / "nsl-kdd").err
    )
    written = json.loads(command("data", "describe", "nsl-kdd", "--json").out)
    assert (written["train"]["rows"], written["test"]["rows"]) == (125_973, 22_544)
    assert written["train"]["classes"] == {"benign": 67_343, "dos": 45_927, "probe": 11_656, "u2r": 52, "r2l": 995}
    assert written["extras"]["KDDTest-21"]["rows"] == 11_850
    assert len(written["split"]["new_labels"]) == 17
    shown = command("data", "describe", "nsl-kdd").out
    assert "17 labels occur only in the test, 3,750 flows" in shown


# --- the command itself ------------------------------------------------------------------------------------------


def test_version_and_help_of_every_command(command: Command):
    assert command("--version").out.startswith("deepidea ")
    for name in ((), ("train",), ("evaluate",), ("score",), ("inspect",), ("data",), ("data", "get")):
        shown = command(*name, "--help")
        assert (shown.code, "Usage" in shown.out) == (0, True)


@pytest.mark.parametrize(
    "argv",
    [
        ("score",),
        ("train", "t.csv", "-o", "m.idea", "--epochs", "0"),
        ("train", "t.csv", "-o", "m.idea", "--threads", "0"),
        ("train", "t.csv", "-o", "m.idea", "--seed", "-1"),
        ("train", "t.csv", "-o", "m.idea", "--seed", "4294967296"),
        ("train", "t.csv", "-o", "m.idea", "--attack-weight", "-1"),
        ("train", "t.csv", "-o", "m.idea", "--device", "tpu"),
        ("train", "t.csv", "-o", "m.idea", "--preset", "best"),
        ("data", "add", "kdd99", ".", "--training", "most"),
        ("conjure",),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(command: Command, argv: tuple[str, ...]):
    assert command(*argv).code == 2


def test_exit_codes_of_the_process(model_file: Path, flow_file: Path, tmp_path: Path):
    verdicts = tmp_path / "v.csv"
    assert deepidea("score", model_file, tmp_path / "absent.csv", "-o", verdicts).returncode == 3
    assert deepidea("inspect", flow_file).returncode == 4
    refused = deepidea("score", model_file, flow_file, "-o", tmp_path / "absent" / "v.csv")
    assert refused.returncode == 5
    assert refused.stderr.decode().strip().startswith("error: ")
    assert b"Traceback" not in refused.stderr


def _training(flow_file: Path, model: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "deepidea.cli.app", "train", flow_file, *TABLE, "-o", model, "--epochs", "5000"]
    return subprocess.Popen(
        [*map(str, line), "--threads", "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_an_interruption_after_an_epoch_writes_the_model(command: Command, flow_file: Path, tmp_path: Path):
    with _training(flow_file, tmp_path / "m.idea") as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "1/5000" in line)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    card = json.loads(command("inspect", tmp_path / "m.idea", "--json").out)
    assert card["training"]["interrupted"] is True
    assert 1 <= len(card["training"]["epochs"]) < 5000


@pytest.mark.parametrize("more", [(), ("what is measured is kept",)])
def test_an_interruption_before_leaves_the_old_file_and_is_exit_code_130(
    command: Command, flow_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
):
    def interrupted(*_flows: object, **_options: object) -> None:
        raise KeyboardInterrupt(*more)

    monkeypatch.setattr("deepidea.model.presets.train_detector", interrupted)
    (tmp_path / "m.idea").write_text("old")
    ran = command("train", flow_file, *TABLE, "-o", tmp_path / "m.idea")
    assert (ran.code, ran.err.splitlines()[-1]) == (130, ": ".join(["interrupted", *more]))
    assert (tmp_path / "m.idea").read_text() == "old"


def test_a_reader_that_leaves_early_is_no_traceback(model_file: Path, tmp_path: Path):
    simulate_flows(n_flows=30_000).write_parquet(tmp_path / "t.parquet")
    line = [sys.executable, "-m", "deepidea.cli.app", "score", str(model_file), str(tmp_path / "t.parquet"), "-o", "-"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        printed = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 5
    assert b"Traceback" not in printed
