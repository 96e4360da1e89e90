"""The meter: golden captures worked by hand, rules of beginning and end, and rows that no way of reading changes."""

import io
import math
import struct
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from deepidea.flows.schema import get_schema
from deepidea.packets.capture import PacketBlock, iter_capture
from deepidea.packets.meter import DIALECTS, FlowMeter, meter_capture
from tests.packets.forging import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    URG,
    A,
    B,
    conversation,
    ethernet,
    icmp,
    ip,
    pcap,
    tcp,
    udp,
)

THERE, BACK = (A, 40000, B, 80), (B, 80, A, 40000)


def meter(frames, *, link_type=1, **options):
    """Return the flows of frames at times, and the meter."""
    made = FlowMeter(max_flows=options.pop("max_flows", 100), **options)
    return pl.concat(meter_capture(io.BytesIO(pcap(frames, link_type=link_type)), made)), made


def only(frames, **options):
    """Return the one flow of frames."""
    flows, _ = meter(frames, **options)
    assert flows.height == 1
    return flows.row(0, named=True)


# --- golden values ---------------------------------------------------------------------------------------------------

# Of conversation(): ten packets 10 ms apart. Forward SYN, ACK, 100 B, FIN, ACK; backward SYN, 3 x 1000 B, FIN.
GOLDEN = {
    "duration_us": 90_000,
    "fwd_packets": 5,
    "bwd_packets": 5,
    "fwd_bytes": 100,
    "bwd_bytes": 3000,
    "fwd_packet_length_max": 100,
    "fwd_packet_length_min": 0,
    "fwd_packet_length_mean": 20,
    "fwd_packet_length_std": math.sqrt((80**2 + 4 * 20**2) / 4),
    "bwd_packet_length_mean": 600,
    "bwd_packet_length_std": math.sqrt((3 * 400**2 + 2 * 600**2) / 4),
    "bytes_per_s": 3100 / 0.09,
    "packets_per_s": 10 / 0.09,
    "iat_mean_us": 10_000,
    "iat_std_us": 0,
    "iat_max_us": 10_000,
    "iat_min_us": 10_000,
    "fwd_iat_total_us": 90_000,  # at 0, 20, 30, 70, 90 ms
    "fwd_iat_mean_us": 22_500,
    "fwd_iat_std_us": math.sqrt((2500**2 + 12500**2 + 17500**2 + 2500**2) / 3),
    "fwd_iat_max_us": 40_000,
    "fwd_iat_min_us": 10_000,
    "bwd_iat_total_us": 70_000,  # at 10, 40, 50, 60, 80 ms
    "bwd_iat_mean_us": 17_500,
    "bwd_iat_max_us": 30_000,
    "bwd_iat_min_us": 10_000,
    "fwd_psh_flags": 1,
    "bwd_psh_flags": 0,
    "fwd_header_bytes": 100,
    "bwd_header_bytes": 100,
    "fwd_packets_per_s": 5 / 0.09,
    "packet_length_min": 0,
    "packet_length_max": 1000,
    "packet_length_mean": 310,
    "packet_length_variance": (3 * 690**2 + 210**2 + 6 * 310**2) / 9,
    "fin_flag_count": 2,
    "syn_flag_count": 2,
    "rst_flag_count": 0,
    "psh_flag_count": 1,
    "ack_flag_count": 9,
    "down_up_ratio": 1,
    "packet_size_mean": 310,
    "fwd_segment_size_mean": 20,
    "bwd_segment_size_mean": 600,
    "bwd_bulk_bytes_mean": 0,  # three packets are no bulk
    "fwd_init_window_bytes": 1000,
    "bwd_init_window_bytes": 1000,
    "fwd_data_packets": 1,
    "fwd_segment_size_min": 20,
    "active_mean_us": 0,
    "idle_mean_us": 0,
    "icmp_type": -1,
    "tcp_flow_time_us": 90_000,
}


def test_golden_conversation():
    flow = only(conversation())
    assert {name: flow[name] for name in GOLDEN} == pytest.approx(GOLDEN, rel=1e-12)
    assert (flow["src_ip"], flow["src_port"], flow["dst_ip"], flow["dst_port"], flow["protocol"]) == (*THERE, "6")
    assert flow["ended_by"] == "end"


def test_golden_bulks():
    frames = [(1 + 0.1 * j, tcp(*BACK, ACK, bytes(100))) for j in range(6)]  # one bulk of six packets
    frames += [(2, tcp(*THERE, ACK, bytes(10)))]  # breaks it
    frames += [(2.1 + 0.1 * j, tcp(*BACK, ACK, bytes(100))) for j in range(4)]  # another of four
    flow = only([(0.9, tcp(*THERE, SYN)), *frames])
    assert (flow["bwd_bulk_bytes_mean"], flow["bwd_bulk_packets_mean"]) == (500, 5)
    assert flow["bwd_bulk_rate_mean"] == pytest.approx(1000 / (0.5 + 0.3))
    assert flow["fwd_bulk_bytes_mean"] == 0


def test_golden_activity():
    times = [0, 2, 3, 13, 14.5, 30]  # active 0-3, idle 10, active 13-14.5, idle 15.5
    flow = only([(t, udp(A, 5000, B, 53, b"q")) for t in times])
    assert (flow["active_mean_us"], flow["active_max_us"], flow["active_min_us"]) == (2_250_000, 3_000_000, 1_500_000)
    assert flow["active_std_us"] == pytest.approx(math.sqrt(2) * 750_000)
    assert (flow["idle_mean_us"], flow["idle_max_us"], flow["idle_min_us"]) == (12_750_000, 15_500_000, 10_000_000)
    assert flow["subflow_fwd_packets"] == 6 / 4  # gaps above a second: 2, 10, 1.5, 15.5


def test_golden_flags_windows_and_headers():
    frames = [
        (1, tcp(*THERE, SYN, window=11, options=bytes(20))),
        (2, tcp(*BACK, SYN | ACK, window=0)),
        (3, tcp(*BACK, ACK | URG, window=22)),
        (4, tcp(*THERE, ACK | PSH | URG, b"abc", window=33, options=bytes(12))),
        (5, tcp(*BACK, RST, window=44)),
    ]
    flow = only(frames)
    assert (flow["fwd_init_window_bytes"], flow["bwd_init_window_bytes"]) == (11, 22)
    assert (flow["fwd_urg_flags"], flow["bwd_urg_flags"], flow["urg_flag_count"]) == (1, 1, 2)
    assert (flow["fwd_rst_flags"], flow["bwd_rst_flags"], flow["rst_flag_count"]) == (0, 1, 1)
    assert (flow["fwd_header_bytes"], flow["fwd_segment_size_min"]) == (72, 32)


def test_a_single_packet_has_no_rates_and_no_gaps():
    flow = only([(5, udp(A, 5000, B, 53, b"hello"))])
    assert flow["duration_us"] == flow["bytes_per_s"] == flow["iat_mean_us"] == flow["packet_length_std"] == 0
    assert flow["packet_length_mean"] == flow["fwd_bytes"] == 5


# --- ground truth ----------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_a_published_capture_gives_its_published_flows(data_root):
    """Every common column of the nine flows of CICIDS2017's own capture, to 1e-6."""
    schema = get_schema("cicflow")
    published = pl.read_csv(data_root / "cicids17-improved" / "thursday.csv", infer_schema_length=None)
    published = published.filter(pl.col("Label") == "Web Attack - SQL Injection")
    names = schema.canonical_names(published.columns)
    published = published.rename(names).with_columns(start=pl.col("timestamp").str.to_datetime(time_zone="UTC"))
    metered = pl.concat(
        meter_capture(data_root / "pcap" / "WebattackSQLinj.pcap", FlowMeter(dialect="cicids17-improved"))
    )
    published = metered.select("start", "src_port").join(published, on=["start", "src_port"], how="inner")
    assert metered.height == published.height == 9
    common = [name for name in schema.features if name in published.columns]
    assert len(common) == len(schema.features)
    ours, theirs = (table.select(pl.col(common).cast(pl.Float64)) for table in (metered, published))
    assert_frame_equal(ours, theirs, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.data
def test_dialects_explain_every_published_column(data_root):
    """What the corrected meter says otherwise of the same flows stands in the list of the dialect, and nothing else."""
    capture = data_root / "pcap" / "WebattackSQLinj.pcap"
    corrected, improved = (
        pl.concat(meter_capture(capture, FlowMeter(dialect=d))) for d in ("corrected", "cicids17-improved")
    )
    differing = {name for name in corrected.columns if not corrected[name].equals(improved[name])}
    subflows = {f"subflow_{way}_{what}" for way in ("fwd", "bwd") for what in ("packets", "bytes")}
    assert differing - subflows == {"bwd_init_window_bytes"}


# --- where flows begin and end ---------------------------------------------------------------------------------------


def test_what_comes_just_after_the_end_belongs_to_the_flow():
    flow = only([*conversation(), (100.2, tcp(*BACK, FIN | ACK))])
    assert flow["bwd_packets"] == 6


def test_what_comes_late_after_the_end_is_counted_and_makes_no_flow():
    flows, made = meter([*conversation(), (103, tcp(*BACK, ACK)), (104, tcp(*THERE, RST))])
    assert flows.height == 1
    assert made.counters["after the end of its flow"] == 2


def test_late_payload_is_a_flow_in_the_old_direction():
    flows, _ = meter([*conversation(), (103, tcp(*BACK, ACK, b"late"))])
    assert flows["src_ip"].to_list() == [A, A]
    assert flows["bwd_bytes"].to_list() == [3000, 4]


def test_a_new_syn_begins_a_new_flow_at_once():
    flows, _ = meter([*conversation(), *conversation(start=100.15)])
    assert flows["fwd_packets"].to_list() == [5, 5]


def test_a_reset_ends_a_flow():
    flows, _ = meter([(1, tcp(*THERE, SYN)), (1.01, tcp(*BACK, RST | ACK)), (2, udp(A, 1, B, 2))])
    assert flows["ended_by"].to_list() == ["end", "stopped"]


@pytest.mark.parametrize("protocol", [tcp, udp])
def test_a_flow_is_cut_at_its_time_out_and_keeps_its_direction(protocol):
    packet = (lambda *who: tcp(*who, ACK, b"x")) if protocol is tcp else (lambda *who: udp(*who, b"x"))
    times = [0, 60, 119, 121, 150]
    frames = [(1000 + t, packet(*(BACK if t == 121 else THERE))) for t in times]
    flows, _ = meter(frames)
    assert flows["src_ip"].to_list() == [A, A]
    assert flows["fwd_packets"].to_list() == [3, 1]
    assert flows["bwd_packets"].to_list() == [0, 1]
    assert flows["tcp_flow_time_us"].to_list() == ([119_000_000, 150_000_000] if protocol is tcp else [0, 0])


def test_udp_after_a_long_silence_takes_its_own_direction():
    flows, _ = meter([(1000, udp(*THERE)), (1300, udp(*BACK))])
    assert flows["src_ip"].to_list() == [A, B]


def test_a_syn_ack_first_tells_who_began():
    assert only([(1, tcp(*BACK, SYN | ACK)), (2, tcp(*THERE, ACK))])["src_ip"] == A


def test_icmp_of_another_kind_is_another_flow():
    frames = [(1, icmp(A, B, 8, 0)), (2, icmp(B, A, 0, 0)), (3, icmp(B, A, 3, 1))]
    flows, _ = meter(frames)
    assert flows.select("icmp_type", "icmp_code", "src_ip").rows() == [(8, 0, A), (3, 1, B)]
    assert flows["src_port"].null_count() == 2
    assert flows["community_id"].null_count() == 0


def test_snapshots_report_a_flow_before_it_ends():
    frames = [(1000 + t, tcp(*THERE, ACK, b"x")) for t in range(0, 100, 10)]
    flows, _ = meter(frames, snapshot_s=30)
    assert flows["ended_by"].to_list() == ["snapshot", "snapshot", "stopped"]
    assert flows["fwd_packets"].to_list() == [4, 7, 10]


def test_a_flow_in_which_nothing_happened_is_no_snapshot():
    flows, _ = meter([(1000, udp(*THERE)), (1001, udp(*BACK)), (1095, udp(A, 7, B, 7))], snapshot_s=10)
    assert flows["ended_by"].to_list() == ["snapshot", "stopped", "stopped"]


def test_a_full_table_returns_the_oldest_and_counts_it():
    frames = [(1000 + j / 1000, udp(A, 1000 + j, B, 53, b"q")) for j in range(10)]
    flows, made = meter(frames, max_flows=4)
    assert flows.height == 10
    assert made.counters["flow evicted"] == 6
    assert flows["src_port"].to_list() == [1000 + j for j in range(10)]


def test_a_clock_set_back_ends_all_flows():
    flows, made = meter([(10_000, udp(*THERE)), (100, udp(*THERE)), (101, udp(*BACK))])
    assert flows["ended_by"].to_list() == ["clock set back", "stopped"]
    assert made.counters["clock set back"] == 1


def test_packets_a_little_out_of_order_are_counted_and_kept():
    flow_, made = meter([(10, udp(*THERE, b"a")), (12, udp(*BACK, b"b")), (11, udp(*THERE, b"c"))])
    flow = flow_.row(0, named=True)
    assert (flow["duration_us"], flow["iat_min_us"]) == (2_000_000, 0)
    assert made.counters["out of order"] == 1


# --- links, headers, damage ------------------------------------------------------------------------------------------

TCP_PACKET = ip(A, B, 6, struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 80, SYN, 9, 0, 0))
TCP6_BODY = struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 80, SYN, 9, 0, 0) + b"abc"
LINKS = {
    "ethernet": (1, ethernet(TCP_PACKET)),
    "vlan": (1, ethernet(TCP_PACKET, tags=[0x8100])),
    "qinq": (1, ethernet(TCP_PACKET, tags=[0x88A8, 0x8100])),
    "raw": (101, TCP_PACKET),
    "ipv4": (228, TCP_PACKET),
    "cooked": (113, bytes(14) + b"\x08\x00" + TCP_PACKET),
    "cooked 2": (276, b"\x08\x00" + bytes(18) + TCP_PACKET),
    "loopback": (0, struct.pack("<I", 2) + TCP_PACKET),
}


@pytest.mark.parametrize("link", LINKS)
def test_links(link):
    kind, frame = LINKS[link]
    flow = only([(1, frame)], link_type=kind)
    assert (flow["src_ip"], flow["dst_port"], flow["fwd_bytes"]) == (A, 80, 0)


def test_ipv6_with_extension_headers():
    hop_by_hop, fragment = b"\x2c\x00" + bytes(6), b"\x06\x00\x00\x01" + bytes(4)
    flow = only([(1, ethernet(ip("2001:db8::1", "2001:db8::2", 0, hop_by_hop + fragment + TCP6_BODY)))])
    assert (flow["src_ip"], flow["dst_ip"], flow["fwd_bytes"]) == ("2001:db8::1", "2001:db8::2", 3)


BROKEN = {
    "not IP": ethernet(b"\x08\x06" * 20)[:12] + b"\x08\x06" + bytes(40),
    "cut off in a header": ethernet(TCP_PACKET)[:40],
    "header that breaks the format": ethernet(b"\x41" + TCP_PACKET[1:]),
    "later fragment": ethernet(ip(A, B, 17, bytes(30), fragment=5)),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_cannot_be_metered_is_counted(reason):
    flows, made = meter([(1, BROKEN[reason])])
    assert flows.height == 0
    assert made.counters[reason] == 1


def test_an_unknown_link_type_is_counted():
    _, made = meter([(1, bytes(60))], link_type=147)
    assert made.counters["unknown link type"] == 1


def test_other_transports_are_flows_without_ports():
    sctp = ip(A, B, 132, struct.pack(">HHII", 5, 6, 0, 0) + bytes(16))
    gre = ip(A, B, 47, bytes(8))
    flows, _ = meter([(1, ethernet(sctp)), (2, ethernet(gre))])
    assert flows.select("protocol", "src_port", "fwd_bytes").rows() == [("132", 5, 16), ("47", None, 0)]


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5), st.sampled_from([0, 1, 12, 113, 276, 228]))
def test_any_bytes_are_metered_or_counted(frames, link_type):
    _, made = meter([(1 + j, frame) for j, frame in enumerate(frames)], link_type=link_type)
    outcomes = list(made.counters.values())[:6]
    assert sum(outcomes) == len(frames)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4), st.integers(0, 70))
def test_damaged_headers_are_metered_or_counted(changes, cut):
    frame = bytearray(ethernet(ip("2001:db8::1", "2001:db8::2", 0, b"\x06\x00" + bytes(6) + TCP6_BODY)))
    for at, value in changes:
        frame[at % len(frame)] = value
    _, made = meter([(1, bytes(frame[: len(frame) - cut]))])
    assert sum(list(made.counters.values())[:6]) == 1


# --- one kernel: no way of reading changes a row ---------------------------------------------------------------------

packet = st.builds(
    lambda src, port, kind, flags, size: (
        tcp(*((A, port, B, 80) if src else (B, 80, A, port)), flags, bytes(size))
        if kind
        else udp(*((A, port, B, 53) if src else (B, 53, A, port)), bytes(size))
    ),
    st.booleans(),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST]),
    st.integers(0, 3),
)
traffic = st.lists(st.tuples(st.sampled_from([0, 0.001, 0.3, 2, 6, 70, 130]), packet), min_size=1, max_size=40)


def timed(gaps):
    now, frames = 1000.0, []
    for gap, frame in gaps:
        now += gap
        frames.append((now, frame))
    return frames


def cut(block, sizes):
    first = 0
    for size in [*sizes, len(block)]:
        part = slice(first, first + size)
        columns = (block.offsets, block.captured, block.lengths, block.times_us, block.link_types)
        yield PacketBlock(block.data, *(column[part] for column in columns))
        first += size


@given(traffic, st.lists(st.integers(0, 9), max_size=8), st.sampled_from(sorted(DIALECTS)), st.integers(1, 5))
def test_no_cut_of_the_stream_changes_a_row(gaps, sizes, dialect, max_flows):
    options = {"dialect": dialect, "max_flows": max_flows, "snapshot_s": 50}
    frames = timed(gaps)
    whole, _ = meter(frames, **options)
    [block] = iter_capture(io.BytesIO(pcap(frames)))
    parts = FlowMeter(**options)
    tables = [parts.add(part) for part in cut(block, sizes)]
    assert_frame_equal(pl.concat([*tables, parts.finish()]), whole, check_exact=True)


@given(traffic)
def test_a_clock_that_ticks_changes_no_row(gaps):
    """A live meter gets the time between packets; rows may come earlier, and are the same."""
    frames = timed(gaps)
    whole, _ = meter(frames)
    [block] = iter_capture(io.BytesIO(pcap(frames)))
    live = FlowMeter(max_flows=100)
    tables = []
    for part in cut(block, [1] * len(block)):
        if len(part):
            tables += [live.tick(int(part.times_us[0])), live.add(part)]
    assert_frame_equal(pl.concat([*tables, live.finish()]), whole, check_exact=True)


@given(traffic)
def test_every_packet_is_in_one_flow(gaps):
    frames = timed(gaps)
    flows, made = meter(frames, close_linger_s=0)
    n = int((flows["fwd_packets"] + flows["bwd_packets"]).sum())
    assert n + made.counters["after the end of its flow"] == len(frames) == made.counters["metered"]


# --- the dialect of the first CICIDS2017 -----------------------------------------------------------------------------


def test_the_original_ends_a_flow_at_the_first_fin_and_makes_flows_of_the_rest():
    flows, _ = meter(conversation(), dialect="cicids17")
    assert flows["fwd_packets"].to_list() == [4, 1, 1]  # the other FIN, and the last ACK
    assert flows["src_ip"].to_list() == [A, B, A]


def test_the_original_counts_flags_of_the_first_packet_under_other_names():
    flow = only(conversation()[:6], dialect="cicids17")
    assert (flow["psh_flag_count"], flow["syn_flag_count"], flow["ack_flag_count"]) == (1, 0, 0)
    assert (flow["subflow_fwd_packets"], flow["down_up_ratio"], flow["fwd_data_packets"]) == (3, 1, 1)


def test_the_original_counts_padding_and_the_first_packet_twice():
    flow = only([(1, tcp(*THERE, ACK, padded=True)), (2, tcp(*BACK, ACK, b"x" * 18))], dialect="cicids17")
    assert (flow["fwd_bytes"], flow["bwd_bytes"]) == (6, 18)
    assert flow["packet_length_mean"] == pytest.approx((6 + 6 + 18) / 3)
    assert flow["packet_size_mean"] == pytest.approx(15)
    assert flow["packet_length_variance"] == pytest.approx(48)


def test_the_original_has_rates_that_are_no_numbers():
    flow = only([(1, udp(A, 5, B, 6))], dialect="cicids17")
    assert math.isnan(flow["bytes_per_s"])
    assert math.isinf(flow["packets_per_s"])


@pytest.mark.data
def test_relations_of_the_original_hold_in_its_published_tables(data_root):
    """The mistakes that columns alone can show are there in the published rows."""
    frames = [pl.read_csv(p, infer_schema_length=0, encoding="utf8-lossy") for p in _published(data_root)]
    raw = pl.concat(frames).head(50_000)
    raw = raw.rename({name: name.strip() for name in raw.columns if "duplicated" not in name and ".1" not in name})
    names = get_schema("cicflow").canonical_names(raw.columns)
    rows = raw.rename(names).with_columns(pl.col(*names.values()).str.strip_chars().cast(pl.Float64, strict=False))
    n = pl.col("fwd_packets") + pl.col("bwd_packets")
    relations = {
        "subflows": pl.col("subflow_fwd_packets") == pl.col("fwd_packets"),
        "ratio": pl.col("down_up_ratio") == pl.col("bwd_packets") // pl.col("fwd_packets"),
        "flags of the first packet": pl.col("syn_flag_count") == pl.col("fwd_psh_flags"),
        "no bulks": pl.col("fwd_bulk_bytes_mean") == 0,
        "twice": (pl.col("packet_size_mean") - pl.col("packet_length_mean") * (n + 1) / n).abs()
        <= 0.01 * (1 + pl.col("packet_size_mean")),
        "one flag each": pl.max_horizontal(f"{flag}_flag_count" for flag in ("fin", "syn", "ack", "urg")) <= 1,
    }
    held = rows.select(value.mean().alias(name) for name, value in relations.items()).row(0, named=True)
    assert held == dict.fromkeys(relations, 1.0)


def _published(data_root):
    return sorted((data_root / "cicids17" / "MachineLearningCVE").glob("*.csv"))


@pytest.mark.parametrize(
    ("options", "match"),
    [({"dialect": "x"}, "dialect"), ({"flow_timeout_s": 0}, "positive"), ({"snapshot_s": -1}, "snapshot_s")],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        FlowMeter(**options)


def test_skipped_records_of_a_damaged_capture_are_reported():
    skipped = Counter()
    flows = pl.concat(meter_capture(io.BytesIO(pcap(conversation())[:-5]), FlowMeter(max_flows=10), skipped))
    assert flows.height == 1
    assert skipped == {"capture cut off in a record": 1}


def test_the_page_lists_what_each_dialect_repeats():
    page = (Path(__file__).parents[2] / "docs" / "meter.md").read_text()
    listed = page.split("<!-- dialects -->")[1].split("<!-- /dialects -->")[0]
    listed_mistakes = [line.removeprefix("- ") for line in listed.splitlines() if line.startswith("- ")]
    assert listed_mistakes == [mistake for mistakes in DIALECTS.values() for mistake in mistakes]


@pytest.mark.data
def test_relations_of_the_corrected_tables_hold(data_root):
    """What nine flows do not show of the dialect: integer subflows and bulks, and headers that wrap at 16 bits."""
    schema = get_schema("cicflow")
    paths = sorted((data_root / "cicids17-improved").glob("*.csv"))
    rows = pl.concat([schema.conform(pl.read_csv(path, infer_schema_length=None)) for path in paths])
    n = pl.col("fwd_packets") + pl.col("bwd_packets")
    bulks = pl.col([name for name in schema.features if "_bulk_" in name])
    held = rows.select(
        subflows=(pl.col("subflow_fwd_bytes") == pl.col("fwd_bytes") // n).all(),
        bulks=pl.all_horizontal(bulks == bulks.floor()).all(),
        headers=pl.col("fwd_header_bytes").is_between(-(2**15), 2**15 - 1).all(),
        wrapped=(pl.col("fwd_header_bytes") < 0).any(),
    )
    assert held.row(0) == (True, True, True, True)


@given(traffic, st.lists(st.integers(0, 9), max_size=6), st.sampled_from(sorted(DIALECTS)), st.integers(1, 5))
def test_a_meter_that_is_saved_and_restored_changes_no_row(gaps, sizes, dialect, max_flows):
    options = {"dialect": dialect, "max_flows": max_flows, "snapshot_s": 50}
    frames = timed(gaps)
    whole, made = meter(frames, **options)
    [block] = iter_capture(io.BytesIO(pcap(frames)))
    meters, tables, counts = FlowMeter(**options), [], Counter()
    for part in cut(block, sizes):
        tables.append(meters.add(part))
        counts.update(meters.take_counters())
        saved, meters = meters.save(), FlowMeter(**options)
        meters.restore(saved)
    assert_frame_equal(pl.concat([*tables, meters.finish()]), whole, check_exact=True)
    assert dict(counts + Counter()) == {name: n for name, n in made.counters.items() if n}


def test_the_state_of_another_meter_is_refused():
    saved = FlowMeter(max_flows=10).save()
    for other in (FlowMeter(max_flows=11), FlowMeter(max_flows=10, flow_timeout_s=5)):
        with pytest.raises(ValueError, match="another release or with other options"):
            other.restore(saved)
    with pytest.raises(ValueError, match="damaged"):
        FlowMeter(max_flows=10).restore(saved[:-9])
