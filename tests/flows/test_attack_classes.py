from __future__ import annotations

import re

import pytest

from deepidea.flows.attack_classes import ATTACK_CLASSES, UNRECOGNISED, attack_class_of, class_title, words_of
from deepidea.flows.taxonomy import TAXONOMIES
from deepidea.simulation.attacks import ATTACKS

OF_TAXONOMIES = {
    name
    for of in TAXONOMIES.values()
    for taxonomy in of.values()
    for name in (*taxonomy.classes, *taxonomy.labels)
    if name != taxonomy.benign and taxonomy.mapping.get(name) != taxonomy.benign
}
OF_SIMULATION = {*ATTACKS, *(attack.class_name for attack in ATTACKS.values())}
ELSEWHERE = {"Analysis", "Backdoor", "Exploits", "Fuzzers", "Reconnaissance", "Shellcode", "Worms", "mitm", "Theft",
             "ransomware", "scanning", "injection", "beacon", "host_sweep", "reflection", "Bot"}  # fmt: skip
NAMES = sorted(OF_TAXONOMIES | OF_SIMULATION | ELSEWHERE | set(ATTACK_CLASSES))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_an_attack_matches_one_pattern(name: str) -> None:
    matching = [of.name for of in ATTACK_CLASSES.values() if re.search(of.pattern, words_of(name))]
    assert matching == [attack_class_of(name).name]


@pytest.mark.parametrize("record", ATTACK_CLASSES.values(), ids=lambda record: record.name)
def test_each_record_is_complete_and_found_by_its_names(record) -> None:
    assert attack_class_of(record.name) is record
    assert [class_title(alias) for alias in record.aliases] == [record.title] * len(record.aliases)
    assert all((record.title, record.eve_category, record.advice))
    assert re.fullmatch(r"T\d{4}", record.technique.uid)
    assert re.fullmatch(r"TA\d{4}", record.technique.tactic_uid)
    assert record.advice.format(host="a", other="b").endswith(".")


@pytest.mark.parametrize("label", ATTACKS)
def test_a_simulated_attack_is_as_urgent_as_its_class(label: str) -> None:
    of_label, of_class = attack_class_of(label), attack_class_of(ATTACKS[label].class_name)
    assert (of_label.severity, of_label.role) == (of_class.severity, of_class.role)


def test_an_unknown_name_is_an_attack_of_high_severity() -> None:
    assert attack_class_of("zeta_strain") is UNRECOGNISED
    assert attack_class_of("benign") is UNRECOGNISED
    assert UNRECOGNISED.severity == 2
