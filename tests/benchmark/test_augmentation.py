"""Generated flows: what they look like, what they are learnt from, what becomes of the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark import augmentation
from deepidea.benchmark.augmentation import Generative, like
from deepidea.benchmark.outputs import number_outputs
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.features import FlowEncoder

QUICK = {"d_hidden": 16, "n_steps": 100, "n_epochs": 1}


def invented_flows() -> LabelledFlows:
    return labelled_flows_from_table(simulate_flows(n_flows=800), "label", "benign")[0]


FLOWS = invented_flows()


def generated(flows: LabelledFlows, **changes: float) -> pl.DataFrame:
    """Return the flows that training adds, with their class."""
    outputs = number_outputs(flows)
    wanted = np.array([0, *[30] * (len(outputs.classes) - 1)])
    system = Generative(**{**QUICK, **changes})
    table, _ = system._generate(flows.features, outputs.target, wanted, flows, 0)
    return table.with_columns(pl.Series("class", np.repeat(outputs.classes, wanted)))


def test_generated_flows_keep_inside_what_training_holds() -> None:
    table, real = generated(FLOWS), FLOWS.features
    assert table.drop("class").schema == real.schema
    for name in FLOWS.schema.numbers:
        assert real[name].min() <= table[name].min() <= table[name].max() <= real[name].max()
    for name in FLOWS.schema.categories:
        assert set(table[name]) <= set(real[name])


def test_generated_flows_look_like_their_class() -> None:
    table = generated(FLOWS, n_steps=600)
    middle = table.group_by("class").agg(pl.col("fwd_bytes", "duration_s").median(), pl.col("service").mode().first())
    rows = {row["class"]: row for row in middle.iter_rows(named=True)}
    assert (
        rows["exfiltration"]["fwd_bytes"] > 20 * rows["brute_force"]["fwd_bytes"] > 20 * rows["port_scan"]["fwd_bytes"]
    )
    assert rows["exfiltration"]["duration_s"] > 20 * rows["beacon"]["duration_s"]
    assert (rows["brute_force"]["service"], rows["beacon"]["service"]) == ("ssh", "http")


def test_decoding_is_the_inverse_of_encoding() -> None:
    encoder = FlowEncoder(FLOWS.schema).fit(FLOWS.features)
    raw = encoder.raw(FLOWS.features)
    again = like(encoder.decode(encoder.scaled(raw), raw.codes), FLOWS.features)
    np.testing.assert_allclose(encoder.transform(again), encoder.transform(FLOWS.features), atol=2e-3)
    assert again.select(FLOWS.schema.categories).equals(FLOWS.features.select(FLOWS.schema.categories))


def test_rare_classes_are_filled_up_to_their_share() -> None:
    system = Generative(target_share=0.04, **QUICK).fit(FLOWS, 0)
    distinct = FLOWS.features.with_columns(label=FLOWS.classes).unique()
    share = np.ceil(0.04 * len(distinct))
    for name, n_generated in system.parameters["generated"].items():
        n_real = distinct.filter(pl.col("label") == name).height
        assert n_generated == (0 if name == "benign" else max(share - n_real, 0))


def test_nothing_is_generated_where_nothing_is_rare() -> None:
    parameters = Generative(target_share=0.0, **QUICK).fit(FLOWS, 0).parameters
    assert set(parameters["generated"].values()) == {0}
    assert parameters["generator_losses"] == []


def test_the_prior_is_that_of_the_real_flows() -> None:
    """Whatever is generated; and a correction for it undoes what was generated."""
    few, many = (Generative(target_share=share, **QUICK).fit(FLOWS, 0) for share in (0.0, 0.2))
    assert few.decision == many.decision
    predictions = many.predict(FLOWS.features)
    own = many.network.detector.score(FLOWS.features)["class"]
    assert np.array_equal(np.array(many.classes)[predictions.predicted], own.to_numpy())
    plain = replace(many.network.decision, temperature=1.0).classify(many.network.assess(FLOWS.features).logits)
    corrected = replace(many.decision, temperature=1.0).corrected(predictions.probabilities).argmax(axis=1)
    assert (np.array(many.network.classes)[plain] == np.array(many.classes)[corrected]).mean() > 0.999


def test_the_generator_sees_training_flows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    train = augmentation.train_generator

    def watch(model, scaled, codes, target, **settings):
        seen.append(len(scaled))
        return train(model, scaled, codes, target, **settings)

    monkeypatch.setattr(augmentation, "train_generator", watch)
    part = FLOWS.take(np.arange(500))
    system = Generative(**QUICK).fit(part, 0)
    system.predict(FLOWS.features)
    assert seen == [part.features.with_columns(label=part.classes).unique().height]


def test_order_of_training_flows_changes_nothing() -> None:
    mixed = FLOWS.take(np.random.default_rng(0).permutation(len(FLOWS)))
    first, second = (Generative(**QUICK).fit(flows, 0).predict(FLOWS.features) for flows in (FLOWS, mixed))
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-3)


def test_flows_may_be_numbers_alone() -> None:
    numbers = FLOWS.schema.restrict([*FLOWS.schema.numbers])
    flows = replace(FLOWS, schema=numbers)
    assert generated(flows).columns == [*numbers.features, "class"]
