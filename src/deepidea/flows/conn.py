"""What Zeek's conn.log, Suricata's flow events and NetFlow can all tell of a conversation.

Bytes are counted at the IP level, headers included: Zeek's ``orig_ip_bytes``, not its ``orig_bytes``. An alias
stands here only where the tool's unit is the column's.

``state`` and ``service`` are in Zeek's words, because Zeek tells most and its tables are what people train on: what
other tools say is put into them (`conn_state`, `service_name`), so that a detector trained on one sensor knows the
words of another.
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
    "S0": "an attempt that nobody answered",
    "S1": "established, not closed",
    "SF": "established and closed by both; of UDP: asked and answered",
    "REJ": "an attempt that was refused",
    "S2": "established, closed by the opener alone",
    "S3": "established, closed by the answerer alone",
    "RSTO": "established, reset by the opener",
    "RSTR": "established, reset by the answerer",
    "RSTOS0": "an attempt that the opener reset itself",
    "RSTRH": "an answer that was reset, to an attempt that was not seen",
    "SH": "an attempt that the opener closed, never answered",
    "SHR": "an answer that was closed, to an attempt that was not seen; of UDP: only the answer was seen",
    "OTH": "no beginning was seen; every flow of ICMP",
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
"""Other names of what ``service`` calls by the name on the right. A name that stands nowhere here stays as it is."""

_NO_SERVICE = ("", "-", "failed", "unknown", "(empty)")
_CARRIERS = ("ssl", "gssapi", "ntlm")  # named beside what they carry: "gssapi,smb", "ssl,quic"


def conn_state(
    protocol: pl.Expr, fwd_flags: pl.Expr, bwd_flags: pl.Expr, fwd_packets: pl.Expr, bwd_packets: pl.Expr
) -> pl.Expr:
    """Return the ``state`` of flows whose tool tells flags and packets, but no state.

    Parameters
    ----------
    protocol
        Lower-case names: ``tcp``, ``udp``; every other is ``OTH``.
    fwd_flags, bwd_flags
        TCP flags that the opener and the answerer ever sent, as numbers; null counts as none.
    fwd_packets, bwd_packets
        What each of them sent; they tell how a flow of UDP went.

    Notes
    -----
    Flags have no order: a conversation that both sides closed counts as closed, whatever reset came as well.

    Examples
    --------
    >>> table = pl.DataFrame({"p": ["tcp", "tcp", "udp"], "f": [2, 0x1B, 0], "b": [0x14, 0x1B, 0], "n": [1, 9, 1]})
    >>> table.select(s=conn_state(*(pl.col(name) for name in "pfbn"), pl.col("n") - 1))["s"].to_list()
    ['REJ', 'SF', 'S0']
    """
    fwd, bwd = fwd_flags.fill_null(0), bwd_flags.fill_null(0)
    udp = (
        pl.when((fwd_packets > 0) & (bwd_packets > 0))
        .then(pl.lit("SF"))
        .when(fwd_packets > 0)
        .then(pl.lit("S0"))
        .when(bwd_packets > 0)
        .then(pl.lit("SHR"))
        .otherwise(pl.lit("OTH"))
    )
    return (
        pl.when(protocol == "tcp").then(_tcp_state(fwd, bwd)).when(protocol == "udp").then(udp).otherwise(pl.lit("OTH"))
    )


def _tcp_state(fwd: pl.Expr, bwd: pl.Expr) -> pl.Expr:
    asked, answered = _has(fwd, _SYN), _has(bwd, _SYN)
    cases: tuple[tuple[pl.Expr, str], ...] = (
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
    return pl.coalesce(*(pl.when(case).then(pl.lit(state)) for case, state in cases), pl.lit("S1"))


def _has(flags: pl.Expr, flag: int) -> pl.Expr:
    return (flags & flag) != 0


def service_name(told: str | None) -> str | None:
    """Return the one name of an application protocol, whatever tool told it; None where none was seen.

    Of several at once, as Zeek tells them, what is carried counts and not what carries it; what Zeek found not to fit
    (``-ssl``) does not count.

    Examples
    --------
    >>> service_name("TLS"), service_name("gssapi,smb"), service_name("failed"), service_name("dns")
    ('ssl', 'smb', None, 'dns')
    """
    names = [name for name in (told or "").strip().lower().split(",") if name and not name.startswith("-")]
    known = sorted({SERVICES.get(name, name) for name in names} - set(_NO_SERVICE))
    carried = [name for name in known if name not in _CARRIERS]
    return next(iter(carried or known), None)


def service_names(told: pl.Series) -> pl.Series:
    """Return what `service_name` says of each, String (n_flows,); names are few, so each is looked at once."""
    names = {name: service_name(name) for name in told.unique().drop_nulls().to_list()}
    return told.replace_strict(names, default=None, return_dtype=pl.String) if names else told.cast(pl.String)
