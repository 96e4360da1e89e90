"""Sources of packets: files, folders, pipes that grow, interfaces; what was told of is gone on behind."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from deepidea.detection.sources.packets import PacketSource
from deepidea.errors import DataError, SourceError
from deepidea.packets.live import LiveCapture
from tests.detection.servers import eventually
from tests.detection.sources.remembering import memory_of
from tests.packets.forging import A, B, conversation, pcap, udp

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # of the kernel's include/uapi/linux/if_tun.h
LIMIT_S = 60.0


def many(n, start=1000.0):
    return [(start + j, udp(A, 2000 + j, B, 53, b"q")) for j in range(n)]


def read(source, after=None):
    return list(source.batches(after, threading.Event()))


def flows_of(batches):
    return pl.concat([batch.flows for batch in batches])


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "lab.pcap"
    path.write_bytes(pcap([*conversation(), *many(300)]))
    return path


def test_going_on_from_any_position_gives_the_rest(capture, monkeypatch):
    monkeypatch.setattr("deepidea.detection.sources.packets.BATCH_FLOWS", 7)
    whole = read(PacketSource(str(capture)))
    flows = flows_of(whole)
    assert flows.height == 301
    for place, batch in enumerate(whole):
        source = PacketSource(str(capture))
        source.restore(memory_of(whole[: place + 1]))
        rest = flows_of(read(source, batch.position))
        assert_frame_equal(rest, flows_of(whole[place + 1 :]) if whole[place + 1 :] else flows.clear())


def test_a_folder_is_read_in_order_of_names(tmp_path):
    for name, start in (("b.pcap", 2000.0), ("a.pcap", 1000.0)):
        (tmp_path / name).write_bytes(pcap(many(3, start)))
    (tmp_path / "notes.txt").write_text("no capture")
    flows = flows_of(read(PacketSource(str(tmp_path))))
    assert flows["start"].is_sorted()
    assert flows.height == 6


def test_an_empty_folder_is_reported(tmp_path):
    with pytest.raises(DataError, match="holds none"):
        read(PacketSource(str(tmp_path)))


def test_a_growing_capture_is_followed_until_stopped(tmp_path):
    path, stop, told = tmp_path / "grows.pcap", threading.Event(), []
    data = pcap(many(400))
    path.write_bytes(data[:5000])
    reader = threading.Thread(target=lambda: told.extend(PacketSource(str(path), follow=True).batches(None, stop)))
    reader.start()
    with path.open("ab") as file:
        file.write(data[5000:])
    eventually(lambda: sum(batch.flows.height for batch in told) >= 200)
    stop.set()
    reader.join(LIMIT_S)
    assert not reader.is_alive()
    assert sum(batch.flows.height for batch in told) >= 200  # those older than the time-out; the rest is under way


def test_what_is_skipped_is_reported_once(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(pcap([(1, bytes(60)), *many(3)])[:-3])
    told = [batch.skipped for batch in read(PacketSource(str(path)))]
    assert {reason: n for skipped in told for reason, n in skipped.items()} == {
        "not IP": 1,
        "capture cut off in a record": 1,
    }


def test_an_interface_that_is_not_there_is_reported():
    with pytest.raises(SourceError, match="cannot capture from none0"):
        read(PacketSource("interface:none0"))


def test_bad_options_are_reported_before_anything_is_opened():
    with pytest.raises(ValueError, match="dialect"):
        PacketSource("none.pcap", dialect="other")


@pytest.fixture
def loopback():
    try:
        LiveCapture("lo").close()
    except SourceError as error:
        pytest.skip(str(error))
    return "interface:lo"


@pytest.fixture
def sender():
    """Send datagrams of this machine to itself: a function of payloads, and the port that they go to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        here.bind(("127.0.0.1", 0))
        there.connect(here.getsockname())

        def send(payloads):
            for payload in payloads:
                there.send(payload)

        yield send, here.getsockname()[1]


def test_a_live_interface_gives_what_a_file_of_the_same_packets_gives(loopback, sender, tmp_path):
    send, port = sender
    payloads = [b"ten bytes!"] * 49 + [b"hello"]
    batches = PacketSource(loopback).batches(None, stop := threading.Event())
    next(batches)  # the ring is open
    send(payloads)
    stop.set()  # before any was read: what waits in the ring is told of all the same
    live = flows_of(batches).filter(pl.col("dst_port") == port)
    path = tmp_path / "same.pcap"
    path.write_bytes(pcap((1000 + 0.001 * j, udp(A, 2000, B, port, payload)) for j, payload in enumerate(payloads)))
    counts = [name for name in live.columns if "packet_length" in name or name in ("fwd_packets", "fwd_bytes")]
    assert_frame_equal(live.select(counts), flows_of(read(PacketSource(str(path)))).select(counts))
    assert live["fwd_packets"].to_list() == [50]  # each once, though loopback hands every packet over twice
    assert live["ended_by"].to_list() == ["stopped"]


def test_a_ring_is_drained_of_what_came_before_and_of_no_more(loopback, sender):
    send, _ = sender
    with LiveCapture("lo", block_bytes=1 << 16, n_blocks=8) as capture:
        assert not [block for block in capture.drain() if len(block) > 100]  # ends where nothing comes
        send([bytes(1000)] * 200)  # some blocks that are full, and one that is not
        drained = capture.drain()
        n = len(next(drained))
        send([bytes(1000)] * 2000)  # more than the ring holds: it is not waited for
        blocks = list(drained)
    assert len(blocks) < 8
    assert n + sum(map(len, blocks)) >= 200


def test_a_quiet_pipe_returns_flows_whose_time_has_come(monkeypatch):
    reading, writing = os.pipe()
    stop, told = threading.Event(), []
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": stdin})())
        monkeypatch.setattr("deepidea.detection.sources.packets._SLACK_US", 0)
        source = PacketSource("-", flow_timeout_s=0.3)
        reader = threading.Thread(target=lambda: told.extend(source.batches(None, stop)))
        reader.start()
        pipe.write(pcap([(1000, udp(A, 5000, B, 53, b"q"))]))
        eventually(lambda: any(batch.flows.height for batch in told))
        stop.set()
        reader.join(LIMIT_S)
    assert not reader.is_alive()
    assert flows_of(told)["ended_by"].to_list() == ["timeout"]


@pytest.fixture
def tap():
    """A network interface of our own, which the test may take away."""
    name = f"didea{os.getpid() % 100_000}"
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no interface can be made here: {made.stderr.strip()}")
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], capture_output=True)


def test_an_interface_that_goes_away_is_reported_after_what_it_carried(tap):
    batches = PacketSource(f"interface:{tap}").batches(None, threading.Event())
    next(batches)  # the ring is open
    with open("/dev/net/tun", "r+b", buffering=0) as line:
        fcntl.ioctl(line, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _IFF_TAP | _IFF_NO_PI))
        line.write(udp(A, 2000, B, 53, b"q"))
    time.sleep(0.2)  # until the block is handed over; a link that is gone hands over nothing
    subprocess.run(["ip", "link", "del", tap], check=True)
    told = []
    with pytest.raises(SourceError, match=f"{tap}: Network is down"):
        told.extend(batch.flows for batch in batches)
    assert pl.concat(told).filter(pl.col("dst_port") == 53).height == 1


def test_without_the_right_to_capture_it_is_explained_how_to_get_it():
    code = "import os; from deepidea.packets.live import LiveCapture; os.setuid(65534); LiveCapture('lo')"
    if os.getuid():
        pytest.skip("only the superuser can give up rights")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "cannot capture from lo: Operation not permitted" in told
    assert "cap_net_raw" in told
