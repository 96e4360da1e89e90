"""Detection as an operator runs it: processes killed and stopped, sinks, rules, and what the commands print."""

import json
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from benchmarks.crashes import run

from deepidea.detection.alerting import Thresholds
from deepidea.detection.calibrate import with_thresholds
from deepidea.detection.runner import dialect_of
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.packets.meter import meter_capture
from deepidea.simulation.ground_truth import label_flows, read_labels
from deepidea.simulation.simulate import simulate_capture
from tests.stores import open_store


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A short simulated capture, and a detector trained on its flows."""
    folder = tmp_path_factory.mktemp("lab")
    capture, labels = folder / "lab.pcap", folder / "lab.csv"
    simulate_capture(capture, labels, seed=3, minutes=1.0, hosts=8, snaplen=128)
    flows = label_flows(pl.concat(meter_capture(capture)), read_labels(labels)).drop_nulls("label")
    schema = get_schema("cicflow").restrict(flows.columns)
    labelled, _ = labelled_flows_from_table(flows.drop("label"), "class", "benign", schema=schema)
    train_detector(labelled, random_state=0, n_epochs=5, min_steps=300).save(folder / "lab.idea")
    return folder


def store_of(folder):
    return f"sqlite:///{folder}/alerts.db"


@pytest.fixture
def watched(lab, tmp_path, command):
    """What ``detect`` says of the lab, and the store that it filled."""
    alerts = tmp_path / "alerts.json"
    ran = command(
        "detect", lab / "lab.pcap", "--model", lab / "lab.idea", "--store", store_of(tmp_path),
        "--sink", f"file://{alerts}", "--dead-letters", tmp_path / "dead",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return ran, tmp_path, alerts


def test_detect_prints_stores_and_delivers(watched, lab):
    ran, folder, alerts = watched
    lines = [json.loads(line) for line in alerts.read_text().splitlines()]
    with open_store(store_of(folder)) as store:
        rows = store.alerts(limit=100_000).rows
        incidents = store.incidents(limit=1000).rows
    assert f"{len(lines):,} new alerts" in ran.err
    assert sorted(line["deepidea"]["alert_id"] for line in lines) == sorted(rows["alert_id"])
    assert 0 < incidents.height < len(lines) / 5
    assert {line["event_type"] for line in lines} == {"alert"}
    assert all(line["community_id"].startswith("1:") for line in lines)


def test_a_second_run_repeats_nothing(watched, lab, command):
    _, folder, alerts = watched
    before = alerts.read_text()
    again = command(
        "detect", lab / "lab.pcap", "--model", lab / "lab.idea", "--store", store_of(folder),
        "--sink", f"file://{alerts}", "--dead-letters", folder / "dead",
    )  # fmt: skip
    assert again.code == 0
    assert "0 flows" in again.err
    assert "give another --store" in again.err
    assert alerts.read_text() == before


def test_incidents_and_alerts_are_listed(watched, command):
    _, folder, _ = watched
    listed = command("incidents", "--store", store_of(folder), "--limit", 500)
    assert "dos" in listed.out
    [first] = [
        json.loads(line)
        for line in command("incidents", "--store", store_of(folder), "--limit", 1, "--json").out.splitlines()
    ]
    assert command("alerts", "no-such-id", "--store", store_of(folder)).code == 3
    shown = command(
        "alerts", first["incident_id"][:18], "--store", store_of(folder), "--format", "eve", "--limit", 5000
    )
    assert len(shown.out.splitlines()) == first["n_alerts"]
    status = command("store", "status", "--store", store_of(folder)).out
    assert "lab.pcap" in status
    assert "file://" in status


def test_allow_rules_suppress_stored_alerts_and_their_removal_restores_them(watched, command):
    _, folder, _ = watched
    store = ("--store", store_of(folder))
    added = command("allow", "add", "--class", "dos", "--note", "a test of ours", *store)
    assert "stored alerts suppressed" in added.err
    rule = added.err.partition(":")[0].split()[-1]
    assert "dos" not in command("incidents", "--limit", 500, *store).out
    assert "a test of ours" in command("allow", "list", *store).out
    assert command("allow", "remove", rule, *store).code == 0
    assert "dos" in command("incidents", "--limit", 500, *store).out
    assert command("allow", "remove", rule, *store).code == 3


def test_a_file_of_allow_rules_is_taken(lab, tmp_path, command):
    rules = tmp_path / "allow.toml"
    rules.write_text('[[allow]]\nclass = "dos"\nnote = "load test"\n')
    ran = command(
        "detect", lab / "lab.pcap", "--model", lab / "lab.idea", "--store", store_of(tmp_path), "--allow", rules
    )
    assert "suppressed by allow rules" in ran.err


def test_purge_deletes_old_alerts(watched, command):
    _, folder, _ = watched
    ran = command("store", "purge", "--days", 1, "--store", store_of(folder))
    assert "alerts deleted" in ran.err
    assert "no alerts" in command("alerts", "--store", store_of(folder)).err


def test_calibrate_writes_a_detector_that_detect_goes_by(lab, tmp_path, command):
    quiet = tmp_path / "quiet.pcap"
    simulate_capture(quiet, tmp_path / "quiet.csv", seed=4, minutes=1.0, hosts=8, attacks=(), snaplen=128)
    site = tmp_path / "site.idea"
    ran = command("calibrate", lab / "lab.idea", quiet, "--fpr", 0.02, "-o", site)
    assert ran.code == 0, ran.err
    assert "at most 20 per 1,000 benign flows" in ran.err
    assert "--flow-alerts" in ran.err
    printed = command("detect", quiet, "--model", site, "--store", store_of(tmp_path), "--flow-alerts").err
    assert "alerts: score above" in printed
    too_fine = command("calibrate", lab / "lab.idea", quiet, "--fpr", 1e-6, "-o", site)
    assert (too_fine.code, "at least 1,999,999 benign flows" in too_fine.err) == (3, True)


def test_adapt_writes_a_detector_that_detect_goes_by(lab, tmp_path, command):
    quiet = tmp_path / "quiet.pcap"
    simulate_capture(quiet, tmp_path / "quiet.csv", seed=4, minutes=1.0, hosts=8, attacks=(), snaplen=128)
    site = tmp_path / "site.idea"
    ran = command("adapt", lab / "lab.idea", quiet, "--fpr", 0.02, "-o", site)
    assert ran.code == 0, ran.err
    assert "anomaly above 0.98 raises an alert" in ran.err
    assert "found by adapt" in ran.out
    assert "--flow-alerts" in ran.err
    printed = command("detect", quiet, "--model", site, "--store", store_of(tmp_path), "--flow-alerts").err
    assert "alerts: anomaly above 0.98" in printed
    assert "adapted" in command("inspect", site, "--json").out


def test_sources_are_listed(command):
    printed = command("sources").out
    assert all(name in printed for name in ("pcap", "zeek", "eve", "netflow", "redis", "interface"))


@pytest.mark.parametrize(
    ("arguments", "code", "fact"),
    [
        (("no-such-file.pcap",), 3, "no-such-file.pcap"),
        (("interface:none0",), 5, "none0"),
        (("lab.pcap", "--sink", "gopher://x"), 3, "unknown sink 'gopher://x'"),
        (("lab.pcap", "--store", "mysql://x"), 5, "cannot open a store"),
        (("lab.pcap", "--fpr", "2"), 3, "fpr"),
        (("lab.pcap", "--exporter", "10.0.0.1"), 3, "exporters"),
        (("netflow://:0", "--exporter", "router"), 3, "an exporter must be an IP address, got 'router'"),
        (("netflow://:0", "--option", "timeout=3"), 3, "timeout"),
        (("netflow://:0", "--option", "timeout"), 2, "NAME=VALUE"),
        (("lab.pcap", "--home", "10.0.0.0/40"), 3, "'10.0.0.0/40' is not a network"),
        (("lab.pcap", "--home", "192.0.2.0/24", "--home", "office"), 3, "'office' is not a network"),
        (("lab.pcap", "--thresholds", "none.toml"), 3, "cannot read thresholds from none.toml"),
    ],
)
def test_a_wrong_address_or_option_is_refused_before_anything_is_read(
    lab, tmp_path, command, monkeypatch, arguments, code, fact
):
    monkeypatch.chdir(lab)
    store = () if "--store" in arguments else ("--store", store_of(tmp_path))
    ran = command("detect", *arguments, "--model", lab / "lab.idea", *store)
    assert (ran.code, fact in ran.err) == (code, True), ran.err


def test_the_dialect_is_that_of_the_data_set_that_a_detector_was_trained_on(lab):
    detector = Detector.load(lab / "lab.idea")
    assert dialect_of(detector) == "corrected"
    detector.card["data"] = {"source": "cicids17-improved"}
    assert dialect_of(detector) == "cicids17-improved"


def test_thresholds_of_another_rate_are_not_taken_for_it(lab, tmp_path, command):
    site = tmp_path / "site.idea"
    with_thresholds(Detector.load(lab / "lab.idea"), Thresholds({"score": 0.9}, 0.01, 999, "site")).save(site)
    ran = command("detect", lab / "lab.pcap", "--model", site, "--fpr", 0.001, "--store", store_of(tmp_path))
    assert (ran.code, "fpr=0.01, set by site" in " ".join(ran.err.split())) == (3, True)


def test_what_was_skipped_is_counted_once_however_often_it_is_read(watched, lab, command):
    _, folder, _ = watched
    line = ("detect", lab / "lab.pcap", "--model", lab / "lab.idea", "--store", store_of(folder))
    counts = []
    for _ in range(2):
        with open_store(store_of(folder)) as store:
            counts.append([counters.skipped for counters in store.counters()])
        command(*line)
    assert counts[0] == counts[1]
    assert counts[0][0]["not IP"] > 0


def test_a_sink_that_takes_nothing_shows_in_the_exit_code(lab, tmp_path, command, monkeypatch):
    monkeypatch.setattr("deepidea.detection.runner.DRAIN_S", 0.5)
    nowhere = f"file://{tmp_path}/no-such-folder/alerts.json"
    ran = command(
        "detect", lab / "lab.pcap", "--model", lab / "lab.idea", "--store", store_of(tmp_path), "--sink", nowhere
    )
    assert (ran.code, "alerts wait in the store" in ran.err) == (5, True)


@pytest.mark.parametrize("schema", ["conn", "conn+context", "cicflow+context"])
def test_metered_tables_and_captures_are_read_alike(lab, tmp_path, command, schema):
    flows = label_flows(pl.concat(meter_capture(lab / "lab.pcap")), read_labels(lab / "lab.csv"))
    flows.drop("label").write_parquet(tmp_path / "labelled.parquet")
    model, table = tmp_path / "conn.idea", tmp_path / "flows.parquet"
    trained = command(
        "train", tmp_path / "labelled.parquet", "--label", "class", "--benign", "benign", "--schema", schema,
        "--epochs", 2, "--seed", 0, "-o", model,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert command("meter", lab / "lab.pcap", "-o", table).code == 0
    alert_ids = []
    for n, source in enumerate((table, lab / "lab.pcap")):
        store = f"sqlite:///{tmp_path}/{n}.db"
        assert command("detect", source, "--model", model, "--store", store, "--flow-alerts").code == 0
        with open_store(store) as opened:
            alert_ids.append(opened.alerts(limit=100_000).rows["alert_id"].sort().to_list())
    assert alert_ids[0] == alert_ids[1]


def test_a_store_that_does_not_exist_is_an_error(tmp_path, command):
    ran = command("incidents", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (ran.code, "deepidea detect makes it" in ran.err) == (5, True)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_sigterm_drains_and_the_next_run_goes_on(lab, tmp_path):
    """A followed capture is stopped by SIGTERM; what was read is stored, and the exit is clean."""
    arguments = ["--model", str(lab / "lab.idea"), "--store", store_of(tmp_path), "--follow"]
    line = [sys.executable, "-m", "deepidea.cli.app", "detect", str(lab / "lab.pcap"), *arguments]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    n_flows = 0
    while not n_flows and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        with open_store(store_of(tmp_path)) as store:
            n_flows = sum(counters.n_flows for counters in store.counters())
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=30)[1]
    assert process.returncode == 0, printed
    assert "new alerts" in printed
    assert n_flows > 0


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing_in_the_store(tmp_path):
    figures = run(tmp_path, kills=4, n_flows=60_000, seed=1)
    assert figures["kills"] >= 4
    assert all(figures["equal"].values()), figures
