"""Ground truth by instance: who attacks whom, from when to when, how strongly; and which flows belong to it."""

from __future__ import annotations

import polars as pl
import pytest

from deepidea.errors import SchemaError
from deepidea.packets.meter import meter_capture
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.ground_truth import LabelJoin, label_flows, read_labels
from deepidea.simulation.instances import attack_instances
from deepidea.simulation.simulate import simulate_capture


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("lab")
    simulate_capture(folder / "lab.pcap", folder / "lab.csv", seed=4, minutes=1.0, hosts=12, snaplen=128)
    return pl.concat(list(meter_capture(folder / "lab.pcap"))), read_labels(folder / "lab.csv")


def test_each_attack_has_two_instances_or_more_with_everything_about_them(lab):
    _, labels = lab
    instances = attack_instances(labels)
    assert set(instances.group_by("label").len().filter(pl.col("len") >= 2)["label"]) == set(ATTACKS)
    for row in instances.iter_rows(named=True):
        attack = ATTACKS[row["label"]]
        assert row["class"] == attack.class_name
        assert [part.split("=")[0] for part in row["strength"].split()] == list(attack.strength)
        assert row["sources"]
        assert row["targets"]
        assert row["first"] <= row["last"]


def test_instances_count_the_conversations_of_attacks_and_no_others(lab):
    _, labels = lab
    assert attack_instances(labels)["conversations"].sum() == (labels["label"] != "benign").sum()
    assert labels.filter(pl.col("label") == "benign")["instance"].null_count() == (labels["label"] == "benign").sum()


def test_flows_of_each_instance_are_found_in_the_capture(lab):
    flows, labels = lab
    labelled = label_flows(flows, labels, join=LabelJoin(), instances=True)
    assert set(labelled["instance"].drop_nulls()) == set(attack_instances(labels)["instance"])
    kinds = labelled.drop_nulls("instance").select("label", kind=pl.col("instance").str.split("-").list.first())
    assert (kinds["label"] == kinds["kind"]).all()


def test_ground_truth_without_instances_is_refused():
    with pytest.raises(SchemaError, match="no column instance"):
        attack_instances(pl.DataFrame({"label": ["scan"]}))
