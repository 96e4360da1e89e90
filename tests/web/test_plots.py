from datetime import UTC, datetime, timedelta

from deepidea.web.plots import by_class, counts_plot, rates_plot
from deepidea.web.views import Series

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def series(**lines: tuple[int, ...]) -> Series:
    n_steps = len(next(iter(lines.values())))
    return Series(60, tuple(NOON + timedelta(minutes=k) for k in range(n_steps)), lines)


def test_an_axis_of_few_alerts_has_whole_numbers_only() -> None:
    few, many = by_class(series(dos=(1, 0), botnet=(1, 2))), by_class(series(dos=(3, 0), botnet=(2, 0)))
    assert few.figure["layout"]["yaxis"]["dtick"] == 1
    assert "dtick" not in many.figure["layout"]["yaxis"]
    assert "dtick" not in rates_plot(series(flows=(1, 2))).figure["layout"]["yaxis"]


def test_steps_without_alerts_have_no_bar_and_no_row() -> None:
    made = counts_plot(series(alerts=(0, 5, 0)), "alerts")
    assert made.figure["data"][0]["y"] == [5]
    assert list(made.table.rows) == [["2026-05-04 12:01", "5"]]


def test_classes_beyond_the_colours_are_one_line() -> None:
    made = by_class(series(**{f"class{k}": (20 - k,) for k in range(12)}))
    assert [trace["name"] for trace in made.figure["data"]][-1] == "all others"
    assert sum(sum(trace["y"]) for trace in made.figure["data"]) == sum(20 - k for k in range(12))
