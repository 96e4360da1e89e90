from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepidea.errors import CellError, SchemaError
from deepidea.flows.schema import SCHEMAS, Column, Schema, get_schema, register

SMALL = Schema(
    "small",
    (
        Column("src_ip", "identity"),
        Column("dst_port", "port", "", ("Destination Port",)),
        Column("bytes", "number", "B", ("Tot Byts",)),
        Column("is_login", "flag"),
        Column("proto", "category", optional=True),
    ),
)

PYTHON_METER = (
    "src_ip,dst_ip,src_port,dst_port,src_mac,dst_mac,protocol,timestamp,flow_duration,flow_byts_s,flow_pkts_s,"
    "fwd_pkts_s,bwd_pkts_s,tot_fwd_pkts,tot_bwd_pkts,totlen_fwd_pkts,totlen_bwd_pkts,fwd_pkt_len_max,fwd_pkt_len_min,"
    "fwd_pkt_len_mean,fwd_pkt_len_std,bwd_pkt_len_max,bwd_pkt_len_min,bwd_pkt_len_mean,bwd_pkt_len_std,pkt_len_max,"
    "pkt_len_min,pkt_len_mean,pkt_len_std,pkt_len_var,fwd_header_len,bwd_header_len,fwd_seg_size_min,fwd_act_data_pkts,"
    "flow_iat_mean,flow_iat_max,flow_iat_min,flow_iat_std,fwd_iat_tot,fwd_iat_max,fwd_iat_min,fwd_iat_mean,fwd_iat_std,"
    "bwd_iat_tot,bwd_iat_max,bwd_iat_min,bwd_iat_mean,bwd_iat_std,fwd_psh_flags,bwd_psh_flags,fwd_urg_flags,"
    "bwd_urg_flags,fin_flag_cnt,syn_flag_cnt,rst_flag_cnt,psh_flag_cnt,ack_flag_cnt,urg_flag_cnt,ece_flag_cnt,"
    "down_up_ratio,pkt_size_avg,init_fwd_win_byts,init_bwd_win_byts,active_max,active_min,active_mean,active_std,"
    "idle_max,idle_min,idle_mean,idle_std,fwd_byts_b_avg,fwd_pkts_b_avg,bwd_byts_b_avg,bwd_pkts_b_avg,fwd_blk_rate_avg,"
    "bwd_blk_rate_avg,fwd_seg_size_avg,bwd_seg_size_avg,cwr_flag_count,subflow_fwd_pkts,subflow_bwd_pkts,"
    "subflow_fwd_byts,subflow_bwd_byts"
)


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_schema_is_sound(name: str) -> None:
    schema = SCHEMAS[name]
    assert set(schema.numbers) | set(schema.categories) == set(schema.features)
    assert schema.canonical_names(schema.features) == {feature: feature for feature in schema.features}
    assert not any(schema[feature].kind in ("identity", "port") for feature in schema.features)
    restricted = schema.restrict(schema.features)
    assert Schema.from_contract(json.loads(json.dumps(restricted.contract()))) == restricted


def test_kdd99_has_the_41_features() -> None:
    schema = get_schema("kdd99")
    assert (len(schema.features), len(schema.numbers)) == (41, 38)
    assert schema.categories == ("protocol_type", "service", "flag")
    assert "difficulty" not in schema.features


def test_use_port_makes_the_port_a_number() -> None:
    assert "dst_port" not in SMALL.features
    assert "dst_port" in SMALL.with_port().numbers
    assert get_schema("cicflow", use_port=True).features.count("dst_port") == 1


def test_python_meter_names_cover_cicflow() -> None:
    schema = get_schema("cicflow")
    names = schema.canonical_names(PYTHON_METER.split(","))
    assert len(names) == len(PYTHON_METER.split(","))
    assert {c.name for c in schema.columns if c.name in schema.features and not c.optional} <= set(names.values())


@pytest.mark.data
@pytest.mark.parametrize("pattern", ["cicids17/**/*.csv", "cicids17-improved/*.csv", "cicids18/*.csv"])
def test_every_spelling_gives_the_same_features(data_root: Path, pattern: str) -> None:
    schema = get_schema("cicflow")
    required = {name for name in schema.features if not schema[name].optional}
    for path in data_root.glob(pattern):
        with path.open(encoding="latin-1") as file:
            header = file.readline().rstrip("\r\n").split(",")
        unknown = set(header) - set(schema.canonical_names(header))
        assert unknown <= {" Fwd Header Length.1", " Label", "Label"}
        assert required <= set(schema.canonical_names(header).values())


@given(st.permutations(["src_ip", " Destination Port", "TOT BYTS ", "Is Login", "proto", "note"]))
def test_conform_does_not_depend_on_column_order(order: list[str]) -> None:
    cells = [["10.0.0.1"], [80], ["7"], [True], ["tcp"], ["x"]]
    raw = dict(zip(["src_ip", " Destination Port", "TOT BYTS ", "Is Login", "proto", "note"], cells, strict=True))
    table = pl.DataFrame({name: raw[name] for name in order})
    conformed = SMALL.conform(table)
    assert conformed.columns == ["src_ip", "dst_port", "bytes", "is_login", "proto"]
    assert conformed.row(0) == ("10.0.0.1", 80, 7.0, 1, "tcp")
    assert SMALL.conform(conformed).equals(conformed)


def test_conform_keeps_infinite_and_missing_numbers() -> None:
    table = pl.DataFrame({"bytes": [" Infinity", "NaN", "", None, "-inf"], "is_login": [0, 1, None, 0, 0]})
    values = SMALL.conform(table)["bytes"].to_list()
    assert values[0] == float("inf")
    assert values[1] != values[1]
    assert values[2:] == [None, None, float("-inf")]


@pytest.mark.parametrize("cells", [[6, 17], [6.0, 17.0], ["6", " 17"]])
def test_categories_spell_one_way(cells: list[object]) -> None:
    table = pl.DataFrame({"bytes": [1, 2], "is_login": [0, 1], "proto": cells})
    assert SMALL.conform(table)["proto"].to_list() == ["6", "17"]


def test_text_in_a_number_names_row_and_column() -> None:
    table = pl.DataFrame({"Tot Byts": ["1", "many", "2", "few"], "is_login": [0, 1, 1, 0]})
    with pytest.raises(CellError, match=r"row 2: bytes 'many' is not a number \(1 more"):
        SMALL.conform(table)
    assert SMALL.bad_cells(table).rows() == [(1, "bytes", "many"), (3, "bytes", "few")]


def test_port_out_of_range_is_a_bad_cell_only_where_used() -> None:
    table = pl.DataFrame({"dst_port": [80, 70_000], "bytes": [1, 2], "is_login": [0, 0]})
    assert SMALL.conform(table)["dst_port"].to_list() == [80, 70_000]
    with pytest.raises(CellError, match=r"row 2: dst_port '70000' is not in 0..65535"):
        SMALL.with_port().conform(table)


def test_missing_columns_are_named_with_their_nearest() -> None:
    with pytest.raises(SchemaError, match=r"1 missing: bytes, nearest: byte[^s]*"):
        SMALL.conform(pl.DataFrame({"byte": [1], "is_login": [0]}))


def test_a_feature_that_comes_twice_is_refused() -> None:
    table = pl.DataFrame({"bytes": [1], "tot_byts": [1], "is_login": [0]})
    with pytest.raises(SchemaError, match=r"bytes .* twice \(columns 'bytes', 'tot_byts'\)"):
        SMALL.conform(table)
    with pytest.raises(SchemaError, match=r"bytes of schema .* twice"):
        SMALL.conform(table.rename({"tot_byts": "bytes_duplicated_0"}))


def test_a_column_of_another_kind_is_refused() -> None:
    table = pl.DataFrame({"bytes": [[1]], "is_login": [0]})
    with pytest.raises(SchemaError, match="column bytes is of type"):
        SMALL.conform(table)


def test_restrict_makes_what_is_there_required() -> None:
    with_proto = SMALL.restrict(["bytes", "is_login", "proto"])
    with pytest.raises(SchemaError, match="proto"):
        with_proto.conform(pl.DataFrame({"bytes": [1], "is_login": [0]}))
    without = SMALL.restrict(["bytes", "is_login"])
    assert without.conform(pl.DataFrame({"bytes": [1], "is_login": [0], "proto": ["tcp"]})).columns == [
        "bytes",
        "is_login",
    ]


def _spoiled(**changes: object) -> object:
    contract = SMALL.contract()
    contract["columns"][0] = {**contract["columns"][0], **changes}
    return contract


@pytest.mark.parametrize(
    "contract",
    [
        [],
        {},
        {**SMALL.contract(), "name": 3},
        {**SMALL.contract(), "use_port": "yes"},
        {**SMALL.contract(), "columns": []},
        {**SMALL.contract(), "columns": SMALL.contract()["columns"] * 2},
        _spoiled(kind="secret"),
        _spoiled(kind=["number"]),
        _spoiled(name="x" * 1000),
        _spoiled(aliases="ab"),
        _spoiled(aliases=["bytes"]),
        _spoiled(optional=1),
        _spoiled(extra=1),
    ],
)
def test_a_contract_from_elsewhere_is_checked(contract: object) -> None:
    with pytest.raises(SchemaError):
        Schema.from_contract(contract)  # type: ignore[arg-type]


def test_registry_refuses_taken_and_unknown_names() -> None:
    with pytest.raises(SchemaError, match="kdd99 is already registered"):
        register(Schema("kdd99", SMALL.columns))
    with pytest.raises(SchemaError, match=r"'cicflw'; nearest: cicflow; .* kdd99"):
        get_schema("cicflw")


def test_an_identity_that_is_there_twice_is_taken_once() -> None:
    table = pl.DataFrame({name: [1.0] for name in get_schema("conn").numbers} | {"protocol": ["tcp"]})
    twice = table.with_columns(uid=pl.lit("first"), community_id=pl.lit("second"))
    assert get_schema("conn").conform(twice)["uid"].to_list() == ["first"]


def test_a_flag_may_be_spelt_out():
    schema = Schema("tiny", (Column("seen", "flag"), Column("n", "number")))
    cells = pl.DataFrame({"seen": ["true", " False", "TRUE", "1", "0.0", ""], "n": ["1"] * 6})
    assert schema.conform(cells)["seen"].to_list() == [1, 0, 1, 1, 0, None]
    bad = schema.bad_cells(pl.DataFrame({"seen": ["yes", "true"], "n": ["true", "2"]}))
    assert bad.rows() == [(0, "seen", "yes"), (0, "n", "true")]


def test_a_protocol_is_one_word_however_its_number_is_written():
    schema = Schema("tiny", (Column("IP Proto", "category"), Column("version", "category")))
    cells = pl.DataFrame({"IP Proto": ["6", "6.0", " 17.00", "tcp"], "version": ["1.0", "1", "1.2", "x"]})
    flows = schema.conform(cells)
    assert flows["IP Proto"].to_list() == ["6", "6", "17", "tcp"]
    assert flows["version"].to_list() == ["1.0", "1", "1.2", "x"]  # another version is another word
