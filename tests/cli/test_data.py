from __future__ import annotations

from deepidea.cli.data import show_datasets


def test_data_sets_are_listed_with_what_is_registered(capsys):
    show_datasets({"kdd99": None}, {"kdd99": "KDD Cup 1999"})
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "kdd99",
        "KDD",
        "Cup",
        "1999",
        "-",
        "-",
        "not",
        "registered",
    ]
