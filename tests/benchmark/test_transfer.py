"""Protocols side by side: the order of the lines, what each figure is of, what a report tells in full."""

from __future__ import annotations

import pytest

from deepidea.benchmark.cell import write_record
from deepidea.benchmark.comparison import compare, read_comparison
from deepidea.benchmark.findings import summarise_tasks
from deepidea.benchmark.report import render_benchmark, render_markdown
from deepidea.benchmark.runner import Cell
from deepidea.benchmark.transfer import (
    describe_transfer,
    left_out_table,
    ranking_table,
    transfer_table,
    transfers,
)
from tests.benchmark.test_report import record
from tests.evaluation.test_report import figures_in

TWO = ("benign", "attack")
DATA = "cicids17-improved"


def dealt(protocol, system, cba, *, seed=0, classes=TWO, test=None, labels=None):
    """A record of a protocol."""
    rows = dict.fromkeys(classes, 200)
    view = "attack or benign" if classes == TWO else "classes"
    experiment = {"source": DATA, "taxonomy": "family", "split": {"kind": protocol}, "files": [], "view": view}
    experiment |= {"class_rows": rows, "test_class_rows": test or rows}
    return record(
        system, cba, seed, classes=classes, data=DATA, protocol=protocol, experiment=experiment, labels=labels or {}
    )  # fmt: skip


def left_out(label, system, recall, auroc):
    labels = {"old": {"rows": 100, "right": 99, "alarms": 99, "auroc": 0.99, "in_training": True}}
    labels[label] = {"rows": 50, "right": 0, "alarms": round(50 * recall), "auroc": auroc, "in_training": False}
    return dealt(f"leave-out-{label}", system, 0.9, labels=labels)


CLASSES = ("benign", "dos", "web_attack")


@pytest.fixture(scope="module")
def comparison():
    records = [
        *(dealt("stratified", "deepidea", cba, seed=seed, classes=CLASSES) for seed, cba in enumerate((0.9, 0.8))),
        dealt("stratified", "tree", 0.95, classes=CLASSES),
        dealt("by-time", "deepidea", 0.7, classes=CLASSES, test={"benign": 200, "dos": 200}),
        dealt("by-time", "tree", 0.6, classes=CLASSES, test={"benign": 200, "dos": 200}),
        dealt("by-day-friday", "deepidea", 0.5),
        dealt("by-day-tuesday", "deepidea", 0.55),
        dealt("to-cicids18", "deepidea", 0.5),
        dealt("stratified-keep", "deepidea", 0.99, classes=CLASSES),
        *(left_out(label, "deepidea", *of) for label, of in {"bot": (0.2, 0.7), "xss": (0.6, None)}.items()),
        left_out("bot", "tree", 0.4, 0.8),
        record("deepidea", 0.7),
    ]
    return compare(records)


def cells(table):
    return [[(entry.text, entry.small) for entry in line] for line in table.lines]


def test_lines_stand_in_the_order_in_which_likeness_is_taken_away(comparison):
    (transfer,) = transfers(comparison)  # kdd99 was dealt in one way alone
    assert [step.title for step in transfer.steps] == [
        "at random, repeats kept",
        "at random, repeats dropped",
        "end of each day",
        "another day: Tuesday",
        "another day: Friday",
        "an attack label left out, mean of 2",
        "another data set: cicids18",
    ]
    assert transfer.systems == ["tree", "deepidea"]


def test_figures_are_means_over_seeds_and_the_best_of_a_line_leads(comparison):
    table = transfer_table(transfers(comparison)[0])
    assert table.head == ["Split", "decision tree", "DeepIDEA"]
    name, tree, ours = cells(table)[1]
    assert name == ("at random, repeats dropped", "3 classes; 200 + 400 flows")
    assert (tree[0], ours[0]) == ("95.0", "85.0 ± 7.1")
    assert ours[1].split(" / ")[1] == "15.0"  # a tenth and a fifth of the benign flows are called something else
    assert [entry.strong for entry in table.lines[1]] == [False, True, False]
    assert "Mean ± standard deviation over seeds (1 or 2)" in table.caption


def test_a_line_says_which_classes_its_test_has(comparison):
    asked = [line[0][1].partition(";")[0] for line in cells(transfer_table(transfers(comparison)[0]))]
    assert asked[1:4] == ["3 classes", "2 of 3 classes", "attack or benign"]


def test_a_left_out_label_is_scored_by_its_own_flows(comparison):
    (transfer,) = transfers(comparison)
    told, tree, ours = cells(transfer_table(transfer))[5]
    assert told[1] == "attack or benign; 200 + 100 flows"
    # benign recall is 0.9; the mean of (0.2 + 0.9) / 2 and (0.6 + 0.9) / 2
    assert ours == ("65.0 ± 14.1", "40.0 / 10.0 / 0.700")
    assert tree == ("–", "")  # it was not measured on both
    assert cells(left_out_table(transfer)) == [
        [("bot", ""), ("50", ""), ("40.0", "0.800"), ("20.0", "0.700")],
        [("xss", ""), ("50", ""), ("–", ""), ("60.0", "")],
    ]


def test_rankings_are_by_score_and_where_it_is_reported_by_anomaly():
    ranked = {"roc_auc": 0.9, "recall_at_fpr": {"0.01": 0.5}}
    records = [dealt(way, "deepidea", 0.9) | {"anomaly": ranked} for way in ("by-time", "by-day-friday")]
    records += [dealt(way, "tree", 0.9) for way in ("by-time", "by-day-friday")]
    table = ranking_table(transfers(compare(records))[0])
    assert table.head == ["Split", "decision tree", "DeepIDEA", "DeepIDEA, by anomaly"]
    own = records[0]["decisions"]["own"]
    area, recall = f"{own['roc_auc']:.3f}", f"{100 * own['recall_at_fpr']['0.01']:.1f}"
    assert cells(table)[0] == [("end of each day", ""), (area, recall), (area, recall), ("0.900", "50.0")]


def test_a_left_out_label_is_ranked_by_its_own_flows(comparison):
    _, tree, ours = cells(ranking_table(transfers(comparison)[0]))[5]
    assert (tree, ours) == (("–", ""), ("0.700", ""))
    old = [left_out(label, "deepidea", 0.5, 0.7) for label in ("bot", "xss")]
    for number, of in enumerate(old):
        of["labels"][("bot", "xss")[number]]["anomaly_auroc"] = 0.8 + 0.1 * number
    table = ranking_table(transfers(compare([*old, dealt("by-time", "deepidea", 0.9)]))[0])
    assert cells(table)[1][1:] == [("0.700", ""), ("0.850", "")]


def test_it_is_reported_in_words(comparison):
    told = describe_transfer(transfers(comparison)[0])
    assert told.startswith("DeepIDEA finds 99.5 % of attacks at 1.0 % false alarms in the first line (at random")
    assert "lowest, 40.0 %, for “an attack label left out, mean of 2” (area under " in told


def test_a_page_shows_in_full_what_is_dealt_as_papers_do(comparison):
    in_full = [(task.data, task.split_name) for task in comparison.main_tasks]
    assert in_full == [(DATA, "stratified"), ("kdd99", "official")]
    assert [answer.heading.rpartition(", ")[2] for answer in summarise_tasks(comparison)] == [
        "stratified split",
        "official split",
    ]
    markup = render_benchmark(comparison)
    assert {key.partition("-")[0] for key in figures_in(markup)} == {"0", "8"}
    assert markup.count("<details id=task-") == len(comparison.tasks) - 2
    assert "### CICIDS2017, corrected" in render_markdown(comparison)


def test_one_protocol_is_no_journey():
    comparison = compare([record("deepidea", 0.7), record("tree", 0.6)])
    assert transfers(comparison) == []
    assert "Transfer to other splits" not in render_benchmark(comparison) + render_markdown(comparison)
    (only,) = compare([dealt("by-time", "deepidea", 0.7)]).tasks
    assert compare([dealt("by-time", "deepidea", 0.7)]).main_tasks == [only]


def test_several_folders_are_one_comparison_and_the_first_record_of_a_cell_counts(tmp_path):
    for folder, cba in (("a", 0.7), ("b", 0.4)):
        for system in ("deepidea", "tree") if folder == "b" else ("deepidea",):
            write_record(Cell("kdd99", "auto", system, 0).path(tmp_path / folder), record(system, cba))
    (task,) = read_comparison(tmp_path / "a", tmp_path / "b").tasks
    assert task.row("deepidea").spread("own").mean == pytest.approx(0.7)
    assert task.row("tree").spread("own").mean == pytest.approx(0.4)
