from __future__ import annotations

import json
import re
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.benchmark import report as benchmark_report
from deepidea.benchmark import tables as benchmark_tables
from deepidea.benchmark.cell import score_predictions, write_record
from deepidea.benchmark.comparison import (
    Spread,
    baselines_ahead,
    best_baseline,
    compare,
    rank_rows,
    read_comparison,
)
from deepidea.benchmark.findings import summarise_tasks
from deepidea.benchmark.published import PUBLISHED, published_table
from deepidea.benchmark.report import render_benchmark, render_markdown
from deepidea.benchmark.runner import Cell
from deepidea.benchmark.significance import paired_test, pooled_test, sign_flip_p
from deepidea.errors import DataError
from deepidea.evaluation.metrics import evaluate
from tests.benchmark.fake_worker import FakeFitted, FakeSystem, deal
from tests.evaluation.test_report import HOSTILE, Page, figures_in

CLASSES = ("benign", "dos", "probe", "r2l", "u2r")
RUN = {"date": "2026-01-01", "python": "3", "processor": "any", "cores": 2, "versions": {"deepidea": "0"}}


def record(system, cba, seed=0, *, plain=None, corrected=None, classes=CLASSES, data="kdd99", fit_s=2.0, **more):
    """A record whose decisions have these class-balanced accuracies: that share of each class is right."""
    wanted = {"own": cba, "plain": cba if plain is None else plain, "corrected": corrected}
    truth = np.repeat(np.arange(len(classes)), 200)
    decisions = {}
    for rule, share in wanted.items():
        if share is not None:
            right = np.tile(np.arange(200) < round(200 * share), len(classes))
            verdicts = np.where(right, truth, (truth + 1) % len(classes))
            scores = evaluate(truth, verdicts, None, (verdicts > 0).astype(float), classes).to_dict()
            decisions[rule] = {**scores, "subsets": {"distinct": share, "unseen": share}}
    experiment = {"source": data, "rows": 5000, "taxonomy": "official", "split": {"kind": "official"}, "files": []}
    head = Cell(data, "auto", system, seed).begin_record("measured", experiment=experiment, classes=list(classes))
    times = {"load_s": 1.0, "fit_s": fit_s, "predict_s": 0.5, "cpu_s": 3.0}
    facts = {
        "rows": {"training": 5000, "all": 1000, "distinct": 900, "unseen": 300},
        "labels": {},
        "parameters": {"attack_weight": 1.0},
    }
    facts["curve"] = {"recall": [0.0, 1.0], "precision": [1.0, 0.5], "false_positive_rate": [0.0, 1.0]}
    facts["attack_reliability"] = {"stated": [0.1, 0.9], "observed": [0.2, 0.8], "rows": [500, 500]}
    return {**head, **facts, "decisions": decisions, "times": times, "peak_memory_mib": 100.0, "run": RUN, **more}


def seeds(system, values, **more):
    return [record(system, value, seed, **more) for seed, value in enumerate(values)]


@pytest.fixture(scope="module")
def comparison():
    records = [
        *seeds("deepidea", (0.70, 0.72, 0.71, 0.69, 0.73), plain=0.55, corrected=0.71),
        *seeds("tree", (0.50, 0.52, 0.51, 0.53, 0.49), corrected=0.60),
        *seeds("random-forest", (0.60, 0.60, 0.60, 0.60, 0.60), corrected=0.75),
        record("knn", 0.4),
        *seeds("deepidea-paper", (0.56, 0.57, 0.55, 0.56, 0.56)),
        record("majority", 0.2),
        *(record(f"deepidea:attack_weight={w}", cba) for w, cba in ((0, 0.65), (10, 0.6))),
        record("deepidea:tau=0", 0.5),
        Cell("kdd99", "auto", "lstm", 0).begin_record("cut", reason="it took longer than its budget of 9 s"),
        Cell("kdd99", "auto", "svm", 0).begin_record("failed", reason="no <margin>"),
    ]
    return compare(records, {"kdd99/auto/cnn/seed-0.json": "cut off"})


# --- rank_rows and tests -----------------------------------------------------------------------------------------


def test_rows_stand_by_their_mean_under_each_rule(comparison):
    (task,) = comparison.tasks
    own = [(s.place, s.row.system) for s in rank_rows(task, "own")]
    assert own == [
        (1, "deepidea"),
        (2, "random-forest"),
        (3, "deepidea-paper"),
        (4, "tree"),
        (5, "knn"),
        (6, "majority"),
    ]
    assert [s.row.system for s in rank_rows(task, "corrected")] == ["random-forest", "deepidea", "tree"]
    assert best_baseline(task).row.system == "random-forest"
    assert {row.system for row in task.sweeps} == {
        f"deepidea:{c}" for c in ("attack_weight=0", "attack_weight=10", "tau=0")
    }


def test_equal_rows_share_the_better_place():
    (task,) = compare([record("tree", 0.5), record("knn", 0.5), record("svm", 0.4)]).tasks
    assert [s.place for s in rank_rows(task, "own")] == [1, 1, 3]


def test_the_t_test_is_that_of_scipy(comparison):
    from scipy import stats

    (task,) = comparison.tasks
    ours, tree = task.row("deepidea"), task.row("tree")
    test = paired_test(ours, tree)
    a, b = (list(row.by_seed("own").values()) for row in (ours, tree))
    assert (test.kind, test.n_seeds) == ("paired", 5)
    assert test.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert test.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_five_seeds_can_decide_and_a_test_that_cannot_gives_no_p_value(comparison):
    # the largest difference that there can be: a rank test of five pairs stops at p = 0.0625 even so
    (task,) = compare([*seeds("deepidea", (0.9, 0.91, 0.92, 0.93, 0.94)), *seeds("tree", (0.1,) * 4 + (0.11,))]).tasks
    test = paired_test(task.row("deepidea"), task.row("tree"))
    assert test.decided
    assert test.sign_flip_p is None
    entries = [entry.text for entry in benchmark_tables.difference_table(task).lines[0]]
    assert entries[3:5] == ["p < 0.0001", "5 seeds cannot decide at 5 %"]


@settings(max_examples=50)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=8))
def test_the_sign_flip_test_is_the_permutation_test_of_scipy(differences):
    from scipy import stats

    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(exact.pvalue)


def test_many_pairs_are_drawn_and_nearly_exact():
    differences = np.random.default_rng(0).normal(0.3, 1, 20)
    near = sign_flip_p([*differences, 0.0])  # a difference of 0 changes nothing
    assert near == pytest.approx(sign_flip_p(differences), abs=0.01)
    assert near == sign_flip_p([*differences, 0.0])


def test_data_sets_are_pooled_with_equal_weight():
    values = (0.70, 0.72, 0.71, 0.69, 0.73)
    records = [*seeds("deepidea", values), *seeds("tree", (0.6, 0.61, 0.6, 0.62, 0.6))]
    records += [record("deepidea", 0.5, data="nsl-kdd"), record("tree", 0.6, data="nsl-kdd")]
    comparison = compare(records)
    test = pooled_test(comparison.tasks, "deepidea", "tree")
    assert (test.n_data, test.n_pairs) == (2, 6)
    assert test.difference == pytest.approx((np.mean(values) - 0.606 - 0.1) / 2, abs=1e-3)
    assert 0.03 < test.p <= 1
    (line,) = benchmark_tables.pooled_table(comparison).lines
    assert [entry.text for entry in line[:3]] == ["decision tree", "2", "6"]
    assert pooled_test(comparison.tasks[:1], "deepidea", "tree") is None
    assert benchmark_tables.pooled_table(compare(records[:10])) is None


def test_a_row_that_never_changes_stands_for_all_seeds(comparison):
    (task,) = comparison.tasks
    ours, forest, majority = (task.row(n) for n in ("deepidea", "random-forest", "majority"))
    assert paired_test(ours, forest).kind == "one-sample"
    assert paired_test(forest, majority).t_p is None


def test_a_single_run_proves_nothing(comparison):
    (task,) = comparison.tasks
    ours, knn, majority = (task.row(n) for n in ("deepidea", "knn", "majority"))
    once = paired_test(ours, knn)
    assert (once.kind, once.n_seeds, once.t_p, once.sign_flip_p) == ("paired", 1, None, None)
    assert paired_test(knn, majority).n_seeds == 1


def test_few_seeds_are_not_tested():
    (task,) = compare([*seeds("deepidea", (0.7, 0.6, 0.8, 0.75)), *seeds("tree", (0.5, 0.4, 0.3, 0.6))]).tasks
    test = paired_test(task.row("deepidea"), task.row("tree"))
    assert (test.n_seeds, test.t_p, test.sign_flip_p) == (4, None, None)
    assert (
        "2 seeds cannot decide at 5 %"
        in summarise_tasks(compare(seeds("deepidea", (0.7, 0.6)) + seeds("tree", (0.5, 0.4))))[0].text
    )


def test_rows_without_a_common_seed_are_not_compared():
    (task,) = compare([record("deepidea", 0.7, 0), record("tree", 0.5, 1)]).tasks
    assert paired_test(task.row("deepidea"), task.row("tree")) is None


def test_classes_are_found_by_name_whatever_the_order_of_a_system():
    other = ("benign", "u2r", "r2l", "dos", "probe")
    odd, plain = record("deepidea", 1.0, classes=other), record("deepidea", 1.0, 1)
    odd["decisions"]["own"]["confusion"]["counts"][1] = [0, 150, 50, 0, 0]  # u2r: a quarter called r2l
    (task,) = compare([odd, plain]).tasks
    assert task.classes == ["benign", "dos", "probe", "u2r", "r2l"] == list(task.published.classes)
    counts = task.confusion(task.row("deepidea"))
    assert counts[3] == [0, 0, 0, 350, 50]
    assert [counts[at][at] for at in (0, 1, 2, 4)] == [400] * 4


# --- in words ----------------------------------------------------------------------------------------------------


def test_the_answer_says_what_is_owed_to_the_decision(comparison):
    (answer,) = summarise_tasks(comparison)
    assert answer.heading == "KDD Cup 1999, official split"
    for part in (
        "DeepIDEA reaches 71.0 ± 1.6 % class-balanced accuracy (mean ± standard deviation of 5 seeds): 11.0 points ",
        "11.0 points above the best baseline, each under its own decision: random forest, 60.0 ± 0.0 % (",
        "(one-sample t-test over 5 seeds: p < 0.0001).",
        "names its most probable class, DeepIDEA is 3rd of 6, 5.0 points below random forest",
        "system gets the prior correction, DeepIDEA is 2nd of 3, 4.0 points below random forest",
        "Always naming the majority class gives 20.0 %.",
        "The paper states 45.3 %; the paper's recipe gives 56.0 ± 0.7 % here.",
    ):
        assert part in answer.text


def test_a_doubtful_lead_is_called_doubtful():
    told = summarise_tasks(
        compare([*seeds("deepidea", (0.5, 0.7, 0.6, 0.4, 0.8)), *seeds("tree", (0.6, 0.5, 0.6, 0.6, 0.65))])
    )
    assert "undecided at 5 %" in told[0].text


def test_without_deepidea_the_best_is_reported():
    (answer,) = summarise_tasks(compare([record("tree", 0.5)]))
    assert answer.text == "DeepIDEA was not measured here. The best of 1 systems is decision tree with 50.0 %."


def test_where_the_first_is_no_baseline_the_best_baseline_is_reported(comparison):
    (task,) = comparison.tasks
    assert [s.row.system for s in baselines_ahead(task, "corrected")] == ["random-forest"]
    told = [*seeds("deepidea", (0.6,)), *seeds("deepidea-forests", (0.9,)), *seeds("tree", (0.7,))]
    text = summarise_tasks(compare(told))[0].text
    assert "30.0 points below DeepIDEA with forests (60.0 % against 90.0 %; 1 seed cannot decide at 5 %)" in text
    assert "; 1 baseline is above it, decision tree by 10.0 points" in text
    assert "; no baseline is above it." in summarise_tasks(compare(told[:2]))[0].text


# --- tables ------------------------------------------------------------------------------------------------------


def test_the_markdown_of_a_table_is_exact():
    (task,) = compare([record("knn", 0.4, plain=0.4, corrected=0.45), record("one-rule", 0.3)]).tasks
    assert benchmark_tables.rank_table(task).to_markdown().splitlines()[:5] == [
        "| System | CBA, its own decision | CBA, most probable class | CBA, corrected for the prior | "
        "CBA, unseen vectors | False alarms | PR-AUC | CBA in the paper | Training |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| KNN | **40.0** (#1) | **40.0** (#1) | **45.0** (#1) | 40.0 | 60.0 | 0.843 | 16.4 | 2.0 s |",
        "| one rule | 30.0 (#2) | 30.0 (#2) | – | 30.0 | 70.0 | 0.821 | – | 2.0 s |",
        "| majority class | not measured | – | – | – | – | – | – | – |",
    ]
    line = next(line for line in benchmark_tables.class_table(task).to_markdown().splitlines() if "KNN" in line)
    assert line == (
        "| KNN | 40.0 / 40.0 (23.51 / 55.16) | 40.0 / 40.0 (90.97 / 100) | 40.0 / 40.0 (100 / 26.91) | "
        "40.0 / 40.0 (0 / 0) | 40.0 / 40.0 (0 / 0) | 40.0 (16.41\\*) |"
    )


def test_the_row_that_contradicts_itself_is_starred(comparison):
    caption = benchmark_tables.class_table(comparison.tasks[0]).caption
    assert caption.endswith("* KNN: the recalls of the published row average 36.4, not 16.41.")
    odd = {
        (data, name) for data, table in PUBLISHED.items() for name, row in table.rows.items() if row.contradicts_itself
    }
    assert odd == {("kdd99", "KNN")}


def test_published_tables_are_whole_and_shown_only_where_they_compare():
    for table in PUBLISHED.values():
        assert all(len(row.precision_recall) == len(table.classes) for row in table.rows.values())
        assert {"SVM", "KNN", "DT", "MLP+CE", "Cost-Sensitive", "CNN", "DeepIDEA"} <= set(table.rows)
    assert published_table("kdd99", "auto").number == "V"
    assert published_table("kdd99", "leave-types-out") is published_table("nsl-kdd", "auto") is None
    (task,) = compare([record("tree", 0.5, classes=("benign", "dos"), data="kdd99@native")]).tasks
    assert task.published is None
    assert task.title == "KDD Cup 1999, taxonomy native, official split"


def test_what_has_no_figures_is_listed_with_its_reason(comparison):
    lines = [[entry.text for entry in line] for line in benchmark_tables.unmeasured_table(comparison).lines]
    assert ["kdd99, auto: lstm", "cut", "0", "it took longer than its budget of 9 s"] in lines
    assert ["kdd99/auto/cnn/seed-0.json", "damaged", "–", "cut off"] in lines
    assert ["kdd99, auto: knn", "missing", "1, 2, 3, 4"] in [line[:3] for line in lines]
    assert benchmark_tables.unmeasured_table(compare([record("tree", 0.5)])) is None


def test_every_baseline_above_deepidea_by_the_same_decision_is_listed(comparison):
    (task,) = comparison.tasks
    lines = [[entry.text for entry in line] for line in benchmark_tables.ahead_table(task).lines]
    assert lines[0][:4] == ["most probable class", "random forest", "60.0 ± 0.0", "+5.0"]
    assert [line[:2] for line in lines[1:]] == [["corrected for the prior", "random forest"]]
    (alone,) = compare(seeds("deepidea", (0.7,), corrected=0.7)).tasks
    assert [line[1].text for line in benchmark_tables.ahead_table(alone).lines] == ["none", "none"]
    (without,) = compare(seeds("tree", (0.7,))).tasks
    assert benchmark_tables.ahead_table(without) is None


def test_new_labels_are_distinguished():
    labels = {"old": {"rows": 5, "right": 5, "alarms": 5, "in_training": True}}
    labels |= {f"new {at}": {"rows": at, "right": 0, "alarms": 1, "in_training": False} for at in range(1, 24)}
    (task,) = compare([record("deepidea", 0.7, labels=labels)]).tasks
    table = benchmark_tables.new_label_table(task, [task.row("deepidea")])
    assert [entry.text for entry in table.lines[0]] == ["new 23", "23", "4.3"]
    assert len(table.lines) == 20
    assert table.caption.endswith("3 rarer ones are not shown.")


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_its_plots_are_valid(comparison):
    import plotly.graph_objects as go

    markup = render_benchmark(comparison)
    figures = figures_in(markup)
    assert [key.partition("-")[2] for key in figures] == [
        "recall",
        "curve",
        "reliability",
        "time",
        "attack_weight",
        "tau",
    ]
    for key, figure in figures.items():
        assert f'data-plot="{key}"' in markup
        assert go.Figure(json.loads(re.sub(r'"@\w+"', '"#123456"', json.dumps(figure)))).data
    addresses = [v for _, attrs in Page(markup).tags for n, v in attrs.items() if n in ("src", "href", "action")]
    assert all(address == "data:," or address.startswith("#") for address in addresses)
    targets = {attrs.get("id") for _, attrs in Page(markup).tags}
    assert {address[1:] for address in addresses if address.startswith("#")} <= targets


def test_the_sweep_has_the_row_itself_at_its_own_value(comparison):
    trace = figures_in(render_benchmark(comparison))["0-attack_weight"]["data"][0]
    assert trace["x"] == ["0", "1", "10"]
    assert trace["y"] == pytest.approx([0.65, 0.71, 0.6])


def test_names_beside_points_cover_neither_points_nor_each_other():
    crowd = [record(name, 0.5, fit_s=2.0) for name in ("tree", "knn", "svm", "extra-trees", "xgboost", "lightgbm")]
    figure = figures_in(render_benchmark(compare([*crowd, record("majority", 0.2, fit_s=0.01)])))["0-time"]
    shown = [text for trace in figure["data"] for text in trace["text"]]
    assert "majority class" in shown
    assert "" in shown
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(shown) == 7


def test_the_page_and_the_markdown_have_the_same_entries(comparison):
    text, markdown = (
        " ".join(Page(render_benchmark(comparison)).text).replace("\xa0", " "),
        render_markdown(comparison),
    )
    for words in ("71.0 ± 1.6", "60.0 ± 0.0", "40.0 / 40.0", "23.51 / 55.16", "one-sample", "+11.0", "decision tree"):
        assert words in text
        assert words in markdown
    assert summarise_tasks(comparison)[0].lead in text
    assert all(sentence in text for sentence in summarise_tasks(comparison)[0].more)


def test_hostile_names_stay_text():
    number = count()
    hostile = [
        record(system, 0.5, classes=("benign", *HOSTILE[1:]), data=HOSTILE[1], labels={name: label})
        for system in ("deepidea", "tree", f"svm:kernel={HOSTILE[2]}")
        for name, label in [(HOSTILE[3], {"rows": 3, "right": next(number), "alarms": 1, "in_training": False})]
    ]
    hostile.append(Cell(HOSTILE[1], "auto", "knn", 0).begin_record("failed", reason=HOSTILE[2]))
    markup = render_benchmark(compare(hostile, {HOSTILE[2]: HOSTILE[1]}))
    page = Page(markup)
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not {"img", "iframe"} & {tag for tag, _ in page.tags}
    assert {"<script", "<img", "<a href='http"}.isdisjoint(
        re.findall(r"<[a-z]+[^&;]{0,12}", render_markdown(compare(hostile)))
    )
    assert HOSTILE[3] in " ".join(page.text)


def test_systems_of_real_records_make_a_page(tmp_path, command):
    experiment = deal("kdd99")
    for seed, name in ((0, "tree"), (0, "svm"), (1, "tree")):
        fitted = FakeSystem(name).fit(experiment.train, seed)
        assert isinstance(fitted, FakeFitted)
        cell = Cell("kdd99", "auto", name, seed)
        scores = score_predictions(experiment, fitted, fitted.predict(experiment.test.features))
        head = cell.begin_record("measured", experiment={}, parameters={}, classes=list(fitted.classes), **scores)
        write_record(cell.path(tmp_path), {**head, "times": {"fit_s": 1.0}, "peak_memory_mib": 9, "run": RUN})
    assert len(read_comparison(tmp_path).tasks) == 1
    ran = command("benchmark", "report", tmp_path, "-o", tmp_path / "r.html", "--markdown", tmp_path / "r.md")
    assert ran.code == 0, ran.err
    assert "DeepIDEA was not measured here." in ran.out
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "r.md").read_text() == render_markdown(read_comparison(tmp_path))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no records of a benchmark; .* deepidea benchmark run"):
        read_comparison(tmp_path)


def test_equal_comparisons_are_equal_bytes(comparison):
    assert benchmark_report.render_markdown(comparison) == render_markdown(comparison)
    assert render_benchmark(comparison) == render_benchmark(comparison)
    assert Spread.of([0.5]).sd == 0
