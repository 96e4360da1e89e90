from __future__ import annotations

import contextlib
import gzip
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark import cell as benchmark_cell
from deepidea.benchmark import runner as benchmark
from deepidea.benchmark.cell import decide, measure, read_record, write_record
from deepidea.benchmark.runner import Cell, choose_systems, make_grid, plan_run, read_records, run_cells
from deepidea.benchmark.systems import SYSTEMS, Predictions
from deepidea.errors import DataError, DatasetError, FileFormatError, LabelError
from deepidea.model.decision import Decision
from tests.benchmark.fake_worker import WORKER, FakeFitted, FakeSystem, deal

ROOT = Path(__file__).resolve().parents[2]


def cells(*systems: str, seeds: int = 1) -> list[Cell]:
    return [Cell("kdd99", "auto", system, seed) for seed in range(seeds) for system in systems]


def run(folder: Path, grid: list[Cell], *, retry: bool = False, **options):
    return run_cells(plan_run(grid, folder, retry=retry), folder, worker=WORKER, **options)


def put(folder: Path, *grid: Cell) -> list[Path]:
    """Write the records of cells, measured in this process."""
    for cell in grid:
        write_record(cell.path(folder), measure(cell))
    return [cell.path(folder) for cell in grid]


@pytest.fixture
def in_process(monkeypatch):
    """Measure with the invented systems in this process."""
    monkeypatch.setattr(benchmark_cell, "make_system", lambda name: FakeSystem(name))
    monkeypatch.setattr(benchmark_cell, "load_experiment", deal)


@pytest.fixture
def nap(monkeypatch, tmp_path):
    """Let `lstm` sleep, and tell where it writes its process id."""
    monkeypatch.setenv("FAKE_NAP_S", "60")
    monkeypatch.setenv("FAKE_PID_FILE", str(tmp_path / "pid"))
    return tmp_path / "pid"


def wait_for(truth, timeout_s: float = 60.0) -> None:
    deadline = time.perf_counter() + timeout_s
    while not truth():
        assert time.perf_counter() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


# --- which cells -------------------------------------------------------------------------------------------------


def test_names_groups_and_all_stand_for_systems():
    assert choose_systems(["all"]) == list(SYSTEMS)
    assert choose_systems(["trees"]) == [name for name, info in SYSTEMS.items() if info.group == "trees"]
    assert choose_systems(["deepidea", "deepidea", "tree:depth=3"]) == ["deepidea", "tree:depth=3"]
    with pytest.raises(DataError, match=r"unknown system 'forest'.*; choose one of majority"):
        choose_systems(["forest"])


def test_paths_of_cells_differ_and_are_plain_names():
    hostile = ["deepidea:a=1", "deepidea:a=1.0", "a/b", "a:b", "a@b", "..", ".", "x y", "ü", "%3A", "deepidea:s='a/b'"]
    paths = {Cell(name, "auto", "tree", 0).path(Path("out")) for name in hostile}
    assert len(paths) == len(hostile)
    assert all(path.parts[0] == "out" and len(path.parts) == 5 and ".." not in path.parts for path in paths)
    assert len({str(path).casefold() for path in paths}) == len(hostile)


def test_a_grid_is_every_combination_and_seeds_come_last(monkeypatch):
    monkeypatch.setattr(benchmark, "installed_datasets", lambda: {"kdd99": object(), "nsl-kdd": None})
    grid = make_grid(["kdd99"], ["auto", "stratified"], ["reference"], 2)
    assert [(c.protocol, c.seed, c.system) for c in grid][:3] == [
        ("auto", 0, "majority"),
        ("auto", 0, "one-rule"),
        ("auto", 1, "majority"),
    ]
    assert len(set(grid)) == 8
    assert make_grid(["kdd99@native"], ["auto"], ["tree"], 1)[0].data == "kdd99@native"
    with pytest.raises(DatasetError, match="nsl-kdd is not registered on this machine"):
        make_grid(["nsl-kdd"], ["auto"], ["tree"], 1)
    with pytest.raises(DataError, match="n_seeds must be at least 1, got 0"):
        make_grid(["kdd99"], ["auto"], ["tree"], 0)


# --- decisions and scores ----------------------------------------------------------------------------------------


def test_decisions_on_probabilities_of_labels():
    # outputs: benign, and two labels of one attack class, with priors that turn the verdicts round
    decision = Decision((0.90, 0.08, 0.02), temperature=3.0, tau=0.5, class_of=(0, 1, 1))
    stated = np.array([[0.6, 0.3, 0.1], [0.45, 0.3, 0.25], [0.99, 0.01, 0.0]], np.float32)
    verdicts = decide(Predictions(np.array([1, 0, 1]), stated, 1 - stated[:, 0].astype(float)), decision)
    assert verdicts["own"].tolist() == [1, 0, 1]
    assert verdicts["plain"].tolist() == [0, 1, 0]
    # 0.6/0.9 < 0.3/0.08 + 0.1/0.02; 0.99/0.9 = 1.1 > 0.01/0.08
    assert verdicts["corrected"].tolist() == [1, 1, 0]


def test_without_probabilities_there_is_nothing_to_correct():
    verdicts = decide(Predictions(np.array([1, 0]), None, np.array([3.0, -8.0])), Decision((0.5, 0.5)))
    assert {name: codes.tolist() for name, codes in verdicts.items()} == {"own": [1, 0], "plain": [1, 0]}


def test_a_record_has_scores_of_every_decision(in_process):
    record = measure(Cell("kdd99", "auto", "tree", 3))
    assert list(record["decisions"]) == ["own", "plain", "corrected"]
    own = record["decisions"]["own"]
    assert own["cba"] == pytest.approx(np.mean([of["recall"] for of in own["per_class"].values()]))
    assert record["rows"]["all"] == 300 > record["rows"]["distinct"] > record["rows"]["unseen"] > 0
    assert set(own["subsets"]) == {"distinct", "unseen"}
    assert sum(label["rows"] for label in record["labels"].values()) == 300
    assert (record["title"], record["group"], record["parameters"]) == ("decision tree", "paper", {"depth": 3})
    assert record["peak_memory_mib"] > 20
    assert set(record["times"]) == {"load_s", "fit_s", "predict_s", "cpu_s"}


def test_a_margin_ranks_but_is_no_probability(in_process):
    record = measure(Cell("kdd99", "auto", "svm", 0))
    own = record["decisions"]["own"]
    stated = measure(Cell("kdd99", "auto", "tree", 0))["decisions"]["own"]
    assert own["pr_auc"] == pytest.approx(stated["pr_auc"], abs=1e-3)
    assert own["attack_calibration_error"] is own["attack_brier"] is record["attack_reliability"] is None
    assert "corrected" not in record["decisions"]


def test_a_record_is_small_and_read_back_with_six_figures(in_process, tmp_path):
    record = measure(Cell("kdd99", "auto", "tree", 0))
    path = tmp_path / "seed-0.json"
    write_record(path, record)
    back = read_record(path)
    assert path.stat().st_size < 60_000
    assert len(back["curve"]["recall"]) <= benchmark_cell.CURVE_POINTS
    assert back["decisions"]["own"]["cba"] == pytest.approx(record["decisions"]["own"]["cba"], rel=1e-5)
    assert back["decisions"]["own"]["confusion"] == record["decisions"]["own"]["confusion"]


def test_records_of_an_earlier_release_are_read_under_present_names(in_process, tmp_path):
    record = measure(Cell("kdd99", "auto", "tree", 0))
    former = {"told" if name == "experiment" else name: value for name, value in record.items()}
    former["times"] = {name.replace("predict_s", "judge_s"): value for name, value in record["times"].items()}
    for name, one in (("former", former), ("present", record)):
        write_record(tmp_path / f"{name}.json", one)
    assert read_record(tmp_path / "former.json") == read_record(tmp_path / "present.json")


def test_a_class_that_training_does_not_show_is_refused(in_process, monkeypatch):
    experiment = deal("kdd99")
    short = replace(experiment, train=experiment.train.take((experiment.train.classes != "probe").to_numpy()))
    monkeypatch.setattr(benchmark_cell, "load_experiment", lambda *_, **__: short)
    with pytest.raises(LabelError, match=r"not trained on 'probe' .*, only on benign, dos"):
        measure(Cell("kdd99", "auto", "tree", 0))


def test_a_system_that_leaves_flows_out_is_refused(in_process, monkeypatch):
    whole = FakeFitted.predict
    monkeypatch.setattr(FakeFitted, "predict", lambda self, features: whole(self, features[1:]))
    with pytest.raises(DataError, match="299 verdicts on 300"):
        measure(Cell("kdd99", "auto", "tree", 0))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Expecting value"),
        ('{"format": 1, "status": "mea', "Unterminated"),
        ("[]", "object"),
        ('{"format": 2}', "status"),
        ('{"format": 1, "status": "measured"}', "data"),
        ('{"format": 2, "status": "cut", "data": "a"}', "format"),
    ],
)
def test_a_damaged_record_is_reported(tmp_path, text, fault):
    path = tmp_path / "seed-0.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=f"seed-0.json: .*{fault}"):
        read_record(path)


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_measures_what_works_and_reports_what_does_not(tmp_path):
    seen: list[benchmark.Progress] = []
    outcomes = run(tmp_path, cells("tree", "knn", "cnn"), jobs=2, progress=seen.append)
    told = {outcome.cell.system: outcome for outcome in outcomes}
    assert sorted(outcome.status for outcome in outcomes) == ["failed", "failed", "measured"]
    assert told["knn"].reason == "neighbours must be near, however: they are <b>far</b>"
    assert told["cnn"].reason == "its process was ended by SIGKILL, perhaps for want of memory"
    assert told["tree"].cba == read_record(told["tree"].cell.path(tmp_path))["decisions"]["own"]["cba"]
    assert max(len(at.running) for at in seen) == 2
    assert (seen[-1].n_done, seen[-1].n_cells) == (3, 3)
    (log,) = tmp_path.rglob("*.log")
    assert log.parent.name == "knn"  # the others said nothing
    assert "neighbours must be near" in log.read_text()


def test_a_cell_that_takes_too_long_is_cut(tmp_path, nap):
    (outcome,) = run(tmp_path, cells("lstm"), budget_s=1)
    assert (outcome.status, outcome.reason) == ("cut", "it took longer than its budget of 1 s")
    assert not (nap.exists() and nap.read_text() and is_alive(int(nap.read_text())))
    assert read_record(outcome.cell.path(tmp_path))["status"] == "cut"
    assert plan_run(cells("lstm"), tmp_path).waiting == ()
    assert plan_run(cells("lstm"), tmp_path, retry=True).waiting == (outcome.cell,)


def test_what_is_done_is_kept_and_what_failed_is_tried_again_when_asked(tmp_path):
    grid = cells("tree", "knn")
    run(tmp_path, grid)
    stamp = grid[0].path(tmp_path).stat().st_mtime_ns
    assert run(tmp_path, grid) == []
    again = run(tmp_path, grid, retry=True)
    assert [(o.cell.system, o.status) for o in again] == [("knn", "failed")]
    assert grid[0].path(tmp_path).stat().st_mtime_ns == stamp


def test_damaged_and_misplaced_records_are_reported_and_made_again(tmp_path, in_process):
    grid = cells("tree", "svm", seeds=2)
    first, second, stranger, _ = put(tmp_path, *grid)
    first.write_text(first.read_text()[:200])
    stranger.write_bytes(second.read_bytes())
    plan = plan_run(grid, tmp_path)
    assert plan.waiting == (grid[0], grid[2])
    assert f"cannot read {first}: " in plan.damaged[grid[0]]
    assert "record of another cell (kdd99, auto: svm, seed 0)" in plan.damaged[grid[2]]
    assert {o.status for o in run_cells(plan, tmp_path, worker=WORKER)} == {"measured"}
    assert plan_run(grid, tmp_path).damaged == {}


def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path, nap, monkeypatch):
    script = (
        "import sys; from pathlib import Path; from tests.benchmark.test_runner import cells, run\n"
        "run(Path(sys.argv[1]), cells('tree', 'svm', 'lstm', 'majority'), jobs=1)"
    )
    runner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    wait_for(lambda: nap.exists() and nap.read_text())
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    wait_for(lambda: not is_alive(int(nap.read_text())))
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed-0.json")}
    assert {path.parent.name for path in there} == {"tree", "svm"}
    monkeypatch.setenv("FAKE_NAP_S", "0")
    outcomes = run(tmp_path, cells("tree", "svm", "lstm", "majority"))
    assert {(o.cell.system, o.status) for o in outcomes} == {("lstm", "measured"), ("majority", "measured")}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())


def test_an_interrupted_run_leaves_no_process_and_no_record(tmp_path, nap):
    def interrupt(at):
        if nap.exists() and nap.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, cells("lstm"), progress=interrupt)
    assert not is_alive(int(nap.read_text()))
    assert not list(tmp_path.rglob("seed-*"))


def test_time_left_is_reckoned_from_the_same_system(tmp_path):
    def record(cell, seconds):
        return {**cell.begin_record("measured"), "times": {"load_s": 0, "fit_s": seconds, "predict_s": 0}}

    grid = cells("tree", "svm", seeds=2)
    kept = {cell: record(cell, s) for cell, s in zip(grid[:2], (10.0, 30.0), strict=True)}
    run_ = benchmark._Run(
        benchmark.Plan((*grid[2:], Cell("kdd99", "auto", "knn", 0)), kept, {}), tmp_path, None, WORKER
    )
    told = run_.progress(2, ())
    assert (told.n_cells, told.n_done, told.left_s) == (5, 2, (10 + 30 + 20) / 2)


def test_all_records_of_a_folder_are_read_and_faults_reported(tmp_path, in_process):
    with pytest.raises(DataError, match="holds no records of a benchmark"):
        read_records(tmp_path)
    put(tmp_path, *cells("svm", "tree"), Cell("kdd99", "auto", "tree", 1))
    Cell("kdd99", "auto", "svm", 1).path(tmp_path).write_text("{")
    records, faults = read_records(tmp_path)
    assert [(r["system"], r["seed"]) for r in records] == [("svm", 0), ("tree", 0), ("tree", 1)]
    assert list(faults) == ["kdd99/auto/svm/seed-1.json"]
    assert list(benchmark.iter_missing(records)) == [Cell("kdd99", "auto", "svm", 1)]


def test_the_threads_of_a_cell_are_pinned(tmp_path):
    show = tmp_path / "show.py"
    show.write_text(
        "import os, sys; sys.exit(','.join(os.environ[n] for n in ('OMP_NUM_THREADS', 'POLARS_MAX_THREADS')))"
    )
    plan = plan_run(cells("tree"), tmp_path)
    (outcome,) = run_cells(plan, tmp_path, worker=(sys.executable, str(show)))
    assert outcome.reason == "its process ended with exit code 1: 1,1"
    assert json.loads(outcome.cell.path(tmp_path).read_text())["run"]["versions"]["deepidea"]


def test_labels_tell_what_training_never_showed(in_process, monkeypatch):
    experiment = deal("kdd99")
    renamed = experiment.test.labels.replace({"dos": "new flood"})
    strange = replace(experiment, test=replace(experiment.test, labels=pl.Series(renamed)))
    monkeypatch.setattr(benchmark_cell, "load_experiment", lambda *_, **__: strange)
    told = measure(Cell("kdd99", "auto", "tree", 0))["labels"]
    assert [name for name, of in told.items() if not of["in_training"]] == ["new flood"]
    assert all(of["right"] <= of["rows"] and of["alarms"] <= of["rows"] for of in told.values())


def test_each_label_is_ranked_against_benign_flows(in_process):
    record = measure(Cell("kdd99", "auto", "tree", 0))
    labels, whole = record["labels"], record["decisions"]["own"]["roc_auc"]
    assert labels["benign"]["auroc"] is None
    attacks = [of for name, of in labels.items() if name != "benign"]
    mean = np.average([of["auroc"] for of in attacks], weights=[of["rows"] for of in attacks])
    assert mean == pytest.approx(whole, abs=1e-6)
    assert "anomaly" not in record  # a tree does not tell it


def test_what_is_unlike_benign_ranks_flows_as_well(monkeypatch):
    monkeypatch.setattr(benchmark_cell, "load_experiment", deal)
    record = measure(Cell("kdd99", "auto", "deepidea:n_epochs=1", 0))
    ranked, labels = record["anomaly"], record["labels"]
    assert set(ranked) == {"roc_auc", "pr_auc", "recall_at_fpr"}
    assert labels["benign"]["anomaly_auroc"] is None
    attacks = [of for name, of in labels.items() if name != "benign"]
    mean = np.average([of["anomaly_auroc"] for of in attacks], weights=[of["rows"] for of in attacks])
    assert mean == pytest.approx(ranked["roc_auc"], abs=1e-6)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def kdd99_here(monkeypatch):
    """A machine on which kdd99 is registered, and whose cells are the invented ones."""
    monkeypatch.setattr(benchmark, "installed_datasets", lambda: {"kdd99": object()})
    monkeypatch.setattr(benchmark, "WORKER", WORKER)


def test_the_command_measures_reports_and_exits_with_1_where_figures_are_missing(command, kdd99_here, tmp_path):
    line = ("benchmark", "run", "--models", "tree", "--seeds", 1, "--out", tmp_path)
    first = command(*line, "--models", "knn")
    assert first.code == 1
    assert "2 runs to do; 0 kept from earlier" in first.err
    assert "kdd99, auto: knn, seed 0: failed: neighbours must be near, however: they are <b>far</b>" in first.err
    assert "1 measured, 1 failed" in first.err
    assert "--retry repeats them" in first.err
    Cell("kdd99", "auto", "tree", 0).path(tmp_path).write_text("{")
    second = command(*line)
    assert second.code == 0, second.err
    assert "kdd99, auto: tree, seed 0 is measured again: cannot read" in second.err
    assert command(*line).err.startswith("0 runs to do; 1 kept from earlier\n1 measured\n")


def test_the_command_refuses_before_it_measures(command, kdd99_here, tmp_path):
    refused = command("benchmark", "run", "--models", "forest", "--out", tmp_path)
    assert (refused.code, list(tmp_path.iterdir())) == (3, [])
    assert "unknown system" in refused.err
    assert command("benchmark", "run", "--data", "kdd98", "--out", tmp_path).code == 3


@pytest.mark.slow
def test_real_systems_on_a_small_registered_data_set(command, tmp_path, monkeypatch):
    pytest.importorskip("deepidea.benchmark.baselines")
    monkeypatch.setenv("DEEPIDEA_HOME", str(tmp_path / "home"))
    labels = ("normal", "smurf", "neptune", "portsweep")
    lines = [
        f"{j % 7},{('tcp', 'udp')[j % 2]},http,SF,{j},{100 * (j % 4)}{',0' * 35},{labels[j % 4]}.\n" for j in range(80)
    ]
    (tmp_path / "kddcup.data_10_percent.gz").write_bytes(gzip.compress("".join(lines).encode()))
    (tmp_path / "corrected").write_text("".join(lines[:40]))
    assert command("data", "add", "kdd99", tmp_path).code == 0
    ran = command(
        "benchmark", "run", "--models", "majority", "--models", "tree", "--seeds", 1, "--out", tmp_path / "out"
    )
    assert ran.code == 0, ran.err
    (majority, tree), _ = read_records(tmp_path / "out")
    assert majority["decisions"]["own"]["cba"] == pytest.approx(1 / 3, abs=1e-5)
    assert tree["rows"] == {"training": 80, "all": 40, "distinct": 40, "unseen": 0}
    assert tree["experiment"]["split"] == {"kind": "official"}
