"""Titles of columns, and their values as text: human units, and phrases for a sentence.

Columns of the registered schemas have titles here. A column of a user's own table has no description: its title is its
name in words, and its unit the ending of its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from deepidea.flows.column import Column
from deepidea.flows.conn import STATES
from deepidea.flows.identity import transport_name, transport_number

__all__ = [
    "TITLES",
    "is_count",
    "kind_of",
    "percent_text",
    "phrase_of",
    "title_of",
    "topic_of",
    "unit_of",
    "value_text",
]

_WAYS = {"fwd": "forward", "bwd": "reply"}
_STATISTICS = {"max": "Largest", "min": "Smallest", "mean": "Mean", "std": "Spread of"}
_TIME_STATISTICS = {**_STATISTICS, "max": "Longest", "min": "Shortest"}
_WINDOWS = {"2s": "in 2 s", "60s": "in 60 s", "100": "(last 100 flows)"}

_PLAIN: Mapping[str, str] = {
    "duration_us": "Flow duration",
    "duration_s": "Flow duration",
    "dst_port": "Destination port",
    "protocol": "Protocol",
    "service": "Service",
    "state": "Connection state",
    "tcp_flags": "TCP flags",
    "bytes_per_s": "Payload rate",
    "packets_per_s": "Packet rate",
    "packet_length_variance": "Variance of packet sizes",
    "down_up_ratio": "Reply packets for one forward",
    "packet_size_mean": "Mean packet size",
    "fwd_data_packets": "Forward packets with payload",
    "fwd_segment_size_min": "Smallest forward header",
    "icmp_code": "ICMP code",
    "icmp_type": "ICMP type",
    "tcp_flow_time_us": "Time of the whole TCP exchange",
    "duration": "Connection duration",
    "protocol_type": "Protocol",
    "flag": "Connection state",
    "src_bytes": "Bytes from source",
    "dst_bytes": "Bytes from destination",
    "land": "Same source and destination",
    "wrong_fragment": "Wrong fragments",
    "urgent": "Urgent packets",
    "hot": "Hot indicators",
    "num_failed_logins": "Failed logins",
    "logged_in": "Login succeeded",
    "num_compromised": "Compromised conditions",
    "root_shell": "Root shell obtained",
    "su_attempted": "Attempts at su root",
    "num_root": "Accesses as root",
    "num_file_creations": "Files created",
    "num_shells": "Shell prompts",
    "num_access_files": "Operations on access control files",
    "num_outbound_cmds": "Outbound commands of FTP",
    "is_host_login": "Login on the hot list",
    "is_guest_login": "Guest login",
    "count": "Connections to this host in 2 s",
    "srv_count": "Connections to this service in 2 s",
    "serror_rate": "SYN errors to this host in 2 s",
    "srv_serror_rate": "SYN errors to this service in 2 s",
    "rerror_rate": "Refusals by this host in 2 s",
    "srv_rerror_rate": "Refusals by this service in 2 s",
    "same_srv_rate": "To the same service in 2 s",
    "diff_srv_rate": "To other services in 2 s",
    "srv_diff_host_rate": "To other hosts in 2 s",
    "dst_host_count": "Connections to this host (last 100)",
    "dst_host_srv_count": "Connections to this host and service (last 100)",
    "dst_host_same_srv_rate": "To the same service (last 100)",
    "dst_host_diff_srv_rate": "To other services (last 100)",
    "dst_host_same_src_port_rate": "From the same source port (last 100)",
    "dst_host_srv_diff_host_rate": "From other hosts (last 100)",
    "dst_host_serror_rate": "SYN errors at this host (last 100)",
    "dst_host_srv_serror_rate": "SYN errors at this service (last 100)",
    "dst_host_rerror_rate": "Refusals by this host (last 100)",
    "dst_host_srv_rerror_rate": "Refusals by this service (last 100)",
}


def _way_titles(way: str, word: str) -> Iterator[tuple[str, str]]:
    """Yield the titles of columns of one direction."""
    yield f"{way}_packets", f"{word} packets"
    yield f"{way}_bytes", f"{word} bytes"
    for statistic, how in _STATISTICS.items():
        sizes = f"{word} packet sizes" if statistic == "std" else f"{word} packet"
        yield f"{way}_packet_length_{statistic}", f"{how} {sizes}"
        gaps = f"gaps between {word} packets" if statistic == "std" else f"gap between {word} packets"
        yield f"{way}_iat_{statistic}_us", f"{_TIME_STATISTICS[statistic]} {gaps}"
    yield f"{way}_iat_total_us", f"Time from first to last {word} packet"
    for flag in ("psh", "urg", "rst"):
        yield f"{way}_{flag}_flags", f"{word} packets with {flag.upper()}"
    yield f"{way}_header_bytes", f"{word} header bytes"
    yield f"{way}_packets_per_s", f"{word} packet rate"
    yield f"{way}_segment_size_mean", f"Mean {word} segment"
    yield f"{way}_bulk_bytes_mean", f"Mean {word} bulk"
    yield f"{way}_bulk_packets_mean", f"{word} packets of a bulk"
    yield f"{way}_bulk_rate_mean", f"Mean {word} bulk rate"
    yield f"subflow_{way}_packets", f"{word} packets of a subflow"
    yield f"subflow_{way}_bytes", f"{word} bytes of a subflow"
    yield f"{way}_init_window_bytes", f"First {word} TCP window"


def _flow_titles() -> Iterator[tuple[str, str]]:
    """Yield the titles of columns of both directions together."""
    for statistic, how in _STATISTICS.items():
        many = statistic == "std"
        time = _TIME_STATISTICS[statistic]
        yield f"packet_length_{statistic}", f"{how} {'packet sizes' if many else 'packet'}"
        yield f"iat_{statistic}_us", f"{time} {'gaps' if many else 'gap'} between packets"
        yield f"active_{statistic}_us", f"{time} active {'times' if many else 'time'}"
        yield f"idle_{statistic}_us", f"{time} idle {'times' if many else 'time'}"
    for flag in ("fin", "syn", "rst", "psh", "ack", "urg", "cwr", "ece"):
        yield f"{flag}_flag_count", f"Packets with {flag.upper()}"


def _context_titles() -> Iterator[tuple[str, str]]:
    """Yield the titles of columns of the hosts' context."""
    by_src = ("by the source", "Hosts contacted by the source", "Flows from the source", "the source")
    at_dst = ("at the destination", "Hosts contacting the destination", "Flows to the destination", "the destination")
    roles = {"src": by_src, "dst": at_dst}
    for role, (where, peers, flows, host) in roles.items():
        for window, when in _WINDOWS.items():
            yield f"{role}_dst_ports_{window}", f"Ports contacted {where} {when}"
            yield f"{role}_peers_{window}", f"{peers} {when}"
            yield f"{role}_flows_{window}", f"{flows} {when}"
            yield f"{role}_failed_share_{window}", f"Failed flows of {host} {when}"
        yield f"{role}_flows_per_s_100", f"Flow rate of {host} (last 100 flows)"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


TITLES: Mapping[str, str] = {
    name: _capital(title)
    for name, title in (
        *_PLAIN.items(),
        *(pair for way, word in _WAYS.items() for pair in _way_titles(way, word)),
        *_flow_titles(),
        *_context_titles(),
    )
}
"""Title of each feature of the registered schemas, by canonical name."""

_SPELT = {**_WAYS, "src": "source", "dst": "destination", "iat": "gap", "std": "spread", "num": "number of",
          "avg": "mean", "pkts": "packets", "pkt": "packet", "per": "per"}  # fmt: skip
_ENDINGS = (("_per_s", "1/s"), ("_us", "us"), ("_ms", "ms"), ("_s", "s"), ("bytes", "B"), ("_share", "share"))
_PLURAL = re.compile(r"\b(packets|flows|hosts|ports|connections|logins|fragments|indicators|commands|files)\b")
_COUNTED = re.compile(r"\b(attempts|accesses|prompts|operations|conditions)\b|" + _PLURAL.pattern, re.I)


@lru_cache(maxsize=4096)
def title_of(column: Column) -> str:
    """Return the title of a feature.

    Examples
    --------
    >>> title_of(Column("bwd_packets", "number", description="packets backward"))
    'Reply packets'
    >>> title_of(Column("dst_load", "number"))
    'Destination load'
    """
    if column.description and column.name in TITLES:
        return TITLES[column.name]
    words = column.name.split("_")
    if unit_of(column) in ("us", "ms", "s") and len(words) > 1:
        words = words[:-1]
    return _capital(" ".join(_SPELT.get(word, word) for word in words if word))


@lru_cache(maxsize=4096)
def unit_of(column: Column) -> str:
    """Return the unit of a feature: ``us``, ``ms``, ``s``, ``B``, ``B2``, ``B/s``, ``1/s``, ``share``, or empty."""
    if column.unit:
        return column.unit
    if column.description:  # of a registered schema, whose columns have units but for shares
        return "share" if re.search(r"_rate$|_failed_share_", column.name) else ""
    return next((unit for ending, unit in _ENDINGS if column.name.endswith(ending)), "")


@lru_cache(maxsize=4096)
def kind_of(column: Column) -> str:
    """Return the kind of a feature: sizes, times, rates, flags, counts, words, ...

    Examples
    --------
    >>> gap, flag = Column("iat_max_us", "number", "us"), Column("syn_flag_count", "number")
    >>> kind_of(gap), kind_of(flag), kind_of(Column("service", "category"))
    ('times', 'TCP flags and windows', 'words')
    """
    unit = unit_of(column)
    if _RECENT.search(title_of(column)):
        return "recent traffic of the hosts"
    if (column.kind != "category" and "flag" in column.name.split("_")) or column.name.endswith(
        ("_flags", "_init_window_bytes")
    ):
        return "TCP flags and windows"
    by_unit = {"us": "times", "ms": "times", "s": "times", "B": "sizes", "B2": "sizes", "B/s": "rates", "1/s": "rates"}
    plain = "words" if column.kind == "category" else "counts" if is_count(column) else "others"
    return by_unit.get(unit, plain)


_RECENT = re.compile(r" in (2|60) s$|\(last 100")


@lru_cache(maxsize=4096)
def is_count(column: Column) -> bool:
    """Whether values are counts: packets, flows, hosts."""
    return not unit_of(column) and column.kind == "number" and bool(_COUNTED.search(title_of(column)))


_STATISTIC_WORDS = {"max", "min", "mean", "std", "variance"}
_SAME = {"size": "length", "segment": "packet"}
_WINDOW_WORDS = {"2s", "60s", "100", "subflow", "srv"}


def topic_of(column: Column) -> frozenset[str]:
    """Return the topic of a feature: statistics, windows and parts of one quantity have the same.

    Examples
    --------
    >>> spread, largest = Column("bwd_packet_length_std", "number"), Column("packet_length_max", "number")
    >>> topic_of(spread) == topic_of(largest), topic_of(spread) == topic_of(Column("bwd_packets", "number"))
    (True, False)
    """
    words = set(column.name.split("_")) - _WINDOW_WORDS
    if words & _STATISTIC_WORDS:
        words -= _STATISTIC_WORDS | {"fwd", "bwd"}
    if "host" in words:  # of KDD: dst_host_count
        words -= {"dst", "host"}
    return frozenset(_SAME.get(word, word) for word in words)


def value_text(value: float | str | None, column: Column) -> str:
    """Return a value as text in a human unit.

    Examples
    --------
    >>> duration, size = Column("duration_us", "number", "us"), Column("fwd_bytes", "number", "B")
    >>> value_text(119e6, duration), value_text(350.0, duration), value_text(1_234_567, size)
    ('119 s', '350 µs', '1.23 MB')
    >>> value_text(443.0, Column("dst_port", "port")), value_text("6", Column("protocol", "category"))
    ('443', '6 (tcp)')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    if isinstance(value, str):
        return _word_text(value, column)
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if column.kind == "port":
        return f"{value:.0f}"
    if column.kind == "flag":
        return "yes" if value else "no"
    if column.name.endswith("_init_window_bytes") and value < 0:
        return "none"
    return _number_text(float(value), unit_of(column))


def _word_text(word: str, column: Column) -> str:
    if column.name == "protocol" and transport_name(word) != word and transport_number(word) is not None:
        return f"{word} ({transport_name(word)})" if word.isdigit() else word
    if column.name in ("state", "flag") and word in STATES:
        return f"{word} ({STATES[word].partition(';')[0]})"
    return word


def _number_text(value: float, unit: str) -> str:
    sign, size = ("-" if value < 0 else ""), abs(value)
    if unit in _SECONDS:
        return sign + _time_text(size * _SECONDS[unit])
    if unit in ("B", "B/s"):
        return sign + _scaled(size, ("B", "kB", "MB", "GB", "TB", "PB")) + unit[1:]
    if unit == "1/s":
        return f"{sign}{_plain(size)}/s"
    if unit == "share":
        return sign + percent_text(size)
    return sign + _plain(size) + (" B²" if unit == "B2" else f" {unit}" if unit else "")


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _time_text(seconds: float) -> str:
    if seconds == 0:
        return "0 s"
    # each unit up to where three figures would round to the next one
    for unit, length, below in (("µs", 1e-6, 0.9995e-3), ("ms", 1e-3, 0.9995), ("s", 1, 600), ("min", 60, 7200)):
        if seconds < below:
            return f"{_three(seconds / length)} {unit}"
    unit, length = ("h", 3600) if seconds < 172_800 else ("days", 86_400)
    return f"{_three(seconds / length)} {unit}"


def _scaled(size: float, units: tuple[str, ...]) -> str:
    place = 0
    while size >= 999.5 and place < len(units) - 1:
        size, place = size / 1000, place + 1
    return f"{_three(size)} {units[place]}"


def _three(value: float) -> str:
    """Return three significant figures of a scaled number, without exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: float) -> str:
    if value == round(value) and value < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def percent_text(share: float) -> str:
    """Return a share in percent, with more digits where it is small or nearly all.

    Examples
    --------
    >>> percent_text(0.3333), percent_text(0.00123), percent_text(1.0), percent_text(0.9996)
    ('33 %', '0.12 %', '100 %', '99.96 %')
    """
    percent = 100 * share
    if percent > 100:
        return f"{_plain(percent)} %"
    if percent in (0, 100) or 10 <= percent <= 99:
        return f"{percent:.0f} %"
    return f"{percent:.4g} %" if percent > 99 else f"{percent:.2g} %"


def phrase_of(value: float | str | None, column: Column) -> str:
    """Return title and value as a phrase of a sentence.

    Examples
    --------
    >>> replies = Column("bwd_packets", "number", description="packets backward")
    >>> [phrase_of(n, replies) for n in (0.0, 1.0, 1200.0)]
    ['no reply packets', '1 reply packet', '1,200 reply packets']
    >>> phrase_of(119e6, Column("duration_us", "number", "us", description="from the first packet to the last"))
    'flow duration 119 s'
    """
    title = title_of(column)
    lowered = title if title[1:2].isupper() else title[:1].lower() + title[1:]
    text = value_text(value, column)
    if column.kind == "flag":
        return lowered if value else f"{lowered}: no"
    if unit_of(column) == "share" and text != "missing":
        return f"{text} {lowered}"
    if value == 0 and unit_of(column) == "B" and lowered.endswith(("bytes", "source", "destination")):
        return f"no {lowered}"
    if not is_count(column) or text == "missing":
        return f"{lowered} {text}"
    if value == 1:
        return f"1 {_COUNTED.sub(lambda found: _singular(found[0]), lowered, count=1)}"
    return f"no {lowered}" if value == 0 else f"{text} {lowered}"


def _singular(plural: str) -> str:
    return plural[:-2] if plural.lower() == "accesses" else plural[:-1]
