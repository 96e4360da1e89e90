import copy
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.errors import CellError, SchemaError
from deepidea.flows.fingerprint import row_fingerprints
from deepidea.model.detector import BLOCK_ROWS, Detector
from tests.model.conftest import simulated_flows


def test_verdicts_have_a_class_a_score_and_probabilities(detector, flows):
    verdicts = detector.score(flows)
    assert verdicts.columns == ["class", "score", "p_benign", "p_flood", "p_scan", "anomaly", "unknown"]
    assert len(verdicts) == len(flows)
    p = verdicts.select(pl.sum_horizontal("p_benign", "p_flood", "p_scan")).to_series()
    assert p.to_numpy() == pytest.approx(np.ones(len(flows)), abs=1e-5)
    assert verdicts["score"].to_numpy() == pytest.approx(1 - verdicts["p_benign"].to_numpy(), abs=1e-5)


def test_a_saved_detector_scores_to_the_same_bits(detector, flows, tmp_path):
    detector.save(tmp_path / "model.idea")
    loaded = Detector.load(tmp_path / "model.idea")
    assert loaded.score(flows).equals(detector.score(flows))
    assert loaded.manifest == detector.manifest
    assert (loaded.training_fingerprints == detector.training_fingerprints).all()
    loaded.save(tmp_path / "again.idea")
    assert (tmp_path / "again.idea").read_bytes() == (tmp_path / "model.idea").read_bytes()


def test_agrees_with_the_estimator(detector, classifier, flows):
    verdicts = detector.score(flows)
    p = verdicts.select(f"p_{name}" for name in classifier.classes_).to_numpy()
    assert p == pytest.approx(classifier.predict_proba(flows), abs=1e-5)
    assert (verdicts["class"].to_numpy() == classifier.predict(flows)).mean() > 0.999


@settings(deadline=None, max_examples=20)
@given(chunk_rows=st.integers(1, 700))
def test_a_stream_of_any_chunk_size_is_the_batch_to_the_bit(detector, flows, chunk_rows):
    chunks = flows.iter_slices(chunk_rows)
    assert pl.concat(detector.score_stream(chunks)).equals(detector.score(flows))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_threads_and_order_change_no_bit(detector, n_threads):
    flows, _ = simulated_flows(3 * BLOCK_ROWS + 17)
    other = copy.copy(detector)
    other.n_threads = n_threads
    verdicts = detector.score(flows)
    assert other.score(flows).equals(verdicts)
    assert other.score(flows.reverse()).equals(verdicts.reverse())


def test_no_flows_are_no_verdicts(detector, flows):
    empty = detector.score(flows.clear())
    assert len(empty) == 0
    assert empty.schema == detector.score(flows).schema


def test_columns_in_any_order_with_others_between(detector, flows):
    shuffled = flows.select("service", pl.lit("10.0.0.1").alias("src_ip"), "bytes", "packets")
    assert detector.score(shuffled).equals(detector.score(flows))


def test_a_missing_feature_is_reported(detector, flows):
    with pytest.raises(SchemaError, match="service"):
        detector.score(flows.drop("service"))


def test_text_where_a_number_belongs_is_reported(detector, flows):
    words = flows.with_columns(
        pl.when(pl.int_range(pl.len()) == 4).then(pl.lit("many")).otherwise(pl.lit("7")).alias("bytes")
    )
    with pytest.raises(CellError, match="many"):
        detector.score(words)


def test_knows_the_vectors_it_was_trained_on(detector):
    table, _ = simulated_flows()
    seen = np.isin(row_fingerprints(table, detector.schema), detector.training_fingerprints)
    assert seen.all()  # those held out for choices too
    strangers, _ = simulated_flows(seed=5)
    assert np.isin(row_fingerprints(strangers, detector.schema), detector.training_fingerprints).mean() < 0.5


def test_scoring_needs_neither_torch_nor_scikit_learn(detector, flows, tmp_path):
    detector.save(tmp_path / "model.idea")
    flows.write_parquet(tmp_path / "flows.parquet")
    script = f"""
import sys
for name in ("torch", "sklearn", "safetensors", "plotly"):
    sys.modules[name] = None  # importing it raises ImportError
import polars as pl
from deepidea import Detector
verdicts = Detector.load({str(tmp_path / "model.idea")!r}).score(pl.read_parquet({str(tmp_path / "flows.parquet")!r}))
print(len(verdicts))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == str(len(flows)), run.stderr
