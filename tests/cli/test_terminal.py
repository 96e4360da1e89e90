from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.cli.terminal import byte_progress, duration, fail, flow_progress, percent, say
from deepidea.errors import DataError

LONG = "a line of words that is far longer than a terminal of eighty columns, " * 3 + "/tmp/a-path/to/a-file.idea"


def test_lines_are_not_wrapped_so_that_paths_can_be_copied(capsys):
    say(LONG)
    fail(DataError(LONG))
    assert capsys.readouterr().err == f"{LONG}\nerror: {LONG}\n"


@pytest.mark.parametrize(
    "text", ["[red]x[/red]", "a [/] b", ":skull: :key:", "fe80::1", "[0, 1]", "back\\slash\\", "\\[x]"]
)
def test_what_comes_from_outside_is_shown_as_it_is(capsys, text):
    say(text)
    fail(DataError(text))
    assert capsys.readouterr().err == f"{text}\nerror: {text}\n"


def test_the_standard_output_is_for_results_alone(capsys):
    with byte_progress("reading") as progress:
        progress(1, 2)
        progress(2, None)
    with flow_progress("scoring") as done:
        done(5)
    assert capsys.readouterr().out == ""


@given(st.floats(0, 1e7))
def test_durations_never_show_sixty_of_anything(seconds):
    numbers = [float(word) for word in duration(seconds).split()[::2]]
    assert all(number < 60 for number in numbers[1:])
    assert numbers[0] < 60 or " h " in duration(seconds)


@pytest.mark.parametrize(("share", "text"), [(None, "-"), (0.0, "0.00"), (0.12345, "12.35"), (1.0, "100.00")])
def test_shares_are_percent(share, text):
    assert percent(share) == text
