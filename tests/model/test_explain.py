"""Explanations: complete on every network, right on what is planted, in words that hold."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.schema import get_schema
from deepidea.model.estimators import DeepIDEAClassifier
from deepidea.model.explain import MOST_STEPS, TOLERANCE, Explainer, explain
from deepidea.model.features import NUMBER_SCALINGS
from deepidea.model.graph import read_layers
from tests.model.conftest import simulated_flows


@pytest.fixture(scope="module")
def explainer(detector):
    return Explainer(detector)


def attacks(detector, flows):
    return flows.filter(detector.score(flows)["class"] != detector.benign)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": ()},
        {"hidden": (16,), "novelty": "none"},
        {"hidden": (12,) * 10, "tau": 0.0},
        {"hidden": (8, 8), "scaling": "min-max", "temperature": 2.0},
        {"hidden": (8, 8), "number_encoding": "thermometer"},
        {"hidden": (8, 8), "number_encoding": "scaled+piecewise-linear"},
    ],
    ids=str,
)
def test_pushes_add_up_to_the_log_odds_for_any_network_of_a_file(options, flows):
    table, classes = simulated_flows()
    detector = DeepIDEAClassifier(**options, random_state=0, min_steps=200).fit(table, classes).to_detector()
    for found in explain(detector, flows.head(40), top=99):
        pushes = sum(reason.push for reason in found.reasons)
        assert len(found.reasons) == 3
        assert sum(found.kinds.values()) == pytest.approx(pushes)
        assert pushes + found.other_push - found.residual == pytest.approx(found.log_odds - found.benign_log_odds)
        allowed = TOLERANCE * max(abs(found.log_odds - found.benign_log_odds), 1)
        assert abs(found.residual) <= allowed or found.n_steps == MOST_STEPS
        shares = sum(reason.share for reason in found.reasons)
        assert shares == pytest.approx(1 if any(reason.push > 0 for reason in found.reasons) else 0, abs=1e-6)


@pytest.mark.parametrize("kinds", [["packets", "bytes"], ["service"], ["packets", "bytes", "service"]], ids=str)
@pytest.mark.parametrize("scaling", NUMBER_SCALINGS)
def test_layers_are_read_back_from_the_graph(kinds, scaling):
    table, classes = simulated_flows(200)
    options = {"hidden": (5, 4), "min_steps": 5, "random_state": 0, "scaling": scaling}
    classifier = DeepIDEAClassifier(**options).fit(table.select(kinds), classes)
    layers = read_layers(classifier.to_detector().graph, classifier.encoder_)
    for (weight, bias), (told_weight, told_bias) in zip(classifier._layers(), layers, strict=True):
        assert (weight == told_weight).all()
        assert (bias == told_bias).all()


def test_agrees_with_captum_on_the_torch_network(classifier, detector, flows):
    from captum.attr import IntegratedGradients

    flow = attacks(detector, flows).head(1)
    [found] = Explainer(detector, n_steps=50).explain(flow, top=99)
    known, code = detector.reference, detector.classes.index(found.class_name)
    starts = torch.from_numpy(detector.encoder.transform(known.baselines))
    x = torch.from_numpy(detector.encoder.transform(flow)).expand(len(starts), -1)
    odds = IntegratedGradients(lambda z: (lambda y: y[:, code] - y[:, 0])(classifier.network_(z)))
    each = odds.attribute(x, starts, n_steps=50, method="riemann_middle").detach().numpy()
    theirs = np.array(known.baseline_weights) @ each / detector.decision.temperature
    ours = {reason.name: reason.push for reason in found.reasons}
    assert ours["packets"] == pytest.approx(theirs[0], abs=1e-3)
    assert ours["bytes"] == pytest.approx(theirs[1], abs=1e-3)
    assert ours["service"] == pytest.approx(theirs[2:].sum(), abs=1e-3)


@pytest.mark.parametrize("number_encoding", ["scaled", "thermometer"])
def test_a_planted_cause_is_found(number_encoding):
    rng = np.random.default_rng(0)
    table = pl.DataFrame({f"x{j}": rng.normal(size=2000) for j in range(8)})
    classes = np.where(table["x5"] > 1.5, "scan", "benign")
    options = {"hidden": (32,), "random_state": 0, "min_steps": 1500, "number_encoding": number_encoding}
    detector = DeepIDEAClassifier(**options).fit(table, classes).to_detector()
    scans = attacks(detector, table.filter(pl.col("x5") > 2)).head(20)
    first = [found.reasons[0] for found in explain(detector, scans)]
    assert {reason.name for reason in first} == {"x5"}
    assert min(reason.share for reason in first) > 0.4
    assert {reason.direction for reason in first} == {"attack"}


def test_more_flows_at_once_and_other_tops_change_nothing(explainer, flows):
    together = explainer.explain(flows.head(20), top=2)
    assert together == [found for row in range(20) for found in explainer.explain(flows[row], top=2)]
    assert [f.headline for f in explainer.explain(flows.head(20), top=1)] == [f.headline for f in together]


def test_an_explanation_is_plain_json(explainer, flows):
    odd = flows.head(2).with_columns(bytes=pl.Series([np.inf, None]), service=pl.Series(["dns", None]))
    written = json.loads(json.dumps([found.to_dict() for found in explainer.explain(odd)], allow_nan=False))
    reasons = [{reason["name"]: reason for reason in one["reasons"]} for one in written]
    assert (reasons[0]["bytes"]["value"], reasons[0]["bytes"]["raw"]) == ("infinite", "inf")
    assert (reasons[1]["bytes"]["value"], reasons[1]["service"]["value"]) == ("missing", "missing")


def test_a_word_that_no_benign_flow_had_is_reported(explainer, flows):
    [found] = explainer.explain(flows.head(1).with_columns(service=pl.lit("other")), top=9)
    service = next(reason for reason in found.reasons if reason.name == "service")
    assert service.benign_range == "never seen in benign flows"
    assert service.push > 0


def test_anomaly_alone_is_reported_by_what_lies_outside(explainer, flows):
    strange = flows.head(1).with_columns(packets=pl.lit(1e6), bytes=pl.lit(20.0), service=pl.lit("dns"))
    [found] = explainer.explain(strange, basis="anomaly")
    assert found.basis == "anomaly"
    assert found.reasons[0].name == "packets"
    assert found.headline == "Unlike benign flows: 1,000,000 packets"
    [usual] = explainer.explain(explainer.reference.baselines.head(1), basis="anomaly")
    assert usual.headline == "Unlike benign flows in how features come together, not in any one"


def test_without_a_reference_medians_stand_in(detector, flows):
    old = detector.with_options(reference=None)
    [found] = explain(old, attacks(detector, flows).head(1))
    assert (found.range_of, found.n_benign) == ("none", 0)
    assert {reason.benign_range for reason in found.reasons} == {""}
    assert found.headline.startswith("Looks like ")


def test_the_sites_flows_come_first(detector, flows):
    site = detector.with_options(site_reference=detector.reference)
    assert explain(site, flows.head(1))[0].range_of == "site"


def test_a_class_must_be_known(explainer, flows):
    with pytest.raises(DataError, match="unknown class 'worm'; the detector has benign, flood, scan"):
        explainer.explain(flows.head(1), classes=["worm"])


def changed_graph(detector, **attributes):
    """Return the detector with a graph whose last layers do other than ours."""
    import onnx

    model = onnx.load_model_from_string(detector.graph)
    for node in model.graph.node:
        if node.op_type == attributes["of"]:
            node.op_type = attributes.get("becomes", node.op_type)
            node.attribute.extend(onnx.helper.make_attribute("alpha", v) for v in attributes.get("alpha", ()))
    return detector.with_options(graph=model.SerializeToString())


def test_a_graph_of_other_hands_is_refused(detector, flows):
    with pytest.raises(ArtifactError, match=r"model\.onnx and its layers differ by"):
        explain(changed_graph(detector, of="Gemm", alpha=[3.0]), flows.head(1))
    with pytest.raises(ArtifactError, match=r"cannot read the layers of model\.onnx"):
        explain(changed_graph(detector, of="Relu", becomes="Abs"), flows.head(1))


@pytest.mark.parametrize("name", ["conn+context", "cicflow+context"])
def test_flows_with_context_are_explained(name):
    schema = get_schema(name)
    rng = np.random.default_rng(0)
    columns = {c: rng.choice(["a", "b"], 300) for c in schema.categories} | {
        c: rng.lognormal(size=300) for c in schema.numbers
    }
    table = schema.conform(pl.DataFrame(columns))
    classes = np.where(table["src_dst_ports_60s"] > 1.5, "port_scan", "benign")
    options = {"hidden": (16,), "random_state": 0, "min_steps": 300, "schema": schema}
    detector = DeepIDEAClassifier(**options).fit(table, classes).to_detector()
    found = explain(detector, table.filter(pl.col("src_dst_ports_60s") > 3).head(5))
    assert sum("ports contacted by the source in 60 s" in one.headline for one in found) >= 4


def test_explaining_needs_no_torch(detector, flows, tmp_path):
    model, table = tmp_path / "model.idea", tmp_path / "flows.parquet"
    detector.with_options(weights=None).save(model)
    flows.head(3).write_parquet(table)
    script = f"""
import sys
for name in ("torch", "sklearn", "safetensors", "plotly", "captum"):
    sys.modules[name] = None
import polars as pl
from deepidea import Detector
from deepidea.model.explain import explain
print(len(explain(Detector.load({str(model)!r}), pl.read_parquet({str(table)!r}))))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "3", run.stderr
