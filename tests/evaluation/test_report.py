from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from deepidea.errors import MissingExtraError, StorageError
from deepidea.evaluation import page as page_parts
from deepidea.evaluation import report
from deepidea.evaluation.evaluate import Evaluation, evaluate_detector
from deepidea.evaluation.metrics import evaluate
from deepidea.evaluation.references import Baselines
from deepidea.flows.fingerprint import row_fingerprints
from tests.benchmark.fakes import SCHEMA, FakeDetector, draw_flows

HOSTILE = (
    "benign",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "<a href='http://evil.example'>b</a>",
    "{title}",
    "@ink",
)


@pytest.fixture(scope="module")
def evaluation():
    train = draw_flows(400, 1, grid=0.5)
    known = np.unique(row_fingerprints(train.features, SCHEMA))
    detector = FakeDetector(manifest={"preset": "site", "seed": 4}, training_fingerprints=known)
    return evaluate_detector(detector, draw_flows(3000, 2, grid=0.5), baselines=Baselines.fit(train))


def evaluation_of(truth, predicted, classes=("benign", "dos"), **data):
    """An evaluation of bare verdicts, without probabilities of more than two values."""
    probabilities = np.eye(len(classes))[predicted]
    scores = evaluate(truth, predicted, probabilities, 1 - probabilities[:, 0], classes)
    facts = {"source": "test", "schema": "custom", "rows": len(truth), "distinct_rows": len(truth), "duplicate_rows": 0}
    facts |= {"contradictory_rows": 0, "unavoidable_errors": 0, "twins_in_training": None, "unseen_rows": None, **data}
    subsets = {"all": scores, "distinct": scores, "unseen": None}
    return Evaluation(scores, subsets, facts, {"schema": "custom", "classes": list(classes)})


class Page(HTMLParser):
    """Collects tags with attributes, and the text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text.append(data)


def notes_of(evaluation):
    return {note.heading: note.text for note in report.trust_notes(evaluation)}


def figures_in(page):
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_asks_for_nothing_outside(evaluation):
    page = Page(report.render_report(evaluation))
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_the_policy_names_the_scripts_of_the_page(evaluation):
    page = report.render_report(evaluation)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    assert html.escape(page_parts.policy(*scripts), quote=False) in page


def test_hostile_names_stay_text():
    truth = np.arange(600) % len(HOSTILE)
    hostile = evaluation_of(truth, truth, HOSTILE, source=HOSTILE[1])
    hostile = replace(hostile, model={**hostile.model, HOSTILE[2]: {HOSTILE[1]: HOSTILE[2]}, "file": HOSTILE[1]})
    markup = report.render_report(hostile, title=HOSTILE[1])
    page, honest = (
        Page(markup),
        Page(report.render_report(evaluation_of(truth, truth, ("benign", *"abcde")))),
    )
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in honest.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    for name in HOSTILE:
        assert name in page.text


def test_hostile_names_are_no_markup_in_plots():
    truth = np.arange(600) % len(HOSTILE)
    figures = figures_in(report.render_report(evaluation_of(truth, truth, HOSTILE)))
    for key in ("recall", "scores"):
        shown = figures[key]["layout"]["yaxis"]["ticktext"]
        assert "<" not in "".join(shown)
        assert html.unescape(shown[4]) == "{title}"


def test_equal_evaluations_are_equal_pages_and_the_figures_are_json(evaluation):
    page = report.render_report(evaluation)
    assert page == report.render_report(evaluation)
    figures = figures_in(page)
    assert list(figures) == ["recall", "precision_recall", "roc", "reliability", "scores"]
    for key in figures:
        assert f'data-plot="{key}"' in page


def test_the_plotly_script_is_that_of_the_pinned_package():  # else gzip the new one into evaluation/templates
    offline = pytest.importorskip("plotly.offline")
    assert (
        page_parts.plotly_script().decode() == offline.get_plotlyjs()
    )  # else gzip the new one into evaluation/templates


def test_figures_are_valid_for_plotly(evaluation):
    import plotly.graph_objects as go

    def painted(value):
        return json.loads(re.sub(r'"@\w+"', '"#123456"', json.dumps(value)))

    for figure in figures_in(report.render_report(evaluation)).values():
        assert go.Figure(painted(figure)).data


def test_every_number_of_the_tables_is_in_the_page(evaluation):
    text = " ".join(Page(report.render_report(evaluation)).text)
    for scores in [*evaluation.subsets.values(), *evaluation.baselines.values()]:
        assert page_parts.percent(scores.cba) in text
        assert page_parts.span(scores.detection_rate_interval) in text
    for name, of in evaluation.scores.per_class.items():
        assert name in text
        assert f"{of.support:,}" in text
    assert "site" in text


def test_writing_is_whole_or_not_at_all(evaluation, tmp_path):
    path = tmp_path / "report.html"
    report.write_report(evaluation, path)
    assert path.read_text() == report.render_report(evaluation)
    with pytest.raises(StorageError, match="cannot write"):
        report.write_report(evaluation, tmp_path / "absent" / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_without_jinja2_the_pip_line_is_reported(evaluation, tmp_path, monkeypatch):
    for package in ("jinja2", "markupsafe"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepidea\[train\]'"):
        report.write_report(evaluation, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_base_rate_is_reported_in_alerts():
    truth = np.repeat([0, 1], [100_000, 1000])
    predicted = np.repeat([0, 1, 0, 1], [97_900, 2100, 20, 980])
    told = notes_of(evaluation_of(truth, predicted))["In use"]
    assert "It caught 98.0 % of the attack flows and raised an alarm on 2.1 % of the benign." in told
    assert "1 alert in 220 would be true" in told
    assert "a million benign flows cost about 21,000 false alarms" in told


def test_no_false_alarm_is_not_shown_as_certainty():
    truth = np.repeat([0, 1], [1000, 10])
    told = notes_of(evaluation_of(truth, truth))["In use"]
    assert "the true rate may still be 0.38 %" in told
    assert "as few as 1 alert in 54 may then be true" in told


def test_no_alarm_at_all_and_no_attack_at_all_are_reported():
    quiet = notes_of(evaluation_of(np.repeat([0, 1], [100, 10]), np.zeros(110, int)))["In use"]
    assert "It would raise no true alert" in quiet
    peaceful = notes_of(evaluation_of(np.zeros(50, int), np.zeros(50, int)))["In use"]
    assert "is unknown" in peaceful


def test_memory_is_reported(evaluation):
    data, unseen = evaluation.data, evaluation.subsets["unseen"]
    told = notes_of(evaluation)["Memory"]
    assert page_parts.percent(data["twins_in_training"] / data["rows"]) in told
    assert page_parts.percent(unseen.cba) in told
    nothing = replace(evaluation, subsets={**evaluation.subsets, "unseen": None})
    assert "measure memory, and nothing else" in notes_of(nothing)["Memory"]
    unknown = replace(evaluation, data={**data, "twins_in_training": None})
    assert "does not carry the fingerprints" in notes_of(unknown)["Memory"]


def test_small_and_absent_classes_are_named():
    truth = np.repeat([0, 1, 2], [200, 60, 49])
    told = notes_of(evaluation_of(truth, truth, ("benign", "dos", "u2r", "r2l")))["Small classes"]
    assert told.startswith("Fewer than 50 rows, hence wide intervals: u2r (49 rows: recall 92.7 – 100 %).")
    assert told.endswith("No rows at all, hence nothing known: r2l.")
    assert "Small classes" not in notes_of(evaluation_of(np.repeat([0, 1], 60), np.repeat([0, 1], 60)))


def test_an_easy_test_set_is_called_easy(evaluation):
    rule = next(scores for name, scores in evaluation.baselines.items() if name.startswith("one rule"))
    even = replace(evaluation, scores=rule)
    assert "about as good as the detector" in notes_of(even)["A single rule"]
    assert "No reference was given" in notes_of(replace(evaluation, baselines={}))["A single rule"]


def test_unresolved_rates_are_reported():
    told = notes_of(evaluation_of(np.repeat([0, 1], [500, 60]), np.repeat([0, 1], [500, 60])))
    assert told["Low false-positive rates"].startswith("500 benign rows cannot resolve a rate of 0.001, 0.0001.")
    saturated = notes_of(evaluation_of(np.repeat([0, 1], [500, 60]), np.repeat([0, 1, 1], [480, 20, 60])))
    assert "At 0.01, no threshold keeps it: 20 benign rows share" in saturated["Low false-positive rates"]


@pytest.mark.parametrize(
    ("share", "spelt"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (None, "–"),
        (0.453, "45.3 %"),
        (0.9987, "99.87 %"),
        (0.000021, "0.0021 %"),
        (0.05, "5.0 %"),
    ],
)
def test_percentages_keep_two_figures_from_the_ends(share, spelt):
    assert page_parts.percent(share) == spelt


def test_many_classes_and_none_of_some_still_make_a_page():
    classes = ("benign", *(f"attack {at}" for at in range(27)))
    truth = np.arange(500) % 20
    page = report.render_report(evaluation_of(truth, (truth * 3) % 28, classes))
    assert "confusion many" in page
    assert json.dumps(figures_in(page))
