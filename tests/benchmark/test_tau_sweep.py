"""A sweep over tau: one training a fold, every tau from the same probabilities, types that training never shows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.benchmark import tau_sweep
from deepidea.benchmark.comparison import compare
from deepidea.benchmark.report import render_benchmark, render_markdown
from deepidea.benchmark.tau_sweep import TAUS, decide_at, iter_sweeps, read_sweep, read_sweeps, sweep_path, sweep_tau
from deepidea.benchmark.unseen_types import distinct_flows, iter_type_folds
from deepidea.errors import DataError, FileFormatError
from deepidea.evaluation.splits import is_among
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.decision import Decision, softmax
from tests.benchmark.fake_worker import FakeSystem
from tests.benchmark.fakes import draw_flows
from tests.benchmark.test_report import record
from tests.evaluation.test_report import figures_in


def typed_flows(n_rows=600, grid=0.02):
    """Flows of two attack classes, each of them with three types."""
    flows = draw_flows(n_rows, 5, grid=grid)
    kinds = [f"{name}-{row % 3}" if name != "benign" else name for row, name in enumerate(flows.classes)]
    return replace(flows, labels=pl.Series(kinds))


@pytest.fixture
def invented(monkeypatch):
    """Sweep over invented flows and systems; tells which systems were trained on what."""
    trained = []

    class Told(FakeSystem):
        def fit(self, train, seed):
            trained.append((self.name, set(train.labels)))
            return super().fit(train, seed)

    monkeypatch.setattr(tau_sweep, "make_system", Told)
    monkeypatch.setattr(tau_sweep, "training_flows", lambda _: distinct_flows(typed_flows()))
    return trained


@settings(max_examples=50)
@given(st.integers(0, 1000), st.floats(0.5, 4), st.sampled_from(TAUS), st.sampled_from([(), (0, 1, 1), (0, 0, 1)]))
def test_any_tau_decides_as_the_decision_itself_would(seed, temperature, tau, class_of):
    logits = np.random.default_rng(seed).normal(0, 3, (40, 3)).astype(np.float32)
    decision = Decision((0.9, 0.08, 0.02), temperature, tau, class_of)
    assert (decide_at(softmax(logits), decision, tau) == decision.classify(logits)).mean() > 0.97  # ties by rounding


def test_left_out_types_are_new_and_no_vector_is_on_both_sides():
    flows = distinct_flows(typed_flows(grid=0.5))
    out = set()
    for fold in iter_type_folds(flows, seed=3):
        types = set(fold.test.labels.filter(pl.Series(fold.left_out)))
        assert types
        assert not types & set(fold.train.labels)
        assert set(fold.train.classes) == set(flows.classes)
        prints = [row_fingerprints(side.features, side.schema) for side in (fold.train, fold.test)]
        assert not is_among(prints[1], prints[0]).any()
        out |= types
    assert out == {name for name in flows.labels.unique() if name != "benign"}


def test_all_taus_come_of_one_training_a_fold(invented, tmp_path):
    sweep = sweep_tau("kdd99", "tree", tmp_path, n_repeats=2)
    assert len(invented) == 4
    assert tuple(sweep.by_tau) == TAUS
    assert all(len(of.known) == len(of.unseen) == len(of.mixed) == 2 for of in sweep.by_tau.values())
    assert sweep.own_tau == 0.0  # it names its most probable class
    assert sweep.mean(0.0, "unseen") < sweep.mean(1.0, "unseen")
    assert sweep.best("unseen") > 0


def test_a_sweep_that_stands_there_is_not_measured_again(invented, tmp_path):
    first = list(iter_sweeps(["kdd99"], ["tree", "tree"], tmp_path, n_repeats=1))
    again = list(iter_sweeps(["kdd99"], ["tree", "xgboost"], tmp_path, n_repeats=1))
    assert first[0] == again[0]
    assert [name for name, _ in invented] == ["tree", "tree", "xgboost", "xgboost"]
    assert read_sweeps(tmp_path) == (again, {})


def test_systems_that_tau_does_not_change_are_refused(invented, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="tau of svm: it has no probabilities"):
        sweep_tau("kdd99", "svm", tmp_path, n_repeats=1)
    even = Decision((1 / 3,) * 3, tau=0.0)
    fit = FakeSystem.fit
    monkeypatch.setattr(FakeSystem, "fit", lambda self, train, seed: replace(fit(self, train, seed), decision=even))
    with pytest.raises(DataError, match="tau of deepidea-forests: its probabilities are of balanced classes"):
        sweep_tau("kdd99", "deepidea-forests", tmp_path, n_repeats=1)
    with pytest.raises(DataError, match="n_repeats must be at least 1, got 0"):
        sweep_tau("kdd99", "tree", tmp_path, n_repeats=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 1, "by_tau": {}}', '{"format": 1, "by_tau": {"0": {"known": [1]}}}']
)
def test_a_damaged_sweep_is_reported(tmp_path, text):
    path = sweep_path(tmp_path, "kdd99", "tree")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"tree\.json"):
        read_sweep(path)
    assert list(read_sweeps(tmp_path)[1]) == ["kdd99/tau/tree.json"]


def test_the_report_shows_a_sweep_beside_the_contest_of_its_data(invented, tmp_path):
    sweep = sweep_tau("kdd99", "tree", tmp_path, n_repeats=2)
    comparison = compare([record("tree", 0.5), record("tree", 0.6, data="nsl-kdd")], {}, [sweep])
    assert [task.taus for task in comparison.tasks] == [(sweep,), ()]
    figure = figures_in(render_benchmark(comparison))["0-tau-held-out"]
    assert figure["data"][0]["x"] == list(TAUS)
    assert figure["data"][0]["y"] == pytest.approx([sweep.mean(tau, "mixed") / 100 for tau in TAUS], abs=1e-4)
    lines = [line for line in render_markdown(comparison).splitlines() if "types left out of training" in line]
    assert lines == [line for line in lines if f"{sweep.mean(0.0, 'unseen'):.1f}" in line] != []


@pytest.mark.parametrize("option", ["--repeats", "--deals"])  # the latter is of an earlier release
def test_the_command_prints_each_sweep(invented, tmp_path, command, option):
    ran = command("benchmark", "tau", "--models", "tree", option, 1, "--out", tmp_path)
    assert ran.code == 0, ran.err
    assert ran.err.startswith("kdd99: tree, held-out CBA in percent by tau: 0: ")
    sweep = json.loads(sweep_path(tmp_path, "kdd99", "tree").read_text())
    assert sweep["flows"] == len(distinct_flows(typed_flows()))
    assert sweep["run"]["versions"]["deepidea"]
