import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import ArtifactError, DataError
from deepidea.flows.schema import Column, Schema
from deepidea.model.features import NUMBER_ENCODINGS, NUMBER_SCALINGS, FlowEncoder

SCHEMA = Schema("custom", (Column("bytes", "number"), Column("rate", "number"), Column("service", "category")))
numbers = st.lists(st.one_of(st.floats(width=32), st.none()), min_size=1, max_size=20)

moderate = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2)


def flows(values, services=("dns", "http")):
    n = len(values)
    service = [services[i % len(services)] for i in range(n)]
    return pl.DataFrame({"bytes": values, "rate": values[::-1], "service": service}, schema_overrides=FLOATS)


FLOATS = {"bytes": pl.Float64, "rate": pl.Float64}


def every_encoder():
    return [{"scaling": scaling, "number_encoding": name} for scaling in NUMBER_SCALINGS for name in NUMBER_ENCODINGS]


@pytest.mark.parametrize("options", every_encoder(), ids=lambda options: "-".join(options.values()))
@given(training=numbers, scored=numbers)
def test_any_table_is_encoded_to_finite_numbers(options, training, scored):
    encoder = FlowEncoder(SCHEMA, **options).fit(flows(training))
    encoded = encoder.transform(flows(scored))
    assert encoded.shape == (len(scored), encoder.d_out)
    assert np.isfinite(encoded).all()


@pytest.mark.parametrize("options", every_encoder(), ids=lambda options: "-".join(options.values()))
def test_scored_rows_change_nothing_that_was_fitted(options):
    encoder = FlowEncoder(SCHEMA, **options).fit(flows([1.0, 2.0, 50.0]))
    before = encoder.contract()
    encoder.transform(flows([1e30, math.inf, math.nan], services=("never seen",)))
    assert encoder.contract() == before


def test_unknown_category_is_all_zeros():
    encoder = FlowEncoder(SCHEMA).fit(flows([1.0, 2.0]))
    encoded = encoder.transform(flows([1.0], services=("gopher",)))
    assert encoded[0, 2:].tolist() == [0, 0]


def test_missing_takes_the_median_and_infinity_the_edge():
    encoder = FlowEncoder(SCHEMA, scaling="min-max").fit(flows([0.0, 5.0, 10.0]))
    assert encoder.transform(flows([math.nan, math.inf, -math.inf]))[:, 0].tolist() == [0.5, 1.0, 0.0]


def test_log_z_scores_stay_within_five_deviations():
    encoder = FlowEncoder(SCHEMA).fit(flows([0.0] * 999 + [1e9]))
    assert np.abs(encoder.transform(flows([1e9, 0.0]))[:, :2]).max() <= 5.001


def test_a_row_of_weight_three_is_three_rows():
    values = [1.0, 4.0, 90.0]
    weighted = FlowEncoder(SCHEMA).fit(flows(values), np.array([3.0, 1.0, 1.0]))
    rows = flows(values)[[0, 0, 0, 1, 2]]
    repeated = FlowEncoder(SCHEMA).fit(rows)
    assert np.allclose(weighted.transform(flows(values)), repeated.transform(flows(values)), atol=1e-6)


def test_rarest_values_beyond_the_limit_are_unknown():
    table = flows([1.0] * 6, services=("a", "b", "a", "c", "a", "b"))
    encoder = FlowEncoder(SCHEMA, max_values=2).fit(table)
    assert encoder.vocabulary_ == {"service": ["a", "b"]}


@pytest.mark.parametrize("name", NUMBER_ENCODINGS)
@given(numbers)
def test_contract_rebuilds_the_same_encoder(name, values):
    encoder = FlowEncoder(SCHEMA, number_encoding=name, n_quantiles=4).fit(flows(values))
    rebuilt = FlowEncoder.from_contract(SCHEMA, json.loads(json.dumps(encoder.contract(), allow_nan=False)))
    assert np.array_equal(rebuilt.transform(flows(values)), encoder.transform(flows(values)))


EDGES = [{"edges": [[1.0]]}, {"edges": [[2.0, 1.0], []]}, {"edges": [[math.nan], []]}, {"edges": None}]
OTHERS = [{"low_": [1.0]}, {"vocabulary": {}}, {"scaling": "magic"}, {"scale_": "x"}, {"number_encoding": "magic"}]


@pytest.mark.parametrize("damage", [*EDGES, *OTHERS, {"n_quantiles": 0}], ids=str)
def test_a_contract_that_does_not_fit_is_refused(damage):
    fitted = FlowEncoder(SCHEMA, number_encoding="thermometer").fit(flows([1.0, 2.0]))
    contract = {**fitted.contract(), **damage}
    with pytest.raises(ArtifactError, match="encoder"):
        FlowEncoder.from_contract(SCHEMA, contract)


def test_an_empty_table_cannot_be_fitted():
    with pytest.raises(DataError, match="cannot fit an encoder"):
        FlowEncoder(SCHEMA).fit(flows([1.0]).clear())


@pytest.mark.parametrize("scaling", NUMBER_SCALINGS)
@given(training=moderate, drawn=moderate)
def test_what_is_decoded_keeps_inside_what_training_holds(scaling, training, drawn):
    encoder = FlowEncoder(SCHEMA, scaling=scaling).fit(flows(training))
    decoded = encoder.decode(np.array([drawn], np.float32), np.zeros((1, 1), np.int32))
    assert decoded.columns == list(SCHEMA.features)
    assert decoded["service"].to_list() == [None]
    raw = encoder.raw(decoded)
    assert (raw.numbers >= encoder.low_).all()
    assert (raw.numbers <= encoder.high_).all()


@pytest.mark.parametrize("scaling", NUMBER_SCALINGS)
def test_decoding_undoes_encoding(scaling):
    table = flows([0.0, 3.0, 1000.0, 20.0])
    encoder = FlowEncoder(SCHEMA, scaling=scaling).fit(table)
    raw = encoder.raw(table)
    again = encoder.decode(encoder.scaled(raw), raw.codes)
    np.testing.assert_allclose(again["bytes"], table["bytes"], rtol=1e-4, atol=1e-4)
    assert again["service"].equals(table["service"])


def test_blocks_of_rows_change_no_cell(monkeypatch):
    table = flows(np.random.default_rng(0).normal(size=100), ["dns", "http"] * 50)
    encoder = FlowEncoder(SCHEMA).fit(table)
    whole = encoder.transform(table)
    monkeypatch.setattr("deepidea.model.features.BLOCK_ROWS", 7)
    assert encoder.transform(table).tobytes() == whole.tobytes()
    assert encoder.transform(table[:0]).shape == (0, encoder.d_out)


@pytest.mark.parametrize("name", NUMBER_ENCODINGS)
def test_the_order_of_rows_does_not_matter(name):
    table = flows(np.random.default_rng(0).lognormal(size=60).round(1), ["dns", "http"] * 30)
    encoder, turned = (FlowEncoder(SCHEMA, number_encoding=name).fit(rows) for rows in (table, table.reverse()))
    assert np.allclose(turned.transform(table), encoder.transform(table), atol=1e-5)


def test_a_thermometer_counts_the_edges_below_a_number():
    values = [float(value) for value in range(100)]
    encoder = FlowEncoder(SCHEMA, number_encoding="thermometer", n_quantiles=4).fit(flows(values))
    edges = encoder.steps_.edges[0]
    assert edges.tolist() == [19, 39, 59, 79]
    encoded = encoder.transform(flows([-5.0, 19.0, 19.5, 1e9, math.nan]))
    first = encoded[:, encoder.sources == 0]
    assert first.sum(axis=1).tolist() == [0, 0, 1, 4, 2]
    assert (np.diff(first, axis=1) <= 0).all()


def test_a_piecewise_linear_encoding_is_linear_inside_a_bin():
    values = [float(value) for value in range(101)]
    options = {"scaling": "min-max", "number_encoding": "piecewise-linear", "n_quantiles": 4}
    encoder = FlowEncoder(SCHEMA, **options).fit(flows(values))
    encoded = encoder.transform(flows([0.0, 37.5, 100.0]))[:, encoder.sources == 0]
    assert encoded == pytest.approx(np.array([[0, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 1, 1]]), abs=0.02)


@pytest.mark.parametrize("name", ["thermometer", "piecewise-linear"])
def test_a_constant_number_has_no_steps_and_a_rare_value_has_one(name):
    mostly = flows([7.0] * 99 + [9.0]).with_columns(rate=pl.lit(1.0))
    encoder = FlowEncoder(SCHEMA, number_encoding=name).fit(mostly)
    assert np.bincount(encoder.sources, minlength=3).tolist() == [1, 0, 2]
    assert encoder.transform(mostly)[[0, 99], 0].tolist() == [0, 1]


@pytest.mark.parametrize("name", NUMBER_ENCODINGS)
def test_each_column_of_an_encoded_flow_has_one_feature(name):
    table = flows([1.0, 2.0, 3.0, 50.0])
    encoder = FlowEncoder(SCHEMA, number_encoding=name).fit(table)
    changed = encoder.transform(table.with_columns(rate=pl.lit(2.0))) != encoder.transform(table)
    assert changed.any()
    assert set(encoder.sources[changed.any(axis=0)].tolist()) == {1}


@pytest.mark.parametrize("bad", [{"number_encoding": "one-hot"}, {"n_quantiles": 0}, {"n_quantiles": 257}])
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FlowEncoder(SCHEMA, **bad)
