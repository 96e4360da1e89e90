from __future__ import annotations

import polars as pl

from deepidea.cli.model_card import show_card
from deepidea.flows.labelled import LabelledFlows, labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.presets import train_detector


def test_a_card_shows_labels(capsys):
    site = labelled_flows_from_table(simulate_flows(n_flows=300), "label", "benign")[0]
    classes = pl.Series(["benign" if name == "benign" else "[attack]" for name in site.classes])
    flows = LabelledFlows(site.table, site.labels, classes, site.schema, ("benign", "[attack]"))
    show_card(train_detector(flows, labels=True, n_epochs=1, hidden=(4,) * 4, random_state=0))
    printed = capsys.readouterr().out
    assert "labels" in printed
    assert "[attack] (" in printed
    assert "hidden=4x4" in printed
