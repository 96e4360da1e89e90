"""The engine: every flow once, whatever happens; alerts by thresholds or by class; a store that goes and comes."""

import threading
from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.detection import engine as engine_module
from deepidea.detection.alerting import CARD_ENTRY, Thresholds, fit_thresholds, thresholds_of
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.calibrate import calibrate
from deepidea.detection.engine import Engine, fingerprint
from deepidea.detection.flow_adapter import flow_adapter
from deepidea.detection.sources.source import FlowBatch
from deepidea.detection.sources.tables import TableSource, naming_flows
from deepidea.errors import DataError, SourceError, StoreError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.store import batches
from tests.stores import open_store


@pytest.fixture(scope="module")
def detector():
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=1500), "label", "benign")
    return train_detector(flows, random_state=0, n_epochs=3, min_steps=200)


@pytest.fixture(scope="module")
def flows():
    table = simulate_flows(n_flows=600, seed=5)
    start = pl.datetime_range(
        pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 1, 0, 9, 59), "1s", eager=True, time_zone="UTC"
    )
    hosts = pl.Series([f"10.0.0.{j % 7}" for j in range(600)])
    return table.with_columns(
        start=start, end=start, src_ip=hosts, dst_ip=pl.lit("10.1.0.1"), src_port=pl.int_range(600, dtype=pl.Int32)
    )


class Tables:
    """A source of a table, in batches; it may fail after some of them."""

    schema, replayable, name = "any", True, "tables"

    def __init__(self, flows, size=50, fails_after=None):
        self.flows, self.size, self.fails_after = flows, size, fails_after

    def batches(self, after, stop):
        first = 0 if after is None else after["rows"]
        for n, begin in enumerate(range(first, self.flows.height, self.size)):
            if stop.is_set():
                return
            if n == self.fails_after:
                raise SourceError("a source must stay, however: it went away")
            end = min(begin + self.size, self.flows.height)
            yield FlowBatch(self.flows[begin:end], {"rows": end}, {"bad record": 1})


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path}/alerts.db") as opened:
        yield opened


def stored(store):
    return store.alerts(limit=1000, suppressed=None).rows.sort("alert_id")


def test_what_is_likelier_an_attack_is_stored(detector, flows, store):
    progress = Engine(Tables(flows), detector, store).run(threading.Event())
    attacks = (detector.score(flows)["score"] > 0.5).sum()
    assert progress.n_flows == 600
    assert progress.n_alerts == attacks == stored(store).height > 0
    assert progress.skipped == {"bad record": 12}
    assert 0 <= progress.latency_s(0.5) <= progress.latency_s(0.99) < 60


@pytest.mark.parametrize("size", [1, 37, 600])
def test_batches_do_not_matter(detector, flows, store, size, tmp_path):
    Engine(Tables(flows.head(150), 50), detector, store).run(threading.Event())
    with open_store(f"sqlite:///{tmp_path}/other.db") as other:
        Engine(Tables(flows.head(150), size), detector, other).run(threading.Event())
        assert_frame_equal(stored(store), stored(other))


def scanning(flows):
    """The flows as a scan, of which each seventh lacks its source, its target or its times, by turns."""
    lacks = pl.Series([n % 21 // 7 if n % 7 == 3 else -1 for n in range(flows.height)])
    return flows.with_columns(
        pl.when(lacks != 0).then("src_ip"),
        pl.when(lacks != 1).then("dst_ip"),
        *(pl.when(lacks != 2).then(name) for name in ("start", "end")),
        dst_port=pl.int_range(flows.height, dtype=pl.Int32),
        protocol=pl.lit("tcp"),
        duration_s=0.0,
        fwd_packets=1,
        bwd_packets=0,
        fwd_bytes=40,
        bwd_bytes=0,
    )


@pytest.mark.parametrize("size", [1, 7, 40, 210])
def test_a_flow_without_address_or_time_raises_its_own_alert_whatever_its_batch(detector, flows, store, size):
    flows = scanning(flows.head(210))
    every = Thresholds({"score": -1.0}, 0.01, 100, "test")
    options = {"thresholds": every, "behaviours": BehaviourDetector, "flow_alerts": False}
    Engine(Tables(flows, size), detector, store, **options).run(threading.Event())
    findings = BehaviourDetector().find(flows.drop_nulls(["src_ip", "dst_ip", "start"]))
    of_flows = stored(store).filter(pl.col("behaviour").is_null())
    assert of_flows["dst_port"].sort().to_list() == [n for n in range(210) if n % 7 == 3]
    raised = stored(store).drop_nulls("behaviour")["behaviour"]
    assert sorted(raised) == sorted(findings["behaviour"])
    assert len(raised) > 1


def test_a_source_that_fails_loses_nothing_that_was_read(detector, flows, store):
    with pytest.raises(SourceError, match="went away"):
        Engine(Tables(flows, fails_after=4), detector, store).run(threading.Event())
    assert store.position("tables") == {"rows": 200}
    progress = Engine(Tables(flows), detector, store).run(threading.Event())
    assert progress.n_flows == 400
    assert next(c.n_flows for c in store.counters()) == 600


def test_an_unexpected_error_ends_the_engine_as_failed(detector, flows, store, monkeypatch):
    """Not only errors of the library: a state that stays live would hide that nothing is watched any more."""

    def fault(_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(detector, "score_conformed", fault)
    with pytest.raises(ZeroDivisionError):
        Engine(Tables(flows), detector, store).run(threading.Event())
    [state] = store.engines()
    assert (state.status, state.error) == ("failed", "division by zero")


def test_it_stops_when_asked_and_goes_on_from_there(detector, flows, store, tmp_path):
    stop = threading.Event()
    Engine(Tables(flows, 10), detector, store, on_batch=lambda at: at.n_flows >= 100 and stop.set()).run(stop)
    assert store.position("tables")["rows"] < 600
    Engine(Tables(flows, 10), detector, store).run(threading.Event())
    with open_store(f"sqlite:///{tmp_path}/whole.db") as whole:
        Engine(Tables(flows), detector, whole).run(threading.Event())
        assert_frame_equal(stored(store), stored(whole))


def failing_store(store, monkeypatch, failures, *, reaches):
    """Let commits fail so many times, after or before they reached the store."""
    left, execute = [failures], store.execute

    def flaky(function, *args, **kwargs):
        if left[0] and function is batches.commit:
            left[0] -= 1
            if reaches:
                execute(function, *args, **kwargs)
            raise StoreError("the store is away")
        return execute(function, *args, **kwargs)

    monkeypatch.setattr(store, "execute", flaky)


@pytest.mark.parametrize("reaches", [False, True])
def test_a_store_that_goes_and_comes_counts_every_flow_once(detector, flows, store, monkeypatch, reaches):
    failing_store(store, monkeypatch, 2, reaches=reaches)
    progress = Engine(Tables(flows), detector, store).run(threading.Event())
    assert progress.n_store_retries >= 1
    assert next(c.n_flows for c in store.counters()) == 600
    assert stored(store).height == (detector.score(flows)["score"] > 0.5).sum()


def test_a_store_that_stays_away_ends_it(detector, flows, store, monkeypatch):
    monkeypatch.setattr(engine_module, "STORE_PATIENCE_S", 0.2)
    failing_store(store, monkeypatch, 1000, reaches=False)
    with pytest.raises(StoreError, match="away"):
        Engine(Tables(flows), detector, store).run(threading.Event())


def test_thresholds_choose_and_what_they_choose_is_an_attack(detector, flows, store):
    thresholds = Thresholds({"score": 0.01}, 0.5, 100, "test")
    Engine(Tables(flows), detector, store, thresholds=thresholds).run(threading.Event())
    told = stored(store)
    assert told.height == (detector.score(flows)["score"] > 0.01).sum()
    assert "benign" not in told["class"].to_list()


def test_a_schema_that_does_not_fit_is_reported(detector):
    with pytest.raises(DataError, match=r"schema conn .*custom"):
        flow_adapter("conn", detector)


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benign():
    table = simulate_flows(n_flows=12_000, seed=11)
    return table.filter(pl.col("label") == "benign")


def test_calibration_keeps_its_rate_on_other_benign_flows(detector, benign, tmp_path):
    half = benign.height // 2
    done = calibrate(detector, Tables(benign.head(half), 500), 0.01)
    rate = done.thresholds.above_threshold(detector.score(benign.tail(half))).mean()
    assert done.thresholds.n_flows == half
    assert rate < 0.02
    done.detector.save(tmp_path / "site.idea")
    kept = Detector.load(tmp_path / "site.idea")
    assert thresholds_of(kept, None) == done.thresholds
    assert fingerprint(kept) == fingerprint(detector)


def test_calibration_lets_benign_flows_of_another_network_be_benign(detector, benign):
    elsewhere = benign.with_columns(pl.col(pl.Float64) * 30, pl.col(pl.Int64) * 30)
    half = elsewhere.height // 2
    rated = detector.with_options(novelty=replace(detector.novelty, rate=0.03))
    site = calibrate(rated, Tables(elsewhere.head(half), 500), 0.01).detector
    before, after = ((of.score(elsewhere.tail(half))["anomaly"] > 1 - of.novelty.rate).mean() for of in (rated, site))
    assert before > 0.1
    assert after < 0.05
    assert site.score(elsewhere)["anomaly"].equals(rated.score(elsewhere)["anomaly"])


@pytest.mark.parametrize("n_flows", [20, 3000])
def test_calibration_leaves_the_rate_where_the_site_is_as_training_or_too_few_to_tell(detector, benign, n_flows):
    usual = benign.sort(detector.score(benign)["anomaly"]).head(benign.height // 2).sample(n_flows, seed=0)
    rated = detector.with_options(novelty=replace(detector.novelty, rate=0.03))
    assert calibrate(rated, Tables(usual), 0.1).detector.novelty.rate == 0.03


def test_calibration_says_how_many_flows_a_rate_needs(detector, benign):
    with pytest.raises(DataError, match="at least 1,999 benign flows, tables has 100"):
        calibrate(detector, Tables(benign.head(100)), 1e-3)


def test_calibration_shows_what_training_saw(detector):
    seen = simulate_flows(n_flows=1500)
    done = calibrate(detector, Tables(seen), 0.1)
    assert done.n_in_training == 1500
    assert done.n_predicted_attacks > 0


def test_a_rate_without_site_thresholds_stands_on_training(detector):
    thresholds = thresholds_of(detector, 0.1)
    assert thresholds.bounds == {"anomaly": 1 - 0.1}
    assert CARD_ENTRY not in detector.card
    with pytest.raises(DataError, match="needs 9,999 benign flows, training held out"):
        thresholds_of(detector, 1e-4)


def test_too_few_flows_set_no_finite_threshold():
    assert fit_thresholds(pl.DataFrame({"score": [0.1] * 99}), 0.01, "x").bounds["score"] == 0.1


# --- tables that name their flows ------------------------------------------------------------------------------------


def test_a_table_of_ones_own_names_its_flows(detector, flows, tmp_path, store):
    path = tmp_path / "mine.csv"
    flows.with_columns(pl.col("start", "end").dt.epoch("s")).write_csv(path)
    [batch] = TableSource(path, schema=detector.schema).batches(None, threading.Event())
    who = ["start", "end", "src_ip", "src_port"]
    assert batch.flows.select(who).equals(flows.select(who))
    Engine(TableSource(path, schema=detector.schema), detector, store).run(threading.Event())
    assert stored(store).height == (detector.score(flows)["score"] > 0.5).sum()


@pytest.mark.parametrize("name", ["kdd99", "cicflow", "conn", "cicflow+context"])
def test_naming_flows_leaves_features_as_they_are(name):
    schema = get_schema(name)
    assert naming_flows(schema).features == schema.features
    assert {"timestamp", "end", "src_ip", "dst_port"} <= {c.name for c in naming_flows(schema).columns}
