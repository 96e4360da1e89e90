"""Plans stand on result files, say what they assume, and meet what they promise."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from benchmarks.result_files import read_result
from benchmarks.scale import Assumed, Measured, Planner, emptied_at, main, plan, validation
from benchmarks.scale_model import Costs, Fleet

QUICKLY = Assumed(step_s=120.0)


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(Measured.read(), QUICKLY)


def test_a_plan_holds_and_a_process_less_does_not(planner):
    planned = plan(planner, 3e9)
    cells, each = planned["cells"], planned["processes"] // planned["cells"]
    assert planner.holds(3e9, cells, each)
    assert not planner.holds(3e9, cells, each - 1)
    assert planned["calm"]["p99_s"] <= QUICKLY.delay_bound_s
    assert max(planned["calm"][name] for name in ("process", "broker", "store")) <= QUICKLY.most_busy
    assert planned["calm"]["left"] == planned["flooded"]["left"] == 0


def test_ten_times_the_flows_take_about_ten_times_as_much(planner):
    small, large = plan(planner, 1e9), plan(planner, 1e10)
    for name in ("wire_tb_a_day", "store_gb_a_day", "parquet_gb_a_day"):
        assert large[name] / small[name] == pytest.approx(10, rel=0.1)
    assert 4 <= large["cores"] / small["cores"] <= 12
    assert small["cost"]["a_day"] < large["cost"]["a_day"] < 12 * small["cost"]["a_day"]


def test_the_first_limit_is_the_least_and_a_flood_lowers_that_of_the_store(planner):
    planned = plan(planner, 1e9)
    assert planned["limits"][planned["limits_first"]] == min(
        of for stage, of in planned["limits"].items() if stage != "sink"
    )
    assert planned["flood_limits"]["store"] < planned["limits"]["store"]
    noisy = Planner(planner.measured, replace(QUICKLY, alert_share=0.01))
    assert noisy.limits(1e9)["store"] < planner.limits(1e9)["store"]


def test_slower_measurements_make_a_larger_plan(planner):
    slow = json.loads(json.dumps(planner.measured.of))
    slow["shared_stream"]["speed"]["one"] = [rate / 4 for rate in slow["shared_stream"]["speed"]["one"]]
    assert plan(Planner(Measured(slow), QUICKLY), 1e9)["processes"] > plan(planner, 1e9)["processes"]


def test_prices_change_costs_alone(planner):
    dear = Planner(planner.measured, replace(QUICKLY, price_core_hour=0.4, price_gb_wire=0.0))
    cheap, found = plan(planner, 1e9), plan(dear, 1e9)
    assert found["cost"]["cores"] == pytest.approx(10 * cheap["cost"]["cores"])
    assert found["cost"]["wire"] == 0
    assert {**found, "cost": 0, "without_a_stream": 0} == {**cheap, "cost": 0, "without_a_stream": 0}


def test_the_model_is_held_against_what_was_measured(planner):
    errors = validation(planner.measured)
    for name in ("one", "two", "ratio"):
        assert errors[name]["error"] == pytest.approx(errors[name]["model"] / errors[name]["measured"] - 1, abs=1e-3)
        assert abs(errors[name]["error"]) < 0.35, "the model is no guide any more: find out why before planning by it"


def test_processes_on_cores_that_they_share_with_servers_empty_a_stream_as_worked_out():
    costs = Costs(0.0, 1e-5, 4e-5, 0.0, 0.0, 0.0, store_server_s=1e-5)
    assert emptied_at(1e5, Fleet(1, cores=2), costs, alert_share=0.0) == pytest.approx(25_000, rel=0.02)
    assert emptied_at(1e5, Fleet(2, cores=2), costs, alert_share=0.0) == pytest.approx(2 / 6e-5, rel=0.02)


def test_the_committed_plan_is_that_of_the_committed_measurements():
    committed, measured = read_result("scale"), Measured.read()
    planned = json.loads(json.dumps(plan(Planner(measured, Assumed()), 1e9)))
    assert committed["plans"][0] == planned, "run: python -m benchmarks.scale"
    assert committed["validation"] == validation(measured)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--peak", "3"], "peak must be in 1..2"),
        (["--peak", "0"], "peak must be above 0"),
        (["--flows-a-day", "-1"], "flows_a_day must be above 0"),
        (["--price-core-hour", "-1"], "price_core_hour must be at least 0"),
        (["--zipf", "nan"], "zipf must be at least 0"),
        (["--efficiency", "2"], "efficiency must be above 0, and 1 at most"),
    ],
)
def test_what_cannot_be_is_refused(options, rule, capsys):
    with pytest.raises(SystemExit) as left:
        main(options)
    assert left.value.code == 2
    assert rule in capsys.readouterr().err


def test_own_numbers_are_printed_and_change_no_result_file(tmp_path, capsys):
    out = tmp_path / "scale.json"
    given = ["--flows-a-day", "2e8", "--step-s", "300", "--price-core-hour", "0.1", "--out", str(out)]
    main(given)
    assert "cells" in capsys.readouterr().out
    assert not out.exists()
    main([*given, "--write"])
    assert json.loads(out.read_text())["assumed"]["price_core_hour"] == 0.1


def test_every_assumption_is_documented():
    documented = re.findall(r"`--([\w-]+)`", (Path(__file__).parents[2] / "docs" / "scale.md").read_text())
    names = {one.name for one in fields(Assumed)}
    assert names <= set(re.findall(r"\w+", str(Assumed.__doc__)))
    assert names <= {name.replace("-", "_") for name in documented}
