"""A day of flows through publishers, a broker, processes that detect and one store, as fluids in steps of time.

Flows are cut by pairs of hosts, whose sizes follow Zipf's law, into shares, and shares into processes: one that holds
the heaviest pair has more to do than the others. What a stage cannot do in a step waits in front of it. A process
serves at most what its core allows; the store serves one writer at a time, and its turn takes so much a batch, so much
where there are alerts at all, and so much an alert. Where the store is behind, batches grow to their largest size
first, and then the processes wait for it, so that flows queue in the broker: nothing is dropped.

Everything that this module knows of the project it is given: :mod:`benchmarks.scale` takes it from result files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400.0
LISTED_PAIRS = 10_000  # pairs that are dealt one by one; the others are so many that every share gets its part
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Costs:
    """What each stage takes, in seconds: of a core, or of the one who may write.

    Parameters
    ----------
    publish_s, broker_s, detect_s, store_server_s
        A flow, in the publisher, in the broker (in and out), in the process that detects, in the store's server.
    batch_s, some_alerts_s, alert_s
        A transaction of the store, one that has alerts beside that, and each alert.
    detect_alert_s
        An alert, in the process that detects.
    sink_s
        An alert, from the store to its sink.
    floor_s
        From a flow's end to its verdict where nothing waits.
    batch_flows
        Most flows of a transaction.
    linger_s
        How long a process waits for more flows.
    """

    publish_s: float
    broker_s: float
    detect_s: float
    batch_s: float
    some_alerts_s: float
    alert_s: float
    detect_alert_s: float = 0.0
    sink_s: float = 0.0
    store_server_s: float = 0.0
    floor_s: float = 0.0
    batch_flows: int = 8_192
    linger_s: float = 0.2

    def store_s(self, alerts: float, n_batches: float) -> float:
        """Return how long the store is written to for so many alerts in so many transactions."""
        if n_batches <= 0:
            return 0.0
        with_alerts = -np.expm1(-alerts / n_batches)
        return float(n_batches * (self.batch_s + with_alerts * self.some_alerts_s) + alerts * self.alert_s)


@dataclass(frozen=True, slots=True)
class Flood:
    """Flows beside the usual ones: so many a second from a time on, dealt to all shares or of one pair alone."""

    begins_s: float
    lasts_s: float
    flows_per_s: float
    alert_share: float = 1.0
    one_pair: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """A day's flows.

    Parameters
    ----------
    flows_a_day
        Without floods.
    peak
        The busiest minute against the mean, by a cosine over the day; jitter comes on top.
    peak_s
        When that is.
    alert_share
        Alerts a flow.
    jitter
        Deviation of the logarithm of a process's rate, drawn anew each minute.
    n_pairs, zipf
        Pairs of hosts, and the exponent by which their sizes fall; 0 is all alike.
    floods
    seed
    """

    flows_a_day: float
    peak: float = 2.0
    peak_s: float = 14 * 3600.0
    alert_share: float = 1e-4
    jitter: float = 0.1
    n_pairs: int = 1_000_000
    zipf: float = 0.8
    floods: tuple[Flood, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _must(self.flows_a_day > 0, "flows_a_day must be above 0", self.flows_a_day)
        _must(1 <= self.peak <= 2, "peak must be in 1..2, beyond a cosine has no night", self.peak)
        _must(0 <= self.alert_share <= 1, "alert_share must be in 0..1", self.alert_share)
        _must(self.jitter >= 0, "jitter must be 0 or more", self.jitter)
        _must(self.n_pairs >= 1, "n_pairs must be 1 or more", self.n_pairs)
        _must(self.zipf >= 0, "zipf must be 0 or more", self.zipf)

    @property
    def mean_per_s(self) -> float:
        """Flows a second, over the day."""
        return self.flows_a_day / DAY_S

    def rate(self, times_s: NDArray[np.floating[Any]]) -> Floats:
        """Return the usual flows a second at times of the day."""
        return np.asarray(
            self.mean_per_s * (1 + (self.peak - 1) * np.cos(2 * np.pi * (times_s - self.peak_s) / DAY_S)), np.float64
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the flows are given.

    Parameters
    ----------
    processes
        That detect, a core each.
    shares_each
        Shares of the stream for each of them.
    efficiency
        What each does of what one alone does.
    publishers
        A core each; None is as many as it takes.
    cores
        Cores that processes and servers have together; None where none lacks one.
    """

    processes: int
    shares_each: int = 4
    efficiency: float = 1.0
    publishers: int | None = None
    cores: float | None = None

    def __post_init__(self) -> None:
        _must(self.processes >= 1, "processes must be 1 or more", self.processes)
        _must(self.shares_each >= 1, "shares_each must be 1 or more", self.shares_each)
        _must(0 < self.efficiency <= 1, "efficiency must be above 0, and 1 at most", self.efficiency)
        _must(self.publishers is None or self.publishers >= 1, "publishers must be 1 or more", self.publishers)
        _must(self.cores is None or self.cores > 0, "cores must be above 0", self.cores)


def _must(holds: bool, rule: str, fact: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, got {fact}")


@dataclass(frozen=True, slots=True)
class Day:
    """What became of the flows, all by step unless said otherwise.

    Parameters
    ----------
    step_s
    arrived, scored, alerts
        Flows that came, flows whose verdict is stored, and the alerts among these.
    unpublished, queued
        Flows that wait for the broker, and in it, at the end of each step.
    untold
        Alerts that wait for the sink.
    broker, store, process
        Share of the step in which the broker, the store's writer, and the busiest process had something to do.
    cycle_s
        Time in which every share has its turn.
    delays_s, weights
        Seconds from a flow's end to its verdict, and how many flows that holds for, by step and process; infinite
        where there was none within the time simulated.
    """

    step_s: float
    arrived: Floats
    scored: Floats
    alerts: Floats
    unpublished: Floats
    queued: Floats
    untold: Floats
    broker: Floats
    store: Floats
    process: Floats
    cycle_s: Floats
    delays_s: Floats = field(repr=False)
    weights: Floats = field(repr=False)

    def delay_s(self, share: float) -> float:
        """Return the delay that this share of the flows did not exceed."""
        order = np.argsort(self.delays_s, axis=None)
        seen = np.cumsum(self.weights.ravel()[order])
        return float(self.delays_s.ravel()[order][min(np.searchsorted(seen, share * seen[-1]), len(order) - 1)])

    def waiting(self) -> Floats:
        """Return the flows without a verdict at the end of each step."""
        return self.unpublished + self.queued

    def drained_s(self, since_s: float) -> float:
        """Return how long after a time the last step ends that leaves more than a cycle's flows; infinite if all do."""
        behind = self.waiting() > np.maximum(self.arrived, 1e-6) * np.maximum(self.cycle_s / self.step_s, 1.0)
        late = np.flatnonzero(behind & (np.arange(len(behind)) * self.step_s >= since_s))
        if not late.size:
            return 0.0
        return float("inf") if late[-1] == len(behind) - 1 else float((late[-1] + 1) * self.step_s - since_s)


# --- who gets what ---------------------------------------------------------------------------------------------------


def pair_weights(n_pairs: int, zipf: float) -> tuple[Floats, float]:
    """Return the part of all flows of each of the heaviest pairs, and of all others together.

    Examples
    --------
    >>> heaviest, others = pair_weights(4, 0.0)
    >>> heaviest.tolist(), round(others, 6)
    ([0.25, 0.25, 0.25, 0.25], 0.0)
    """
    heads = np.arange(1, min(n_pairs, LISTED_PAIRS) + 1, dtype=np.float64) ** -zipf
    total = heads.sum() + _tail(len(heads), n_pairs, zipf)
    return heads / total, float(1 - heads.sum() / total)


def _tail(first: int, last: int, zipf: float) -> float:
    """Return the sum of n^-zipf over first < n <= last, by its integral."""
    low, high = first + 0.5, last + 0.5
    return float(np.log(high / low)) if zipf == 1 else float((high ** (1 - zipf) - low ** (1 - zipf)) / (1 - zipf))


def process_weights(load: Load, fleet: Fleet) -> Floats:
    """Return the part of all flows that each process gets, ``(n_processes,)``; the sum is 1."""
    n_shares = fleet.processes * fleet.shares_each
    heaviest, others = pair_weights(load.n_pairs, load.zipf)
    if load.zipf == 0 and load.n_pairs > LISTED_PAIRS:
        return np.full(fleet.processes, 1 / fleet.processes)
    dealt = np.random.default_rng(load.seed).integers(0, n_shares, len(heaviest))
    shares = np.bincount(dealt, weights=heaviest, minlength=n_shares) + others / n_shares
    return np.asarray(shares.reshape(fleet.shares_each, fleet.processes).sum(axis=0), np.float64)


def arrivals(load: Load, fleet: Fleet, step_s: float, lasts_s: float = DAY_S) -> tuple[Floats, Floats]:
    """Return flows and alerts of each step and process, ``(n_steps, n_processes)``."""
    rng, times = np.random.default_rng(load.seed + 1), (np.arange(round(lasts_s / step_s)) + 0.5) * step_s
    weights = process_weights(load, fleet)
    minutes = (times // 60).astype(int)
    drawn = rng.normal(-(load.jitter**2) / 2, load.jitter, (minutes[-1] + 1, fleet.processes))
    flows = load.rate(times)[:, None] * weights * np.exp(drawn)[minutes] * step_s
    alerts = flows * load.alert_share
    for flood in load.floods:
        among = np.eye(1, fleet.processes)[0] if flood.one_pair else np.full(fleet.processes, 1 / fleet.processes)
        within = (times >= flood.begins_s) & (times < flood.begins_s + flood.lasts_s)
        more = within[:, None] * among * flood.flows_per_s * step_s
        flows, alerts = flows + more, alerts + more * flood.alert_share
    return flows, alerts


# --- the stages ------------------------------------------------------------------------------------------------------


def simulate(load: Load, fleet: Fleet, costs: Costs, *, step_s: float = 10.0, lasts_s: float = DAY_S) -> Day:
    """Return what becomes of a day's flows.

    Examples
    --------
    >>> costs = Costs(1e-5, 1e-6, 1e-4, 0.0, 0.0, 0.0)
    >>> day = simulate(Load(8.64e8, peak=1, jitter=0), Fleet(2), costs)
    >>> print(f"{day.process.max():.1f} {day.arrived.sum() - day.scored.sum():.1f}")
    0.5 0.0
    """
    return flow_through(*arrivals(load, fleet, step_s, lasts_s), fleet, costs, step_s=step_s)


def flow_through(flows: Floats, alerts: Floats, fleet: Fleet, costs: Costs, *, step_s: float) -> Day:
    """Return what becomes of flows and alerts, ``(n_steps, n_processes)``."""
    stages = _Stages(flows.shape[1], fleet, costs, step_s)
    rows = [stages.step(*row) for row in zip(flows, alerts, strict=True)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "served"}
    delays = _delays(flows, np.array([row["served"] for row in rows]), step_s)
    delays += costs.floor_s + columns["cycle_s"][:, None] / 2
    return Day(step_s, flows.sum(axis=1), delays_s=delays, weights=flows, **columns)


class _Stages:
    """Flows that wait in front of each stage, between steps."""

    def __init__(self, n_processes: int, fleet: Fleet, costs: Costs, step_s: float) -> None:
        self._fleet, self._costs, self._step_s = fleet, costs, step_s
        self._before, self._before_alerts = np.zeros(n_processes), np.zeros(n_processes)  # the broker
        self._queued, self._queued_alerts = np.zeros(n_processes), np.zeros(n_processes)  # in it
        self._untold, self._cycle_s = 0.0, costs.linger_s

    def step(self, came: Floats, alerts: Floats) -> dict[str, Any]:
        """Let a step's flows come, and return what the stages did."""
        costs, step_s = self._costs, self._step_s
        self._before += came
        self._before_alerts += alerts
        moved = self._publish()
        wanted, work = self._wanted(), self._work() / np.maximum(self._queued, 1e-12)
        scored, stored = self._take(wanted * self._allowed(wanted))
        self._untold += stored
        self._untold -= min(self._untold, step_s / costs.sink_s if costs.sink_s else self._untold)
        self._cycle_s = self._cycle(scored.sum() / step_s, stored / step_s)
        return {
            "served": scored,
            "scored": scored.sum(),
            "alerts": stored,
            "unpublished": self._before.sum(),
            "queued": self._queued.sum(),
            "untold": self._untold,
            "broker": moved * costs.broker_s / step_s,
            "store": costs.store_s(stored, scored.sum() / costs.batch_flows) / step_s,
            "process": (scored * work).max() / (self._fleet.efficiency * step_s),
            "cycle_s": self._cycle_s,
        }

    def _publish(self) -> float:
        """Move flows into the broker, as many as publishers and broker can, and return how many that were."""
        costs, waiting = self._costs, float(self._before.sum())
        publishers = self._fleet.publishers
        most = [waiting]
        if costs.broker_s:
            most.append(self._step_s / costs.broker_s)
        if publishers is not None and costs.publish_s:
            most.append(publishers * self._step_s / costs.publish_s)
        part = min(most) / waiting if waiting else 0.0
        self._queued += self._before * part
        self._queued_alerts += self._before_alerts * part
        self._before *= 1 - part
        self._before_alerts *= 1 - part
        return min(most)

    def _wanted(self) -> Floats:
        """Return the flows that each process could judge if the store were always free."""
        return np.minimum(self._queued, self._queued * self._fleet.efficiency * self._step_s / self._work())

    def _work(self) -> Floats:
        """Return the seconds of a core that what is queued for each process takes."""
        costs = self._costs
        return np.maximum(self._queued * costs.detect_s + self._queued_alerts * costs.detect_alert_s, 1e-12)

    def _allowed(self, wanted: Floats) -> float:
        """Return the part of them that the store's writer, in the largest batches, and the cores leave time for."""
        costs, total = self._costs, float(wanted.sum())
        alerts = float((self._queued_alerts * wanted / np.maximum(self._queued, 1e-12)).sum())
        needed = costs.store_s(alerts, total / costs.batch_flows) / self._step_s
        if self._fleet.cores is not None:
            work = total * (costs.detect_s + costs.broker_s + costs.store_server_s) + alerts * costs.detect_alert_s
            needed = max(needed, work / (self._fleet.cores * self._step_s))
        return 1 / max(needed, 1.0)

    def _take(self, served: Floats) -> tuple[Floats, float]:
        """Take flows out of the queues, their alerts in proportion."""
        part = served / np.maximum(self._queued, 1e-12)
        stored = self._queued_alerts * part
        self._queued -= served
        self._queued_alerts -= stored
        return served, float(stored.sum())

    def _cycle(self, flows_per_s: float, alerts_per_s: float) -> float:
        """Return in what time every share has its turn with the store; batches are full at most."""
        costs, n_shares = self._costs, self._fleet.processes * self._fleet.shares_each
        per_batch = alerts_per_s * self._cycle_s / n_shares
        turn_s = costs.batch_s - np.expm1(-per_batch) * costs.some_alerts_s
        free = max(1 - alerts_per_s * costs.alert_s, 1e-3)
        full_s = n_shares * costs.batch_flows / max(flows_per_s, 1e-9)
        return float(max(costs.linger_s, min(n_shares * turn_s / free, full_s)))


def _delays(came: Floats, served: Floats, step_s: float) -> Floats:
    """Return the delay from arrival to verdict for the flows of each step and process, first come first served."""
    n_steps = len(came)
    ends = np.arange(n_steps + 1) * step_s
    delays = np.empty_like(came)
    for k in range(came.shape[1]):
        in_sum, out_sum = (np.concatenate([[0.0], np.cumsum(of[:, k])]) for of in (came, served))
        middle = (in_sum[:-1] + in_sum[1:]) / 2
        rising = np.concatenate([[True], np.diff(out_sum) > 0])
        done_s = np.interp(middle, out_sum[rising], ends[rising])
        done_s[middle > out_sum[-1] * (1 + 1e-9)] = np.inf
        delays[:, k] = np.maximum(done_s - (ends[:-1] + ends[1:]) / 2, 0.0)
    return delays


# --- how much it takes -----------------------------------------------------------------------------------------------


def fewest(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the least number for which something holds that holds for all greater ones; None where not even ``most``.

    Examples
    --------
    >>> fewest(lambda n: n * n >= 50, 100), fewest(lambda n: n > 100, 100)
    (8, None)
    """
    high = 1
    while not holds(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2  # does not hold there, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def split(load: Load, n_cells: int) -> Load:
    """Return the load of one of so many installations that have an equal part of the flows and the floods each."""
    floods = tuple(replace(flood, flows_per_s=flood.flows_per_s / n_cells) for flood in load.floods)
    pairs = max(load.n_pairs // n_cells, 1)
    return replace(load, flows_a_day=load.flows_a_day / n_cells, n_pairs=pairs, floods=floods)
