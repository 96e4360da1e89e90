"""Models of a store: added after an audit, activated by comparison, gone back from, and followed while one detects."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from deepidea.detection import models
from deepidea.detection.engine import Engine
from deepidea.detection.models import ActiveDetector, detector_of
from deepidea.detection.runner import DetectionConfig, refuse_other_reading, run_detection
from deepidea.detection.sources.source import FlowBatch
from deepidea.errors import ArtifactError, DataError
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.simulate import simulate_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.store.tables import MODELS
from tests.conftest import TINY, Command
from tests.stores import Store, open_store


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three detector files of one schema."""
    folder = tmp_path_factory.mktemp("models")
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=800), "label", "benign")
    paths = [folder / f"m{seed}.idea" for seed in range(3)]
    for seed, path in enumerate(paths):
        train_detector(flows, random_state=seed, **TINY).save(path)
    return paths


@pytest.fixture
def ids(store: Store, files: list[Path]) -> list[str]:
    return [store.add_model(path, analyst="ann").model_id for path in files]


def compared(store: Store, old_id: str, new_id: str, verdict: str = "no worse", **more: Any) -> None:
    of = {one.model_id: one.model for one in store.models()}
    told = {"old": of[old_id], "new": of[new_id], "verdict": verdict, "reason": "because", **more}
    store.set_comparison(told, old_id=old_id, new_id=new_id)


def test_a_file_is_kept_once_and_comes_back_as_it_was(store: Store, files: list[Path]) -> None:
    added = store.add_model(files[0], analyst="ann")
    assert store.add_model(files[0].read_bytes(), name="again", analyst="bob") == added
    data = files[0].read_bytes()
    assert added.model_id == hashlib.sha256(data).hexdigest()[:16]
    assert (added.name, added.added_by, added.n_bytes, added.active) == ("m0.idea", "ann", len(data), False)
    assert store.model_file(added.model_id) == data
    assert detector_of(store, added.model_id).fingerprint == added.model == Detector.load(files[0]).fingerprint
    assert store.find_model(added.model[:8]) == store.find_model(added.model_id[:6]) == added


def test_what_is_no_detector_file_never_enters(
    sqlite_store: Store, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.idea").write_bytes(b"\x80\x04junk")
    for odd in (tmp_path / "p.idea", b"", files[0].read_bytes()[:-50], tmp_path / "none.idea"):
        with pytest.raises(ArtifactError):
            sqlite_store.add_model(odd, analyst="ann")
    monkeypatch.setattr("deepidea.store.models.MOST_BYTES", 1000)
    with pytest.raises(DataError, match="MiB"):
        sqlite_store.add_model(files[0], analyst="ann")
    assert sqlite_store.models() == []


def test_a_file_that_was_changed_in_the_store_is_not_opened(sqlite_store: Store, files: list[Path]) -> None:
    first, second = (sqlite_store.add_model(path, analyst="ann").model_id for path in files[:2])
    with sqlite_store.write() as connection:
        other = sa.select(MODELS.c.file).where(MODELS.c.model_id == second).scalar_subquery()
        connection.execute(MODELS.update().where(MODELS.c.model_id == first).values(file=other))
    with pytest.raises(ArtifactError, match="SHA-256"):
        detector_of(sqlite_store, first)


def test_only_what_is_no_worse_than_the_active_one_is_activated(store: Store, ids: list[str]) -> None:
    assert store.active_model() is None
    store.activate(ids[0], analyst="ann")
    with pytest.raises(DataError, match=f"not been compared; run: deepidea models compare {ids[0]} {ids[1]}"):
        store.activate(ids[1], analyst="ann")
    compared(store, ids[0], ids[1], "worse")
    with pytest.raises(DataError, match="it is worse: because"):
        store.activate(ids[1], analyst="ann")
    compared(store, ids[0], ids[1])
    compared(store, ids[0], ids[2], "better")
    store.activate(ids[1], analyst="ann", note="rolled_back\nfirst try")
    with pytest.raises(DataError, match=f"compared with {ids[0]}"):
        store.activate(ids[2], analyst="ann")
    assert store.activate(ids[2], analyst="bob", force=True).kind == "forced"
    history = [(one.model_id, one.kind, one.analyst, one.note) for one in store.activations()]
    assert history == [
        (ids[2], "forced", "bob", ""),
        (ids[1], "activated", "ann", "rolled_back\nfirst try"),
        (ids[0], "activated", "ann", ""),
    ]
    assert [one.model_id for one in store.models() if one.active] == [ids[2]]


def test_a_comparison_must_be_of_the_two_models(sqlite_store: Store, files: list[Path]) -> None:
    ids = [sqlite_store.add_model(path, analyst="ann").model_id for path in files[:2]]
    for odd in ({"new": "else"}, {"verdict": "fine"}):
        with pytest.raises(DataError, match="the comparison is of"):
            compared(sqlite_store, ids[0], ids[1], **odd)


def test_a_comparison_of_an_earlier_release_is_read_under_present_names(store: Store, ids: list[str]) -> None:
    compared(store, ids[0], ids[1], judged={"n_flows": 3})
    found = next(one for one in store.models() if one.model_id == ids[1]).comparison
    assert found is not None
    assert found["labelled"] == {"n_flows": 3}
    assert "judged" not in found


def test_going_back_goes_back_further_each_time(store: Store, ids: list[str]) -> None:
    with pytest.raises(DataError, match="cannot roll back"):
        store.rollback(analyst="ann")
    for one in ids:
        store.activate(one, analyst="ann", force=True)
    assert [store.rollback(analyst="ann").model_id for _ in range(2)] == [ids[1], ids[0]]
    store.activate(ids[2], analyst="ann", force=True)
    assert store.rollback(analyst="ann").model_id == ids[0]
    with pytest.raises(DataError, match="cannot roll back"):
        store.rollback(analyst="ann")


def test_the_active_model_is_not_removed_and_a_removed_one_not_gone_back_to(store: Store, ids: list[str]) -> None:
    for one in ids:
        store.activate(one, analyst="ann", force=True)
    with pytest.raises(DataError, match="it is active"):
        store.remove_model(ids[2])
    store.remove_model(ids[1])
    assert store.rollback(analyst="ann").model_id == ids[0]
    with pytest.raises(DataError, match="deepidea models list"):
        store.model_file(ids[1])


# --- a detection that follows ----------------------------------------------------------------------------------------


class Tables:
    """A source of batches that does something between them."""

    schema, replayable, name = "any", True, "tables"

    def __init__(self, flows: pl.DataFrame, between: Any) -> None:
        self.flows, self.between, self.taken = flows, between, threading.Semaphore(0)

    def batches(self, after: Any, stop: threading.Event) -> Iterator[FlowBatch]:
        for n, begin in enumerate(range(0, self.flows.height, 50)):
            if n:
                self.taken.acquire(timeout=60)  # until the batch before is stored
            self.between(n)
            yield FlowBatch(self.flows[begin : begin + 50], {"rows": begin + 50})


def followed(store: Store, between: Any, **options: Any) -> tuple[pl.DataFrame, list[str]]:
    """Detect with the store's active model over 300 flows, and return the alerts and what was told."""
    flows = simulate_flows(n_flows=300, seed=5).drop("label").with_columns(src_ip=pl.lit("192.0.2.1"))
    flows = flows.with_columns(dst_ip=pl.format("10.0.{}.{}", pl.int_range(300) // 50, pl.int_range(300) % 50))
    told: list[str] = []
    active = ActiveDetector(store, report=told.append, every_s=0.0, **options)
    source = Tables(flows, between)
    everything = models.Thresholds({"score": -1.0}, 1.0, 0, "all")

    def newest() -> Any:
        found = active.newest()
        return found and (found[0], everything)

    engine = Engine(
        source, active.detector, store, thresholds=everything, on_batch=lambda _: source.taken.release(), newest=newest
    )
    engine.run(threading.Event())
    return store.alerts(limit=1000).rows.sort("dst_ip"), told


def test_flows_before_and_after_carry_their_detector_and_none_is_lost(store: Store, ids: list[str]) -> None:
    store.activate(ids[0], analyst="ann")
    act = {2: lambda: store.activate(ids[1], analyst="ann", force=True), 4: lambda: store.rollback(analyst="ann")}
    alerts, told = followed(store, lambda n: act.get(n, lambda: None)())
    of = {one.model_id: one.model for one in store.models()}
    batch = alerts["dst_ip"].str.split(".").list.get(2).cast(pl.Int64)
    expected = [of[ids[1]] if 2 <= n < 4 else of[ids[0]] for n in batch]
    assert alerts.height == 300
    assert alerts["model"].to_list() == expected
    assert [line.startswith("detecting with m") for line in told] == [True, True]


def test_a_model_that_reads_other_flows_is_reported_and_left(store: Store, ids: list[str]) -> None:
    store.activate(ids[0], analyst="ann")
    left_out = detector_of(store, ids[0]).schema.numbers[0]
    narrow, _ = labelled_flows_from_table(simulate_flows(n_flows=800).drop(left_out), "label", "benign")
    other = train_detector(narrow, random_state=0, **TINY)

    def between(n: int) -> None:
        if n == 2:
            store.activate(add(store, other), analyst="ann", force=True)

    alerts, told = followed(store, between, fits=lambda old, new: refuse_other_reading("any", old, new))
    assert alerts.height == 300
    assert alerts["model"].n_unique() == 1
    ((line),) = told
    assert "cannot take over: it reads schema" in line


def add(store: Store, detector: Detector) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "m.idea")
        return store.add_model(Path(folder) / "m.idea", analyst="ann").model_id


def test_watching_follows_what_is_activated(files: list[Path], tmp_path: Path) -> None:
    url, told = f"sqlite:///{tmp_path}/s.db", list[str]()
    for part in range(3):
        simulate_flows(n_flows=100, seed=part).drop("label").write_csv(tmp_path / f"part{part}.csv")
    with open_store(url) as store:
        ids = [store.add_model(path, analyst="ann").model_id for path in files[:2]]
        store.activate(ids[0], analyst="ann")

        def after_a_batch(progress: Any, _: Any) -> None:
            if progress.n_flows == 100:
                store.activate(ids[1], analyst="ann", force=True)

        result = run_detection(
            DetectionConfig(str(tmp_path), store=url, flow_alerts=True),
            threading.Event(),
            on_model=told.append,
            on_batch=after_a_batch,
            check_s=0.0,
        )
        assert result.progress.n_flows == 300
        assert store.alerts(limit=1000).rows["model"].n_unique() == 2
    assert told[0].startswith(f"detecting with the active model of {url}: m0.idea (detector ")
    assert told[1].startswith("detecting with m1.idea (detector ")


def test_without_an_active_model_it_says_what_to_do(sqlite_store: Store) -> None:
    with pytest.raises(DataError, match="no active model"):
        ActiveDetector(sqlite_store)


# --- the whole loop by commands --------------------------------------------------------------------------------------


def test_a_verdict_becomes_training_data_and_the_new_model_detects(
    flow_file: Path, model_file: Path, tmp_path: Path, command: Command
) -> None:
    def run(*argv: object) -> Any:
        ran = command(*argv)
        assert ran.code == 0, ran.err
        return ran

    store = f"sqlite:///{tmp_path}/s.db"
    at = ("--store", store)
    run("models", "add", model_file, *at, "--analyst", "ann")
    with open_store(store) as opened:
        (old,) = opened.models()
    run("models", "activate", old.model_id[:6], *at)
    flows = tmp_path / "new.csv"
    simulate_flows(n_flows=600, seed=50).drop("label").write_csv(flows)
    assert f"detecting with the active model of {store}" in run("detect", flows, *at, "--flow-alerts").err
    with open_store(store) as opened:
        incident = opened.incidents().rows["incident_id"][0]
    run("feedback", "add", incident[:20], "--verdict", "false_positive", "--note", "backup", *at)
    assert "false_positive" in run("feedback", "list", *at).out
    assert "labelled flows into" in run("feedback", "export", "-o", tmp_path / "f.parquet", *at).err
    new = tmp_path / "new.idea"
    run("train", flow_file, "-o", new, "--continue", model_file, "--extra", tmp_path / "f.parquet", "--seed", 1)
    run("models", "add", new, *at)
    refused = command("models", "activate", Detector.load(new).fingerprint, *at)
    assert refused.code == 3
    assert "deepidea models compare" in refused.err
    for option in ("--labelled", "--judged"):  # the latter is of an earlier release
        ran = run("models", "compare", model_file, new, flow_file, option, tmp_path / "f.parquet", "--json")
        comparison = json.loads(ran.out)
        assert comparison["old"] == old.model
        assert comparison["labelled"]["n_left_out"] > 0
    shown = run("models", "compare", model_file, new, flow_file, *at)
    assert "kept in the store" in shown.err
    run("models", "activate", Detector.load(new).fingerprint, *at, "--force")
    assert "active" in run("models", "list", *at).out
    assert "recall of" in run("models", "show", Detector.load(new).fingerprint, *at).out
    assert f"{old.model_id} is active again" in run("models", "rollback", *at).err
    assert "rolled back" in run("models", "history", *at).out
