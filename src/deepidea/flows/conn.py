"""Columns that Zeek's conn.log, Suricata's flow events and NetFlow have in common.

Bytes are counted at the IP level, headers included: Zeek's ``orig_ip_bytes``, not its ``orig_bytes``. An alias is
listed only where the tool's unit is the column's.

``state`` and ``service`` are in Zeek's words, which are the most detailed and those of most training tables. Values of
other tools are converted (`conn_state`, `service_name`), so that a detector trained on one sensor can score another's.
"""

from __future__ import annotations

import polars as pl

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

STATES: dict[str, str] = {
    "S0": "attempt without answer",
    "S1": "established, not closed",
    "SF": "established and closed by both; of UDP: request and answer",
    "REJ": "attempt refused",
    "S2": "established, closed by the opener alone",
    "S3": "established, closed by the responder alone",
    "RSTO": "established, reset by the opener",
    "RSTR": "established, reset by the responder",
    "RSTOS0": "attempt reset by the opener, without answer",
    "RSTRH": "SYN-ACK and reset of the responder; the SYN was not seen",
    "SH": "attempt closed by the opener, without answer",
    "SHR": "SYN-ACK and FIN of the responder; the SYN was not seen; of UDP: only the answer was seen",
    "OTH": "no SYN was seen; every flow of ICMP",
}
"""How a conversation ended: the words of ``state``, as Zeek's ``conn_state`` has them
(https://docs.zeek.org/en/current/scripts/base/protocols/conn/main.zeek.html)."""

_FIN, _SYN, _RST = 0x01, 0x02, 0x04

SERVICES: dict[str, str] = {
    "tls": "ssl",
    "dcerpc": "dce_rpc",
    "krb5": "krb",
    "krb_tcp": "krb",
    "krb_udp": "krb",
    "ldap_tcp": "ldap",
    "ldap_udp": "ldap",
    "pgsql": "postgresql",
    "jabber": "xmpp",
    "ike": "ipsec",
    "ikev2": "ipsec",
    "http2": "http",
    "bittorrent-dht": "bittorrent",
}
"""Other names of a service, and the one that ``service`` has. Names that are not here stay as they are."""

_NO_SERVICE = ("", "-", "failed", "unknown", "(empty)")
_CARRIERS = ("ssl", "gssapi", "ntlm")  # listed beside the protocol they carry: "gssapi,smb", "ssl,quic"


def conn_state(
    protocol: pl.Expr, fwd_flags: pl.Expr, bwd_flags: pl.Expr, fwd_packets: pl.Expr, bwd_packets: pl.Expr
) -> pl.Expr:
    """Return the ``state`` of flows whose tool has flags and packets, but no state.

    Parameters
    ----------
    protocol
        Lower-case names: ``tcp``, ``udp``; every other is ``OTH``.
    fwd_flags, bwd_flags
        All TCP flags that the opener and the responder sent, as numbers; null counts as none.
    fwd_packets, bwd_packets
        Packets that each of them sent; they decide the state of a UDP flow.

    Notes
    -----
    Flags have no order: a conversation that both sides closed counts as closed, even with a reset.

    Examples
    --------
    >>> table = pl.DataFrame({"p": ["tcp", "tcp", "udp"], "f": [2, 0x1B, 0], "b": [0x14, 0x1B, 0], "n": [1, 9, 1]})
    >>> table.select(s=conn_state(*(pl.col(name) for name in "pfbn"), pl.col("n") - 1))["s"].to_list()
    ['REJ', 'SF', 'S0']
    """
    fwd, bwd = fwd_flags.fill_null(0), bwd_flags.fill_null(0)
    udp = _first_case(
        "OTH", ((fwd_packets > 0) & (bwd_packets > 0), "SF"), (fwd_packets > 0, "S0"), (bwd_packets > 0, "SHR")
    )
    return (
        pl.when(protocol == "tcp").then(_tcp_state(fwd, bwd)).when(protocol == "udp").then(udp).otherwise(pl.lit("OTH"))
    )


def _first_case(default: str, *cases: tuple[pl.Expr, str]) -> pl.Expr:
    return pl.coalesce(*(pl.when(case).then(pl.lit(state)) for case, state in cases), pl.lit(default))


def _tcp_state(fwd: pl.Expr, bwd: pl.Expr) -> pl.Expr:
    # Zeek's cases in order of precedence: no SYN of the opener, then no SYN of the responder, then an established
    # connection by who closed or reset it
    asked, answered = _has(fwd, _SYN), _has(bwd, _SYN)
    return _first_case(
        "S1",
        (~asked & answered & _has(bwd, _RST), "RSTRH"),
        (~asked & answered & _has(bwd, _FIN), "SHR"),
        (~asked, "OTH"),
        (~answered & _has(bwd, _RST), "REJ"),
        (~answered & _has(fwd, _RST), "RSTOS0"),
        (~answered & _has(fwd, _FIN), "SH"),
        (~answered, "S0"),
        (_has(fwd, _FIN) & _has(bwd, _FIN), "SF"),
        (_has(fwd, _RST), "RSTO"),
        (_has(bwd, _RST), "RSTR"),
        (_has(fwd, _FIN), "S2"),
        (_has(bwd, _FIN), "S3"),
    )


def _has(flags: pl.Expr, flag: int) -> pl.Expr:
    return (flags & flag) != 0


def service_name(name: str | None) -> str | None:
    """Return the one name of an application protocol in any tool's spelling; None where none was seen.

    Of several, as Zeek lists them, the carried protocol counts, not the carrier; one that Zeek rejected (``-ssl``) does
    not count.

    Examples
    --------
    >>> service_name("TLS"), service_name("gssapi,smb"), service_name("failed"), service_name("dns")
    ('ssl', 'smb', None, 'dns')
    """
    # Zeek lists several, separated by commas; a leading minus is an analyser that gave up.
    names = [part for part in (name or "").strip().lower().split(",") if part and not part.startswith("-")]
    # Sorted, for a set has no order: one flow must have one service in every run.
    known = sorted({SERVICES.get(part, part) for part in names} - set(_NO_SERVICE))
    carried = [part for part in known if part not in _CARRIERS]
    return next(iter(carried or known), None)


def service_names(raw: pl.Series) -> pl.Series:
    """Return the `service_name` of each flow, String (n_flows,), converting each distinct name once."""
    names = {name: service_name(name) for name in raw.unique().drop_nulls().to_list()}
    return raw.replace_strict(names, default=None, return_dtype=pl.String) if names else raw.cast(pl.String)
