"""What Zeek's conn.log, Suricata's flow events and NetFlow can all tell of a conversation.

Bytes are counted at the IP level, headers included: Zeek's ``orig_ip_bytes``, not its ``orig_bytes``. An alias
stands here only where the tool's unit is the column's.
"""

from __future__ import annotations

from deepidea.flows.column import Column

CONN_COLUMNS: tuple[Column, ...] = (
    Column("uid", "identity", "", ("flow_id", "community_id"), "the tool's own name of the flow"),
    Column("timestamp", "identity", "", ("ts", "start", "flow.start"), "when the flow began"),
    Column("src_ip", "identity", "", ("id.orig_h", "ipv4_src_addr", "source_ip"), "who opened it"),
    Column("src_port", "identity", "", ("id.orig_p", "l4_src_port", "source_port"), "its port there"),
    Column("dst_ip", "identity", "", ("id.resp_h", "dest_ip", "ipv4_dst_addr", "destination_ip"), "who answered"),
    Column("dst_port", "port", "", ("id.resp_p", "dest_port", "l4_dst_port", "destination_port"), "the port asked for"),
    Column("duration_s", "number", "s", ("duration",), "from the first packet to the last"),
    Column("protocol", "category", "", ("proto",), "transport: tcp, udp, icmp"),
    Column("service", "category", "", ("app_proto",), "application protocol seen", optional=True),
    Column(
        "fwd_packets", "number", "", ("orig_pkts", "pkts_toserver", "flow.pkts_toserver", "in_pkts"), "packets sent"
    ),
    Column(
        "bwd_packets",
        "number",
        "",
        ("resp_pkts", "pkts_toclient", "flow.pkts_toclient", "out_pkts"),
        "packets answered",
    ),
    Column(
        "fwd_bytes", "number", "B", ("orig_ip_bytes", "bytes_toserver", "flow.bytes_toserver", "in_bytes"), "bytes sent"
    ),
    Column(
        "bwd_bytes",
        "number",
        "B",
        ("resp_ip_bytes", "bytes_toclient", "flow.bytes_toclient", "out_bytes"),
        "bytes answered",
    ),
    Column("state", "category", "", ("conn_state", "flow.state"), "how the conversation ended", optional=True),
    Column("tcp_flags", "category", "", (), "TCP flags seen, in hexadecimal", optional=True),
)
