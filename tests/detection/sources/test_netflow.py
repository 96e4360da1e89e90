"""What an exporter sends over UDP, held against an independent count of the same packets."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dpkt
import polars as pl
import pytest

from deepidea.detection.sources.netflow import NetFlowSource
from deepidea.detection.sources.registry import open_source
from deepidea.detection.sources.source import FlowBatch
from deepidea.errors import DataError, SourceError
from deepidea.flows.sensors.biflow import BIFLOW_COLUMNS
from tests.flows import datagrams as forged

SOFTFLOWD = Path("/usr/sbin/softflowd")
needs_softflowd = pytest.mark.skipif(not SOFTFLOWD.exists(), reason="softflowd absent: apt install softflowd")
CAPTURES = ("ftp", "synscan", "icmp-tunnel", "emotet", "ipv6-dos-6")
LIMIT_S = 60.0


class Listening:
    """A source that runs in a thread; `until` waits for what it has heard."""

    def __init__(self, source: NetFlowSource) -> None:
        self.source = source
        self.batches: list[FlowBatch] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for batch in self.source.batches(None, self._stop):
            self.batches.append(batch)

    def start(self) -> None:
        self._thread.start()
        self.until(lambda: bool(self.batches))

    def until(self, done) -> None:
        limit = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < limit, "the source did not hear what was waited for"
            assert self._thread.is_alive()
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)

    def flows(self) -> pl.DataFrame:
        return pl.concat([batch.flows for batch in self.batches])

    def told(self, kind: str) -> Counter[str]:
        return sum((Counter(getattr(batch, kind)) for batch in self.batches), Counter())


@contextmanager
def listening(address: str = "netflow://127.0.0.1:0", **options) -> Iterator[Listening]:
    heard = Listening(NetFlowSource(address, **options))
    try:
        heard.start()
        yield heard
    finally:
        heard.stop()


def send(heard: Listening, *datagrams: bytes, host: str = "127.0.0.1") -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, (host, heard.source.port))


# --- a real exporter -------------------------------------------------------------------------------------------------


def ip_packets(capture: Path) -> Iterator[tuple[dpkt.ip.IP | dpkt.ip6.IP6, int]]:
    """Yield packets with their length as softflowd counts it: what pads a short frame counts too."""
    with capture.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        for _, data in reader:
            frame = dpkt.ethernet.Ethernet(data) if reader.datalink() == dpkt.pcap.DLT_EN10MB else None
            packet = frame.data if frame is not None else dpkt.ip.IP(data)
            if isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6):
                yield packet, len(data) - (14 if frame is not None else 0)


Way = tuple[str, int | None, str, int | None, int]


def counted(capture: Path) -> dict[Way, tuple[int, int]]:
    """Return packets and bytes of each direction; of ICMP, of each type and code."""
    ways: dict[Way, list[int]] = defaultdict(lambda: [0, 0])
    for packet, length in ip_packets(capture):
        inner, number = packet.data, packet.p
        family = socket.AF_INET if isinstance(packet, dpkt.ip.IP) else socket.AF_INET6
        src, dst = (socket.inet_ntop(family, address) for address in (packet.src, packet.dst))
        ports: tuple[int | None, int | None] = (None, None)
        if number in (6, 17) and not isinstance(inner, bytes):
            ports = inner.sport, inner.dport
        elif number in (1, 58) and not isinstance(inner, bytes):
            ports = inner.type, inner.code
        way = ways[src, ports[0], dst, ports[1], number]
        way[0] += 1
        way[1] += length
    return {way: (packets, octets) for way, (packets, octets) in ways.items()}


NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58}


def ways_of(flows: pl.DataFrame) -> dict[Way, tuple[int, int]]:
    """Return packets and bytes of each direction of the flows; answers of ICMP are of a type of their own."""
    ways: dict[Way, tuple[int, int]] = {}
    for f in flows.iter_rows(named=True):
        number = NUMBERS.get(f["protocol"]) or int(f["protocol"])
        ends = f["src_ip"], f["src_port"], f["dst_ip"], f["dst_port"]
        back = (ends[2], ends[3], ends[0], ends[1])
        if number in (1, 58):
            back = (ends[2], {8: 0, 128: 129, 135: 136}.get(f["src_port"]), ends[0], 0)
        for way, packets, octets in ((ends, "fwd_packets", "fwd_bytes"), (back, "bwd_packets", "bwd_bytes")):
            if f[packets]:
                assert (*way, number) not in ways
                ways[(*way, number)] = (f[packets], f[octets])
    return ways


def exported(capture: Path, folder: Path, *options: str) -> Listening:
    """Let softflowd replay a capture to a source, and return what the source made of it."""
    with listening() as heard:
        control = ["-c", str(folder / "control"), "-p", str(folder / "pid")]
        target = ["-n", f"127.0.0.1:{heard.source.port}", "-r", str(capture), "-d", "-a", "-m", "100000"]
        subprocess.run([SOFTFLOWD, *control, *target, *options], check=True, capture_output=True, timeout=LIMIT_S)
    return heard  # leaving the block drained what the kernel held


def write_capture(path: Path, *, v6: bool = True) -> None:
    """Forge a web request, a name look-up, an unanswered scan and a ping, and over IPv6 a look-up."""
    rows = [
        ("10.0.0.1", "10.0.0.2", dpkt.tcp.TCP(sport=40_000, dport=443, flags=2), 0.0),
        ("10.0.0.2", "10.0.0.1", dpkt.tcp.TCP(sport=443, dport=40_000, flags=0x12), 0.01),
        ("10.0.0.1", "10.0.0.2", dpkt.tcp.TCP(sport=40_000, dport=443, flags=0x18, data=b"GET /"), 0.02),
        ("10.0.0.2", "10.0.0.1", dpkt.tcp.TCP(sport=443, dport=40_000, flags=0x19, data=b"x" * 900), 0.2),
        ("10.0.0.1", "10.0.0.53", dpkt.udp.UDP(sport=50_000, dport=53, data=b"q" * 30, ulen=38), 0.3),
        ("10.0.0.53", "10.0.0.1", dpkt.udp.UDP(sport=53, dport=50_000, data=b"a" * 99, ulen=107), 0.35),
        ("10.0.0.1", "10.0.0.9", dpkt.icmp.ICMP(type=8, data=b"\0\1\0\1" + b"p" * 20), 0.4),
        ("10.0.0.9", "10.0.0.1", dpkt.icmp.ICMP(type=0, data=b"\0\1\0\1" + b"p" * 20), 0.41),
        *(("10.0.0.7", "10.0.0.2", dpkt.tcp.TCP(sport=41_000, dport=p, flags=2), 1 + p / 100) for p in range(1, 40)),
    ]
    rows += [("fd00::1", "fd00::2", dpkt.udp.UDP(sport=5000, dport=53, data=b"q", ulen=9), 2.0)] * v6
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for src, dst, inner, at_s in rows:
            writer.writepkt(bytes(_frame(src, dst, inner)), 1_700_000_000 + at_s)


def _frame(src: str, dst: str, inner: dpkt.Packet) -> dpkt.ethernet.Ethernet:
    number = {dpkt.tcp.TCP: 6, dpkt.udp.UDP: 17, dpkt.icmp.ICMP: 1}[type(inner)]
    ends = {"src": forged.packed(src), "dst": forged.packed(dst)}
    if ":" in src:
        packet = dpkt.ip6.IP6(nxt=number, plen=len(inner), hlim=64, **ends)
        packet.data, packet.extension_hdrs, packet.all_extension_headers = inner, {}, []
        return dpkt.ethernet.Ethernet(data=packet, type=0x86DD)
    return dpkt.ethernet.Ethernet(data=dpkt.ip.IP(p=number, len=20 + len(inner), data=inner, **ends), type=0x0800)


VERSIONS = [
    ("-v", "5"),
    ("-v", "9"),
    ("-v", "10"),
    ("-v", "9", "-A", "milli"),
    ("-v", "10", "-A", "nano"),
    ("-v", "10", "-b"),
]


@needs_softflowd
@pytest.mark.parametrize("options", VERSIONS, ids=" ".join)
def test_a_forged_capture_comes_back_flow_by_flow(tmp_path: Path, options: tuple[str, ...]) -> None:
    capture = tmp_path / "forged.pcap"
    write_capture(capture, v6=options[1] != "5")
    heard = exported(capture, tmp_path, *options)
    flows = heard.flows()
    assert ways_of(flows) == counted(capture)
    assert flows.height == 42 + (options[1] != "5")
    web = flows.row(by_predicate=pl.col("dst_port") == 443, named=True)
    assert (web["src_ip"], web["bwd_packets"], web["tcp_flags"], web["duration_s"]) == ("10.0.0.1", 2, "1b", 0.2)
    assert web["start"].timestamp() == pytest.approx(1_700_000_000, abs=1.5)
    assert not heard.told("skipped") + heard.told("dropped")


@needs_softflowd
@pytest.mark.data
@pytest.mark.parametrize("version", ["5", "9", "10"])
@pytest.mark.parametrize("name", CAPTURES)
def test_real_captures_come_back_flow_by_flow(data_root: Path, tmp_path: Path, name: str, version: str) -> None:
    capture = data_root / "pcap" / f"{name}.pcap"
    wanted = {way: counts for way, counts in counted(capture).items() if version != "5" or ":" not in way[0]}
    heard = exported(capture, tmp_path, "-v", version)
    assert ways_of(heard.flows()) == wanted
    assert not heard.told("skipped") + heard.told("dropped")


# --- the source itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["netflow://127.0.0.1:0", "netflow://[::1]:0", "netflow://:0"])
def test_it_listens_on_every_kind_of_address(address: str) -> None:
    hosts = ["127.0.0.1"] * ("[" not in address) + ["::1"] * ("127" not in address)
    with listening(address) as heard:
        for host in hosts:
            send(
                heard, forged.v5([{}, {"src": "10.0.0.2", "dst": "10.0.0.1", "sport": 443, "dport": 40_000}]), host=host
            )
        heard.until(lambda: heard.flows().height == len(hosts))
    assert dict(heard.flows().schema) == BIFLOW_COLUMNS


def test_it_reports_lost_and_skipped_once_and_hands_over_what_waits() -> None:
    with listening() as heard:
        send(heard, forged.v5([{}]), forged.v5([{"dport": 80}], number=9), b"\0\x08")
        heard.until(lambda: heard.told("skipped"))
        assert heard.flows().height == 0
    assert heard.told("dropped") == {"records lost in transit": 8}
    assert heard.told("skipped") == {"datagram of an unknown version": 1}
    assert heard.flows()["dst_port"].to_list() == [443, 80]


def test_what_waits_for_a_silent_exporter_goes_out() -> None:
    with listening(timeout_s=0.1) as heard:
        send(heard, forged.v5([{}]))
        heard.until(lambda: heard.flows().height == 1)


def test_strangers_are_not_listened_to_where_exporters_are_named() -> None:
    with listening(exporters=["192.0.2.1"]) as heard:
        send(heard, forged.v5([{}]))
        heard.until(lambda: heard.told("skipped"))
    assert heard.flows().height == 0


def test_what_the_kernel_drops_is_reported() -> None:
    source = NetFlowSource("netflow://127.0.0.1:0", receive_buffer_bytes=1)
    stop = threading.Event()
    batches = source.batches(None, stop)
    next(batches)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(300):  # nobody reads meanwhile
            sender.sendto(forged.v5([{}] * 20), ("127.0.0.1", source.port))
        next(batches)
        sender.sendto(forged.v5([{}]), ("127.0.0.1", source.port))  # brings the count
    dropped = next(batches).dropped
    stop.set()
    assert list(batches)
    assert 200 < dropped["datagrams dropped by the kernel"] <= 300


@pytest.mark.parametrize("address", ["netflow://host.example:1", "netflow://1.2.3.4:99999", "udp://1.2.3.4", "netflow"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(DataError, match="a NetFlow address must be"):
        NetFlowSource(address)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("netflow://:2055", ["netflow://", "ipfix://:2055", "IPFIX://", "netflow:///"]),
        ("netflow://[::1]:9995", ["netflow://[0:0::1]:9995", "ipfix://[::1]:9995/"]),
        ("netflow://127.0.0.1:2055", ["ipfix://127.0.0.1"]),
    ],
)
def test_every_spelling_of_an_address_has_one_name(name: str, spellings: list[str]) -> None:
    assert {open_source(spelling).name for spelling in spellings} == {name}


def test_an_address_that_is_taken_is_refused() -> None:
    with listening() as heard, pytest.raises(SourceError, match=r"cannot listen at netflow://"):
        next(NetFlowSource(f"netflow://127.0.0.1:{heard.source.port}").batches(None, threading.Event()))
