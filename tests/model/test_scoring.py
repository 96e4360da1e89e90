from __future__ import annotations

import gzip
import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepidea.errors import CellError, StorageError
from deepidea.flows.schema import get_schema
from deepidea.flows.skipping import SkipCount
from deepidea.flows.tables import read_table
from deepidea.model.scoring import headerless_names, join_verdicts, read_ahead, score_files


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The same 600 flows as CSV, gzipped CSV and Parquet."""
    from tests.model.conftest import simulated_flows

    folder = tmp_path_factory.mktemp("sources")
    table = simulated_flows(600, seed=2)[0].with_row_index("note")
    table.write_csv(folder / "f.csv")
    (folder / "f.csv.gz").write_bytes(gzip.compress((folder / "f.csv").read_bytes()))
    table.write_parquet(folder / "f.parquet")
    return folder


@settings(deadline=None, max_examples=15)
@given(
    chunk_rows=st.integers(1, 700),
    suffix=st.sampled_from(["csv", "jsonl", "parquet"]),
    source=st.sampled_from(["f.csv", "f.csv.gz", "f.parquet"]),
    keep=st.booleans(),
)
def test_the_chunk_size_changes_no_verdict(detector, sources, tmp_path_factory, chunk_rows, suffix, source, keep):
    folder = tmp_path_factory.mktemp("out")
    for name, rows in (("one", 10_000), ("many", chunk_rows)):
        path = folder / f"{name}.{suffix}"
        assert score_files(detector, [sources / source], path, chunk_rows=rows, keep_original=keep) == 600
    one, many = folder / f"one.{suffix}", folder / f"many.{suffix}"
    if suffix == "parquet":
        assert pl.read_parquet(one).equals(pl.read_parquet(many))
    else:
        assert one.read_bytes() == many.read_bytes()


@pytest.mark.parametrize("source", ["f.csv", "f.csv.gz", "f.parquet"])
def test_verdicts_stand_in_the_order_of_the_flows(detector, sources, tmp_path, source):
    score_files(detector, [sources / source], tmp_path / "v.parquet", keep_original=True, chunk_rows=97)
    kept = pl.read_parquet(tmp_path / "v.parquet")
    assert kept["note"].cast(pl.Int64).to_list() == list(range(600))
    verdicts = detector.score(read_table(sources / source))
    assert kept.select(verdicts.columns).equals(verdicts)


def test_progress_is_reported(detector, sources, tmp_path):
    seen: list[int] = []
    score_files(detector, [sources / "f.csv"], tmp_path / "v.csv", chunk_rows=250, progress=seen.append)
    assert seen == [250, 500, 600]


def test_skipped_rows_are_counted_and_the_rest_scored(detector, sources, tmp_path):
    lines = (sources / "f.csv").read_text().splitlines()
    lines[10] = lines[10].replace(",", ",many,", 1)
    (tmp_path / "f.csv").write_text("\n".join(lines))
    skipped = SkipCount()
    assert score_files(detector, [tmp_path / "f.csv"], tmp_path / "v.csv", on_error="skip", skipped=skipped) == 599
    assert (skipped.total, dict(skipped.reasons)) == (1, {"more cells than columns": 1})


def test_an_error_late_in_the_file_leaves_the_old_output(detector, sources, tmp_path):
    text = (sources / "f.csv").read_text()
    (tmp_path / "f.csv").write_text(text + "601,many,3,http\n")
    (tmp_path / "v.csv").write_text("old")
    with pytest.raises(CellError, match=r"f\.csv, line 602: packets 'many'"):
        score_files(detector, [tmp_path / "f.csv"], tmp_path / "v.csv", chunk_rows=50)
    assert (tmp_path / "v.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "v.csv"]


def test_a_folder_that_is_not_there_is_reported(detector, sources, tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*absent.v\.csv: No such file"):
        score_files(detector, [sources / "f.csv"], tmp_path / "absent" / "v.csv")


@pytest.mark.parametrize("keep", [False, True])
def test_no_flows_make_a_file_of_columns(detector, tmp_path, keep):
    (tmp_path / "f.csv").write_text("packets,bytes,service\n")
    assert score_files(detector, [tmp_path / "f.csv"], tmp_path / "v.parquet", keep_original=keep) == 0
    assert pl.read_parquet(tmp_path / "v.parquet").schema == detector.score(_one_flow()).schema


def _one_flow() -> pl.DataFrame:
    return pl.DataFrame({"packets": [1.0], "bytes": [2.0], "service": ["http"]})


def test_a_column_that_both_have_is_the_verdicts():
    flows = pl.DataFrame({"a": [1], "score": [7.0], "class": ["?"]})
    assert join_verdicts(flows, pl.DataFrame({"class": ["dos"], "score": [0.5]})).row(0) == (1, "dos", 0.5)


@given(st.lists(st.integers(), max_size=20))
def test_reading_ahead_changes_no_order(items):
    assert list(read_ahead(iter(items))) == items


def test_reading_ahead_reports_errors_in_their_place_and_ends_its_thread():
    def items():
        yield 1
        raise CellError("line 2")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(CellError, match="line 2"):
        next(ahead)
    assert not any(thread.name.startswith("deepidea-read") for thread in threading.enumerate())


# --- files without a header line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "more"),
    [
        (b"1,2,http\n1,2\n", []),
        (b"\n1,2,http,benign.\n", ["extra_1"]),
        (b'1,2,"a,b",benign,7\r\n', ["extra_1", "extra_2"]),
        (b"1,2", []),
    ],
)
def test_names_of_a_headerless_file(detector, tmp_path, pack, content, more):
    (tmp_path / "f").write_bytes(pack(content))
    assert headerless_names(detector, tmp_path / "f") == ["packets", "bytes", "service", *more]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnot gzip", b"PAR1\r\0\xff,\rPAR1", b'"' * 200_000, b"\n\n"])
def test_a_file_of_another_kind_is_left_to_its_reader(detector, tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert headerless_names(detector, tmp_path / "f")[:3] == ["packets", "bytes", "service"]
    assert headerless_names(detector, tmp_path / "absent") == ["packets", "bytes", "service"]


def test_headerless_and_named_columns_score_alike(detector, sources, tmp_path):
    table = read_table(sources / "f.csv").select(*detector.schema.features, "note")
    table.write_csv(tmp_path / "bare.csv", include_header=False)
    names = headerless_names(detector, tmp_path / "bare.csv")
    score_files(detector, [tmp_path / "bare.csv"], tmp_path / "bare.parquet", header=names)
    score_files(detector, [sources / "f.csv"], tmp_path / "named.parquet")
    assert pl.read_parquet(tmp_path / "bare.parquet").equals(pl.read_parquet(tmp_path / "named.parquet"))


@pytest.mark.data
def test_the_official_kdd_file_is_scored_as_it_is(data_root, tmp_path):
    from deepidea.model.estimators import DeepIDEAClassifier

    schema = get_schema("kdd99")
    with gzip.open(data_root / "kdd99" / "corrected.gz") as file:
        lines = [next(file) for _ in range(3000)]
    (tmp_path / "corrected.gz").write_bytes(gzip.compress(b"".join(lines)))
    table = read_table(tmp_path / "corrected.gz", header=[*schema.features, "label"])
    classes = (table["label"] == "normal.").replace_strict({True: "benign", False: "attack"})
    classifier = DeepIDEAClassifier(hidden=(8,), min_steps=20, n_epochs=1, random_state=0, schema=schema)
    detector = classifier.fit(table.drop("label"), classes.to_numpy()).to_detector()
    names = headerless_names(detector, tmp_path / "corrected.gz")
    assert names == [*schema.features, "extra_1"]
    assert score_files(detector, [tmp_path / "corrected.gz"], tmp_path / "v.parquet", header=names) == 3000
    assert pl.read_parquet(tmp_path / "v.parquet").equals(detector.score(table))
