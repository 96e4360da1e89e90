from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import DatasetError, LabelError
from deepidea.flows.taxonomy import (
    TAXONOMIES,
    Taxonomy,
    format_counts,
    get_taxonomy,
    normalise_label,
    normalise_labels,
)

ALL = [(dataset, name) for dataset, known in TAXONOMIES.items() for name in known]

KDD_TEST_ONLY = frozenset(  # attack types of the test set alone
    {"apache2", "mailbomb", "processtable", "udpstorm", "mscan", "saint", "httptunnel", "ps", "sqlattack", "xterm"}
    | {"named", "sendmail", "snmpgetattack", "snmpguess", "worm", "xlock", "xsnoop"}
)


@pytest.mark.parametrize(("dataset", "name"), ALL)
def test_every_taxonomy_maps_every_label_of_its_own(dataset: str, name: str) -> None:
    taxonomy = get_taxonomy(dataset, name)
    classes = taxonomy.apply(pl.Series(list(taxonomy.labels)))
    assert taxonomy.classes[0] == "benign"
    assert set(classes.drop_nulls()) == set(taxonomy.classes)
    assert classes.null_count() == len(taxonomy.dropped)
    assert all(normalise_label(label) == label for label in taxonomy.labels)


@given(st.sampled_from(["smurf", "normal"]), st.sampled_from(["", " ", "  "]), st.sampled_from(["", "."]))
def test_kdd_labels_are_found_in_any_spelling(label: str, space: str, dot: str) -> None:
    taxonomy = get_taxonomy("kdd99")
    spelt, _ = normalise_labels(pl.Series([space + label.title() + dot + space]), taxonomy)
    assert spelt.to_list() == [label]


@pytest.mark.parametrize("dash", ["\x96", " \u2013 ", "\ufffd", " - ", " \u00ef\u00bf\u00bd ", "\u00e2\u20ac\u201c"])
def test_every_dash_of_the_web_attacks_is_one(dash: str) -> None:
    taxonomy = get_taxonomy("cicids17")
    spelt, quirks = normalise_labels(pl.Series([f"Web Attack{dash}Sql Injection"]), taxonomy)
    assert taxonomy.apply(spelt).to_list() == ["web_attack"]
    assert quirks == ({} if dash == " - " else {"labels_with_odd_dash": 1})


def test_changes_are_counted_by_row() -> None:
    labels = pl.Series(["smurf.", "smurf.", "normal", " PERL."])
    spelt, quirks = normalise_labels(labels, get_taxonomy("kdd99"))
    assert spelt.to_list() == ["smurf", "smurf", "normal", "perl"]
    assert quirks == {"labels_with_final_dot": 3, "labels_with_spaces": 1, "labels_in_other_case": 1}


def test_the_paper_moves_two_types_of_kdd99() -> None:
    official, paper = get_taxonomy("kdd99").mapping, get_taxonomy("kdd99", "paper").mapping
    moved = {label: (official[label], paper[label]) for label in official if official[label] != paper[label]}
    assert moved == {"warezmaster": ("r2l", "dos"), "named": ("r2l", "u2r")}


OFFICIAL = {"benign": 60_593, "dos": 229_853, "probe": 4_166, "u2r": 228, "r2l": 16_189}
PAPER = {"benign": 60_593, "dos": 231_455, "probe": 4_166, "u2r": 245, "r2l": 14_570}


@pytest.mark.data
@pytest.mark.parametrize(("name", "expected"), [("official", OFFICIAL), ("paper", PAPER)])
def test_kdd99_class_counts(data_root: Path, name: str, expected: dict[str, int]) -> None:
    taxonomy = get_taxonomy("kdd99", name)
    raw = pl.read_csv(data_root / "kdd99" / "corrected.gz", has_header=False, columns=[41]).to_series()
    labels, quirks = normalise_labels(raw, taxonomy)
    assert dict(taxonomy.apply(labels).value_counts().iter_rows()) == expected
    assert quirks == {"labels_with_final_dot": 311_029}
    test_only = labels.filter(labels.is_in(list(KDD_TEST_ONLY)))
    assert (test_only.n_unique(), len(test_only)) == (17, 18_729)


def test_unknown_labels_are_listed_with_rows() -> None:
    labels = pl.Series(["normal", "smurff", "smurff", "worms"])
    with pytest.raises(LabelError, match=r"smurff \(2\), worms \(1\); nearest: smurf"):
        get_taxonomy("kdd99").apply(labels)


def test_null_labels_are_refused() -> None:
    with pytest.raises(LabelError, match="1 flows have no label"):
        get_taxonomy("kdd99").apply(pl.Series(["normal", None]))


@pytest.mark.parametrize(("policy", "expected"), [("benign", "benign"), ("drop", None), ("own", "attempted")])
def test_attempted_labels_follow_the_policy(policy: str, expected: str | None) -> None:
    taxonomy = get_taxonomy("cicids17-improved", attempted=policy)  # type: ignore[arg-type]
    labels, _ = normalise_labels(pl.Series(["DoS Slowloris - Attempted", "DoS Slowloris"]), taxonomy)
    assert taxonomy.apply(labels).to_list() == [expected, "dos"]


def test_a_taxonomy_needs_a_benign_label_and_no_contradiction() -> None:
    with pytest.raises(LabelError, match="maps no label to benign"):
        Taxonomy("bad", {"a": "dos"})
    with pytest.raises(LabelError, match="maps and drops x"):
        Taxonomy("bad", {"a": "benign", "x": "dos"}, frozenset("x"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"'kdd98'; .* kdd99"):
        get_taxonomy("kdd98")
    with pytest.raises(LabelError, match=r"'family'; .* official, paper, native"):
        get_taxonomy("kdd99", "family")
    with pytest.raises(LabelError, match="no attempted labels"):
        get_taxonomy("kdd99", attempted="drop")


def test_counts_are_listed_most_frequent_first() -> None:
    assert format_counts(pl.Series("label", ["b", "a", "a", "c"]), most=2) == "a (2), b (1), and 1 more"
