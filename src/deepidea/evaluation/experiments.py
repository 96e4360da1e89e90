"""Experiments: which flows of which data set train, and which test, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepidea.evaluation.protocol import flows_to_test, flows_to_train
from deepidea.flows.labelled import LabelledFlows


@dataclass(frozen=True, slots=True)
class Experiment:
    """Training and test flows under one schema, and what has to be told of how they were dealt.

    Attributes
    ----------
    train, test : LabelledFlows
        Of the same schema. A class of the test may be one that training does not show only where the protocol leaves
        out whole attack types.
    told : mapping
        JSON values: data set, taxonomy, files with hashes, protocol and its parameters, counts of what was dropped.
    """

    train: LabelledFlows
    test: LabelledFlows
    told: Mapping[str, Any]


TAXONOMY = {"cicids17": "paper", "cicids17-improved": "paper", "cicids18": "paper"}


def deal_experiment(data: str, protocol: str = "auto", *, seed: int = 0) -> Experiment:
    """Return the flows of an experiment.

    Parameters
    ----------
    data : str
        Name of a registered data set.
    protocol : str
        "auto" is the publisher's split where there is one, else a stratified one.
    seed : int
        Of what is drawn; an official split does not depend on it.
    """
    part = flows_to_train(data, taxonomy=TAXONOMY.get(data), split_seed=seed)
    test = flows_to_test(data, part.flows.schema, part.contract)
    return Experiment(part.flows, test, {**part.contract, "protocol": protocol, "seed": seed})
