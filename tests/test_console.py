from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea import console
from deepidea.errors import DataError
from deepidea.evaluation.evaluate import evaluate_detector
from deepidea.model.training import Epoch
from tests.evaluation.fakes import FakeDetector, draw_flows

LONG = "a line of words that is far longer than a terminal of eighty columns, " * 3 + "/tmp/a-path/to/a-file.idea"


def test_lines_are_not_wrapped_so_that_paths_can_be_copied(capsys):
    console.say(LONG)
    console.fail(DataError(LONG))
    assert capsys.readouterr().err == f"{LONG}\nerror: {LONG}\n"


@pytest.mark.parametrize(
    "text", ["[red]x[/red]", "a [/] b", ":skull: :key:", "fe80::1", "[0, 1]", "back\\slash\\", "\\[x]"]
)
def test_what_comes_from_outside_is_shown_as_it_is(capsys, text):
    console.say(text)
    console.fail(DataError(text))
    assert capsys.readouterr().err == f"{text}\nerror: {text}\n"


def test_refused_columns_and_class_names_are_shown_as_they_are(capsys):
    console.show_refused({"[b]ip[/b]": "an address, by its name"})
    console.show_training_flows({"rows": 1200, "source": "[x].csv", "class_rows": {"benign": 1000, "[red]dos": 200}})
    assert capsys.readouterr().err.splitlines() == [
        "not a feature: [b]ip[/b]: an address, by its name",
        "training on 1,200 flows of [x].csv: benign 1,000, [red]dos 200",
    ]


def test_flows_on_neither_side_are_told(capsys):
    split = {"left_out": {"embargo": {"benign": 1200, "dos": 3}, "class_not_in_training": {"u2r": 2}}}
    console.show_training_flows({"rows": 9, "source": "x", "class_rows": {"benign": 9}, "split": split})
    assert capsys.readouterr().err.splitlines()[1:] == [
        "neither trained on nor tested (embargo): benign 1,200, dos 3",
        "neither trained on nor tested (class not in training): u2r 2",
    ]


def test_the_standard_output_is_for_results_alone(capsys):
    with console.epoch_progress() as show:
        show(Epoch(1, 12, 0.5, float("nan"), 3.0))
        show(Epoch(12, 12, 0.25, 0.9876, 75.0))
    with console.byte_progress("reading") as progress:
        progress(1, 2)
        progress(2, None)
    with console.flow_progress("scoring") as done:
        done(5)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[1:3] == [
        " 1/12      0.5000               -     3.0 s    33.0 s",
        "12/12      0.2500         98.76 %  1 min 15 s     0.0 s",
    ]


@given(st.floats(0, 1e7))
def test_durations_never_show_sixty_of_anything(seconds):
    numbers = [float(word) for word in console.duration(seconds).split()[::2]]
    assert all(number < 60 for number in numbers[1:])
    assert numbers[0] < 60 or " h " in console.duration(seconds)


@pytest.mark.parametrize(("share", "told"), [(None, "-"), (0.0, "0.00"), (0.12345, "12.35"), (1.0, "100.00")])
def test_shares_are_percent(share, told):
    assert console.percent(share) == told


def test_an_evaluation_shows_subsets_references_and_classes(capsys):
    flows = draw_flows(300, 1, grid=0.5)
    train = draw_flows(200, 2, grid=0.5)
    detector = FakeDetector(training_fingerprints=np.zeros(1, np.uint64))
    from deepidea.evaluation.evaluate import Baselines
    from deepidea.evaluation.report import trust_notes

    evaluation = evaluate_detector(detector, flows, baselines=Baselines.fit(train))
    console.show_evaluation(evaluation, trust_notes(evaluation))
    told = capsys.readouterr().out
    for word in ("all", "distinct", "unseen", "majority: benign", "one rule", "macro F1", "dos", "probe", "Elsewhere"):
        assert word in told
    assert f"{100 * evaluation.scores.accuracy:.2f}" in told


def test_data_sets_are_listed_with_what_is_registered(capsys):
    console.show_datasets({"kdd99": None}, {"kdd99": "KDD Cup 1999"})
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "kdd99",
        "KDD",
        "Cup",
        "1999",
        "-",
        "-",
        "not",
        "registered",
    ]


def test_a_card_shows_labels_told_apart(capsys):
    from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
    from deepidea.flows.simulate import simulate_flows
    from deepidea.model.presets import train_detector

    site = labelled_flows_from_table(simulate_flows(n_flows=300), "label", "benign")[0]
    classes = pl.Series(["benign" if name == "benign" else "[attack]" for name in site.classes])
    flows = LabelledFlows(site.table, site.labels, classes, site.schema, ("benign", "[attack]"))
    console.show_card(train_detector(flows, labels=True, n_epochs=1, hidden=(4,) * 4, random_state=0))
    told = capsys.readouterr().out
    assert "labels told apart" in told
    assert "[attack] (" in told
    assert "hidden=4x4" in told


def test_a_benchmark_tells_what_ended_and_on_a_terminal_what_runs(capsys, monkeypatch):
    from rich.console import Console

    from deepidea.evaluation.benchmark import Outcome, Progress
    from deepidea.evaluation.benchmark_cell import Cell

    cells = [Cell("kdd99", "auto", name, 0) for name in ("tree", "lstm", "knn")]
    ended = (Outcome(cells[0], "measured", 3.0, cba=0.5123), Outcome(cells[1], "cut", 9.0, "it took [too] long"))
    at = Progress(5, 4, {cells[2]: 7.0}, 61.0, ended)
    with console.benchmark_progress() as show:
        show(at)
    assert capsys.readouterr().err.splitlines() == [
        "kdd99, auto: tree, seed 0: CBA 51.23 %  (3.0 s)",
        "kdd99, auto: lstm, seed 0: cut: it took [too] long  (9.0 s)",
    ]
    terminal = Console(stderr=True, force_terminal=True, width=100)
    monkeypatch.setattr(console, "err", terminal)
    with console.benchmark_progress() as show:
        show(at)
        told = "".join(str(segment.text) for segment in terminal.render(console._benchmark_view(at)))
    assert "4/5, about 1 min 1 s left" in told
    assert "7.0 s" in told
    assert "kdd99, auto: knn, seed 0" in told


def test_an_interrupted_benchmark_is_told_to_go_on(capsys):
    with pytest.raises(KeyboardInterrupt), console.benchmark_progress():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted: the same command goes on from here\n"
