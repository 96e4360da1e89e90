"""What every registered thing must keep to: a schema, taxonomy, data set, preset or system is tested by being there."""

import importlib
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from deepidea.benchmark.published import PUBLISHED
from deepidea.benchmark.systems import SYSTEMS, Group, make_system
from deepidea.errors import DataError
from deepidea.flows.datasets.specs import DATASET_SPECS
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import SCHEMAS, Schema, get_schema
from deepidea.flows.simulate import simulate_flows
from deepidea.flows.taxonomy import TAXONOMIES
from deepidea.model.detector import Detector
from deepidea.model.features import NUMBER_ENCODINGS, NUMBER_SCALINGS, FlowEncoder
from deepidea.model.presets import PRESETS, train_detector

FORMATS = sorted((Path(__file__).parent / "data").glob("format-*"))


def flows_of(schema: Schema, n_flows: int = 20) -> pl.DataFrame:
    """Return flows that a schema accepts: small numbers, two words a category."""
    rng = np.random.default_rng(0)
    numbers = {name: rng.integers(0, 50, n_flows).astype(float) for name in schema.numbers}
    return pl.DataFrame(numbers | {name: rng.choice(["a", "b"], n_flows) for name in schema.categories})


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_survives_its_contract(name):
    schema = get_schema(name)
    assert Schema.from_contract(schema.contract()) == schema


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_shows_no_identity_to_a_model(name):
    schema = get_schema(name, use_port=True)
    kinds = {schema[feature].kind for feature in schema.features}
    assert "identity" not in kinds
    assert "port" not in {get_schema(name)[feature].kind for feature in get_schema(name).features}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_knows_each_spelling_once(name):
    keys = Counter(key for column in SCHEMAS[name].columns for key in column.keys)
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("number_encoding", NUMBER_ENCODINGS)
@pytest.mark.parametrize("scaling", NUMBER_SCALINGS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_any_schema_is_encoded(name, scaling, number_encoding):
    schema = get_schema(name)
    flows = flows_of(schema)
    encoded = FlowEncoder(schema, scaling=scaling, number_encoding=number_encoding).fit(flows).transform(flows)
    assert np.isfinite(encoded).all()
    assert schema.conform(flows).select(schema.features).equals(flows.select(schema.features))


@pytest.mark.parametrize(("dataset", "name"), [(d, n) for d, of in TAXONOMIES.items() for n in of])
def test_taxonomy_puts_benign_first_and_maps_what_it_knows(dataset, name):
    taxonomy = TAXONOMIES[dataset][name]
    assert taxonomy.classes[0] == "benign"
    known = pl.Series("label", sorted(taxonomy.mapping))
    assert set(taxonomy.apply(known).unique()) == set(taxonomy.classes)


@pytest.mark.parametrize("name", DATASET_SPECS)
def test_catalogued_data_set_has_schema_taxonomy_and_page(name):
    entry = DATASET_SPECS[name]
    assert entry.schema in SCHEMAS
    assert name in TAXONOMIES
    assert entry.page.startswith("http")


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_trains_a_detector_that_can_be_kept(preset, tmp_path):
    flows, _ = labelled_flows_from_table(simulate_flows(n_flows=400), "label", "benign")
    detector = train_detector(flows, preset=preset, hidden=(16,), n_epochs=2, min_steps=20, random_state=0)
    detector.save(tmp_path / "model.idea")
    verdicts = Detector.load(tmp_path / "model.idea").score(flows.table)
    assert verdicts.equals(detector.score(flows.table))
    assert set(verdicts["class"].unique()) <= set(detector.classes)


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_is_made_by_its_name_at_its_home(name):
    info = SYSTEMS[name]
    module, _, class_name = info.home.partition(":")
    home = getattr(importlib.import_module(module), class_name)
    assert home.__module__ == module
    assert type(make_system(name)) is home
    assert callable(home.fit)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("change", ["no_such_parameter=1", "random_state=1"])  # the seed comes with fit
def test_system_refuses_parameters_that_it_does_not_have(name, change):
    with pytest.raises(DataError, match=f"cannot make {name}:{change}: .*; choose parameters that {name} has"):
        make_system(f"{name}:{change}")


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_is_one_row_of_the_tables(name):
    info = SYSTEMS[name]
    recipes = [(other.home, dict(other.parameters)) for other in SYSTEMS.values()]
    assert recipes.count((info.home, dict(info.parameters))) == 1
    assert [other.title for other in SYSTEMS.values()].count(info.title) == 1
    assert info.group in get_args(Group)
    assert info.paper_row is None or any(info.paper_row in table.rows for table in PUBLISHED.values())


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_every_format_ever_written_stays_readable(folder):
    detector = Detector.load(folder / "model.idea")
    verdicts = detector.score(pl.read_csv(folder / "flows.csv"))
    kept = pl.read_csv(folder / "verdicts.csv")
    assert verdicts["class"].to_list() == kept["class"].to_list()
    numbers = [name for name in kept.columns if name not in ("class", "label")]
    assert verdicts.select(numbers).to_numpy() == pytest.approx(kept.select(numbers).to_numpy(), abs=1e-5)
