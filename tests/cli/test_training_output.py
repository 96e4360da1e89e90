from __future__ import annotations

from deepidea.cli.training_output import epoch_progress, show_training_flows
from deepidea.model.training import Epoch


def test_refused_columns_and_class_names_are_shown_as_they_are(capsys):
    contract = {"rows": 1200, "source": "[x].csv", "class_rows": {"benign": 1000, "[red]dos": 200}}
    show_training_flows(contract, {"[b]ip[/b]": "an address, by its name"})
    assert capsys.readouterr().err.splitlines() == [
        "not a feature: [b]ip[/b]: an address, by its name",
        "training on 1,200 flows of [x].csv: benign 1,000, [red]dos 200",
    ]


def test_flows_on_neither_side_are_counted(capsys):
    split = {"left_out": {"embargo": {"benign": 1200, "dos": 3}, "class_not_in_training": {"u2r": 2}}}
    show_training_flows({"rows": 9, "source": "x", "class_rows": {"benign": 9}, "split": split}, {})
    assert capsys.readouterr().err.splitlines()[1:] == [
        "neither trained on nor tested (embargo): benign 1,200, dos 3",
        "neither trained on nor tested (class not in training): u2r 2",
    ]


def test_each_epoch_is_a_line_on_the_standard_error(capsys):
    with epoch_progress() as show:
        show(Epoch(1, 12, 0.5, float("nan"), 3.0))
        show(Epoch(12, 12, 0.25, 0.9876, 75.0))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[1:] == [
        " 1/12      0.5000               -     3.0 s    33.0 s",
        "12/12      0.2500         98.76 %  1 min 15 s     0.0 s",
    ]
