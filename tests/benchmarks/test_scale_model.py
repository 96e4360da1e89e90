"""The model of a day: what must hold whatever the numbers, and what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.scale_model import (
    Costs,
    Fleet,
    Flood,
    Load,
    fewest,
    flow_through,
    pair_weights,
    process_weights,
    simulate,
    split,
)
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = Costs(1e-5, 1e-6, 1e-4, batch_s=0.0, some_alerts_s=0.0, alert_s=0.0)
FULL = Costs(1e-5, 1e-6, 1e-4, 0.01, 0.03, 2e-4, detect_alert_s=1e-4, sink_s=1e-4, floor_s=0.3)
STEADY = Load(8.64e8, peak=1.0, jitter=0.0, zipf=0.0, n_pairs=100_000)  # 10,000 flows a second, all alike
loads = st.builds(
    Load,
    st.floats(1e8, 3e9),
    st.floats(1, 2),
    alert_share=st.floats(0, 0.1),
    jitter=st.floats(0, 0.3),
    zipf=st.floats(0, 1.2),
    floods=st.just(()) | st.just((Flood(7200.0, 1200.0, 20_000.0, 0.9),)),
    seed=st.integers(0, 9),
)


@settings(max_examples=25)
@given(loads, st.integers(1, 5))
def test_every_flow_that_arrived_is_scored_or_waits(load, n):
    day = simulate(load, Fleet(n), FULL, step_s=60, lasts_s=6 * 3600)
    assert np.allclose(np.cumsum(day.arrived), np.cumsum(day.scored) + day.waiting())
    assert (day.waiting() >= 0).all()
    assert (day.untold >= 0).all()


@settings(max_examples=15)
@given(loads, st.integers(1, 4))
def test_twice_as_many_processes_never_leave_more_waiting(load, n):
    few, many = Fleet(n, shares_each=8), Fleet(2 * n, shares_each=4)
    calm = replace(load, jitter=0.0)  # each process draws its own
    days = [simulate(calm, fleet, QUICK, step_s=60, lasts_s=6 * 3600) for fleet in (few, many)]
    assert (days[1].waiting() <= days[0].waiting() * (1 + 1e-9) + 1e-3).all()


@settings(max_examples=10)
@given(loads)
def test_the_same_seed_gives_the_same_day(load):
    one, two, other = (
        simulate(replace(load, jitter=0.1, seed=seed), Fleet(3), FULL, step_s=60, lasts_s=3600) for seed in (4, 4, 5)
    )
    assert (one.scored == two.scored).all()
    assert (one.delays_s == two.delays_s).all()
    assert not (one.arrived == other.arrived).all()


def test_a_flood_beyond_a_process_waits_as_a_fluid_does():
    flood = Flood(600.0, 300.0, 5_000.0)  # 15,000 a second against 10,000 for five minutes
    load = replace(STEADY, flows_a_day=8.64e8 * 0.8, floods=(flood,))
    day = simulate(load, Fleet(1), QUICK, step_s=1, lasts_s=3600)
    excess, free = 8_000 + 5_000 - 10_000, 10_000 - 8_000
    assert day.waiting().max() == pytest.approx(excess * 300)
    longest = day.delays_s.max() - QUICK.linger_s / 2
    assert longest == pytest.approx(excess * 300 / 10_000, abs=0.5)
    last_step = 8_000 / free  # what comes in a step may wait at its end
    assert day.drained_s(900.0) == pytest.approx(excess * 300 / free, abs=last_step + 1)


def test_what_overloads_a_process_all_day_grows_by_the_excess():
    day = simulate(replace(STEADY, flows_a_day=1.5 * 8.64e8), Fleet(1), QUICK, step_s=10, lasts_s=3600)
    assert day.waiting() == pytest.approx(np.arange(1, 361) * 10 * 5_000)
    assert day.drained_s(0) == float("inf")
    assert day.delay_s(0.99) == float("inf")  # the last of them are not scored yet


def test_a_store_that_is_short_is_what_limits_judging():
    costs = replace(QUICK, batch_s=0.5, alert_s=1e-3)  # of 8,192 flows with 82 alerts: 0.58 s
    day = simulate(replace(STEADY, flows_a_day=2 * 8.64e8, alert_share=0.01), Fleet(4), costs, step_s=10, lasts_s=3600)
    assert day.store == pytest.approx(1.0)
    assert day.scored / 10 == pytest.approx(8192 / (0.5 + 81.92e-3))
    assert day.alerts.sum() == pytest.approx(0.01 * day.scored.sum())


def test_a_broker_that_is_short_lets_flows_wait_before_it():
    day = simulate(replace(STEADY, flows_a_day=8.64e8), Fleet(4), replace(QUICK, broker_s=2e-4), lasts_s=3600)
    assert day.queued.max() == pytest.approx(0)
    assert day.unpublished[-1] == pytest.approx(5_000 * 3600)
    assert day.broker == pytest.approx(1.0)


def test_publishers_and_cores_are_limits_too():
    slow = simulate(STEADY, Fleet(4, publishers=1), replace(QUICK, publish_s=2e-4), lasts_s=600)
    assert slow.scored / 10 == pytest.approx(5_000)
    short = simulate(STEADY, Fleet(4, cores=0.5), replace(QUICK, broker_s=0.0), lasts_s=600)
    assert short.scored / 10 == pytest.approx(5_000)


def test_a_flood_of_one_pair_burdens_one_process_alone():
    flood = Flood(600.0, 600.0, 20_000.0, one_pair=True)
    day = simulate(replace(STEADY, floods=(flood,)), Fleet(8), QUICK, step_s=10, lasts_s=7200)
    longest = day.delays_s.max(axis=0)
    assert (longest[1:] < 1).all()
    assert longest[0] > 60


def test_a_sink_that_is_slow_holds_up_no_verdict():
    load = replace(STEADY, alert_share=0.1)
    fast, slow = (simulate(load, Fleet(4), replace(QUICK, sink_s=s), lasts_s=600) for s in (0.0, 2e-3))
    assert (fast.scored == slow.scored).all()
    assert fast.untold.max() == 0
    assert slow.untold[-1] == pytest.approx(500 * 600)


@given(st.integers(1, 100_000_000), st.floats(0, 1.5), st.integers(1, 40), st.integers(0, 5))
def test_parts_of_pairs_and_of_processes_add_up(n_pairs, zipf, n, seed):
    heaviest, others = pair_weights(n_pairs, zipf)
    assert heaviest.sum() + others == pytest.approx(1)
    assert (np.diff(heaviest) <= 0).all()
    weights = process_weights(Load(1e9, n_pairs=n_pairs, zipf=zipf, seed=seed), Fleet(n))
    assert weights.sum() == pytest.approx(1)


def test_the_tail_of_the_pairs_is_what_a_sum_would_give():
    n, zipf = 200_000, 0.8
    every = np.arange(1, n + 1) ** -zipf
    assert pair_weights(n, zipf)[0][0] == pytest.approx(1 / every.sum(), rel=1e-4)


def test_a_day_has_the_flows_that_it_is_reported_to_have():
    day = simulate(Load(1e9, jitter=0.0, zipf=0.0, n_pairs=10**6), Fleet(2), QUICK)
    assert day.arrived.sum() == pytest.approx(1e9)
    assert day.arrived.max() / day.arrived.mean() == pytest.approx(2, rel=1e-4)


def test_cells_share_flows_and_floods_evenly():
    load = Load(1e10, n_pairs=1000, floods=(Flood(0.0, 60.0, 100.0),))
    part = split(load, 4)
    assert (part.flows_a_day, part.n_pairs, part.floods[0].flows_per_s) == (2.5e9, 250, 25.0)


def test_turns_of_many_shares_take_their_time_and_batches_are_full_at_most():
    few, many = (simulate(STEADY, Fleet(4, shares_each=n), replace(QUICK, batch_s=0.01), lasts_s=60) for n in (4, 400))
    assert few.cycle_s[-1] == pytest.approx(0.2)  # sixteen turns take less than the time that is waited for flows
    assert many.cycle_s[-1] == pytest.approx(16.0)
    crammed = simulate(STEADY, Fleet(1, shares_each=1), replace(QUICK, batch_s=10.0), lasts_s=60)
    assert crammed.cycle_s[-1] <= 8192 / (crammed.scored[-1] / 10) + 1e-6


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Load(0), "flows_a_day must be above 0"),
        (lambda: Load(1e9, peak=3), "peak must be in 1..2"),
        (lambda: Load(1e9, alert_share=2), "alert_share must be in 0..1"),
        (lambda: Load(1e9, jitter=-1), "jitter must be 0 or more"),
        (lambda: Load(1e9, n_pairs=0), "n_pairs must be 1 or more"),
        (lambda: Load(1e9, zipf=-0.1), "zipf must be 0 or more"),
        (lambda: Fleet(0), "processes must be 1 or more"),
        (lambda: Fleet(1, shares_each=0), "shares_each must be 1 or more"),
        (lambda: Fleet(1, efficiency=1.5), "efficiency must be above 0"),
        (lambda: Fleet(1, publishers=0), "publishers must be 1 or more"),
        (lambda: Fleet(1, cores=0), "cores must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


def test_the_least_number_is_found():
    for wanted in range(1, 40):
        assert fewest(lambda n, least=wanted: n >= least, 64) == wanted
    assert fewest(lambda n: n >= 65, 64) is None


def test_flows_of_any_shape_go_through():
    flows = np.zeros((50, 2))
    flows[0] = 1e4, 5e3
    day = flow_through(flows, 0 * flows, Fleet(2), QUICK, step_s=0.1)
    assert day.scored.sum() == pytest.approx(1.5e4)
    assert np.flatnonzero(day.scored)[-1] == 9  # the fuller queue takes a second
