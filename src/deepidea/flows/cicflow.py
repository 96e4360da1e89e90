"""The CICFlowMeter features under one set of names.

The aliases are the headers of CICIDS2017 (``Total Fwd Packets``), of CSE-CIC-IDS2018 (``Tot Fwd Pkts``), of the
corrected CICIDS2017 (``Total Fwd Packet``) and of the Python cicflowmeter (``tot_fwd_pkts``); headers that differ in
case or separators alone need no alias. Names do not reveal units: some versions of the Python cicflowmeter write
seconds where the others write microseconds. Convert such a table to the units below before scoring it.
"""

from __future__ import annotations

from deepidea.flows.column import Column


def _spread(name: str, unit: str, spellings: tuple[str, ...], order: str, description: str) -> tuple[Column, ...]:
    """Return one column per statistic; ``{}`` in a name or spelling stands for the statistic."""
    return tuple(
        Column(name.format(word), "number", unit, tuple(s.format(word) for s in spellings), f"{description}, {word}")
        for word in order.split()
    )


def _both(name: str, unit: str, spellings: tuple[str, ...], description: str) -> tuple[Column, ...]:
    """Return the forward and the backward column; ``{}`` stands for ``fwd`` or ``bwd``."""
    return tuple(
        Column(name.format(way), "number", unit, tuple(s.format(way) for s in spellings), description.format(way=word))
        for way, word in (("fwd", "forward"), ("bwd", "backward"))
    )


def _flag_count(flag: str, *aliases: str) -> Column:
    spellings = (f"{flag} Flag Cnt", *aliases)
    return Column(f"{flag.lower()}_flag_count", "number", "", spellings, f"packets with {flag}")


IDENTITIES: tuple[Column, ...] = (
    Column("id", "identity", "", (), "row number of the corrected files"),
    Column("flow_id", "identity", "", (), "addresses, ports and protocol in one string"),
    Column("src_ip", "identity", "", ("Source IP",), "who opened the flow"),
    Column("src_port", "identity", "", ("Source Port",), "its port there"),
    Column("dst_ip", "identity", "", ("Destination IP",), "who answered"),
    Column("src_mac", "identity", "", (), "hardware address of the opener"),
    Column("dst_mac", "identity", "", (), "hardware address of the answerer"),
    Column("dst_port", "port", "", ("Destination Port",), "the port asked for"),
    Column("protocol", "category", "", (), "IP protocol number: 6, 17, ...", optional=True),
    Column("timestamp", "identity", "", (), "when the flow began"),
    Column("attempted_category", "identity", "", (), "why the corrected files call an attack attempted"),
)

VOLUME: tuple[Column, ...] = (
    Column("duration_us", "number", "us", ("Flow Duration",), "from the first packet to the last"),
    Column("fwd_packets", "number", "", ("Total Fwd Packets", "Total Fwd Packet", "Tot Fwd Pkts"), "packets forward"),
    Column(
        "bwd_packets", "number", "", ("Total Backward Packets", "Total Bwd Packets", "Tot Bwd Pkts"), "packets backward"
    ),
    Column(
        "fwd_bytes",
        "number",
        "B",
        ("Total Length of Fwd Packets", "Total Length of Fwd Packet", "TotLen Fwd Pkts"),
        "payload bytes forward",
    ),
    Column(
        "bwd_bytes",
        "number",
        "B",
        ("Total Length of Bwd Packets", "Total Length of Bwd Packet", "TotLen Bwd Pkts"),
        "payload bytes backward",
    ),
    *_spread("fwd_packet_length_{}", "B", ("Fwd Pkt Len {}",), "max min mean std", "payload of forward packets"),
    *_spread("bwd_packet_length_{}", "B", ("Bwd Pkt Len {}",), "max min mean std", "payload of backward packets"),
    Column("bytes_per_s", "number", "B/s", ("Flow Bytes/s", "Flow Byts/s"), "payload bytes a second"),
    Column("packets_per_s", "number", "1/s", ("Flow Packets/s", "Flow Pkts/s"), "packets a second"),
)

TIMES: tuple[Column, ...] = (
    *_spread("iat_{}_us", "us", ("Flow IAT {}",), "mean std max min", "time between packets"),
    Column("fwd_iat_total_us", "number", "us", ("Fwd IAT Total", "Fwd IAT Tot"), "from first to last forward packet"),
    *_spread("fwd_iat_{}_us", "us", ("Fwd IAT {}",), "mean std max min", "time between forward packets"),
    Column("bwd_iat_total_us", "number", "us", ("Bwd IAT Total", "Bwd IAT Tot"), "from first to last backward packet"),
    *_spread("bwd_iat_{}_us", "us", ("Bwd IAT {}",), "mean std max min", "time between backward packets"),
)

FLAGS_AND_HEADERS: tuple[Column, ...] = (
    *_both("{}_psh_flags", "", (), "{way} packets with PSH"),
    *_both("{}_urg_flags", "", (), "{way} packets with URG"),
    Column("fwd_rst_flags", "number", "", (), "forward packets with RST", optional=True),
    Column("bwd_rst_flags", "number", "", (), "backward packets with RST", optional=True),
    *_both("{}_header_bytes", "B", ("{} Header Length", "{} Header Len"), "header bytes {way}"),
    *_both("{}_packets_per_s", "1/s", ("{} Packets/s", "{} Pkts/s"), "packets {way} a second"),
    Column("packet_length_min", "number", "B", ("Min Packet Length", "Pkt Len Min"), "payload of a packet, min"),
    Column("packet_length_max", "number", "B", ("Max Packet Length", "Pkt Len Max"), "payload of a packet, max"),
    *_spread("packet_length_{}", "B", ("Pkt Len {}",), "mean std", "payload of a packet"),
    Column("packet_length_variance", "number", "B2", ("Pkt Len Var",), "payload of a packet, variance"),
    _flag_count("FIN"),
    _flag_count("SYN"),
    _flag_count("RST"),
    _flag_count("PSH"),
    _flag_count("ACK"),
    _flag_count("URG"),
    _flag_count("CWR", "CWE Flag Count"),
    _flag_count("ECE"),
)

SHAPES: tuple[Column, ...] = (
    Column("down_up_ratio", "number", "", (), "packets backward for one forward"),
    Column("packet_size_mean", "number", "B", ("Average Packet Size", "Pkt Size Avg"), "payload bytes of a packet"),
    *_both(
        "{}_segment_size_mean", "B", ("Avg {} Segment Size", "{} Segment Size Avg", "{} Seg Size Avg"), "segment {way}"
    ),
    *_both(
        "{}_bulk_bytes_mean", "B", ("{} Avg Bytes/Bulk", "{} Bytes/Bulk Avg", "{} Byts/b Avg"), "bytes of a bulk {way}"
    ),
    *_both(
        "{}_bulk_packets_mean",
        "",
        ("{} Avg Packets/Bulk", "{} Packet/Bulk Avg", "{} Pkts/b Avg"),
        "packets of a bulk {way}",
    ),
    *_both(
        "{}_bulk_rate_mean", "B/s", ("{} Avg Bulk Rate", "{} Bulk Rate Avg", "{} Blk Rate Avg"), "rate of a bulk {way}"
    ),
    *_both("subflow_{}_packets", "", ("Subflow {} Pkts",), "packets {way} of a subflow"),
    *_both("subflow_{}_bytes", "B", ("Subflow {} Byts",), "bytes {way} of a subflow"),
    Column(
        "fwd_init_window_bytes",
        "number",
        "B",
        ("Init_Win_bytes_forward", "FWD Init Win Bytes", "Init Fwd Win Byts"),
        "first TCP window forward; -1 where there was none",
    ),
    Column(
        "bwd_init_window_bytes",
        "number",
        "B",
        ("Init_Win_bytes_backward", "Bwd Init Win Bytes", "Init Bwd Win Byts"),
        "first TCP window backward; -1 where there was none",
    ),
    Column("fwd_data_packets", "number", "", ("act_data_pkt_fwd", "Fwd Act Data Pkts"), "forward packets with payload"),
    Column("fwd_segment_size_min", "number", "B", ("min_seg_size_forward", "Fwd Seg Size Min"), "least header forward"),
    *_spread("active_{}_us", "us", ("Active {}",), "mean std max min", "time active before idle"),
    *_spread("idle_{}_us", "us", ("Idle {}",), "mean std max min", "time idle before active"),
    Column("icmp_code", "category", "", (), "ICMP code, -1 where not ICMP", optional=True),
    Column("icmp_type", "category", "", (), "ICMP type, -1 where not ICMP", optional=True),
    Column(
        "tcp_flow_time_us", "number", "us", ("Total TCP Flow Time",), "length of the whole TCP exchange", optional=True
    ),
)

CICFLOW_COLUMNS: tuple[Column, ...] = (*IDENTITIES, *VOLUME, *TIMES, *FLAGS_AND_HEADERS, *SHAPES)
"""Columns in the order in which CICFlowMeter writes them."""
