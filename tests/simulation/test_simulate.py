"""A simulated capture holds what its labels say, packet for packet, and gives no class away by a header."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import dpkt
import polars as pl
import pytest

from deepidea.cli.simulate import AttackKind
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.frames import ACK, RST, SYN
from deepidea.simulation.ground_truth import read_labels
from deepidea.simulation.simulate import LABEL_COLUMNS, Simulated, choose_attacks, simulate_capture
from tests.conftest import Command
from tests.packets.wire import Seen, take_apart


@dataclass(frozen=True)
class Read:
    """A capture and its labels as they were read."""

    packets: list[Seen | None]
    labels: pl.DataFrame
    frames: int

    @cached_property
    def rows(self) -> dict[tuple[object, ...], list[dict[str, object]]]:
        """Rows of labels by both ends."""
        found = defaultdict(list)
        for row in self.labels.iter_rows(named=True):
            ends = [(ipaddress.ip_address(row[f"{end}_ip"]).packed, row[f"{end}_port"] or 0) for end in ("src", "dst")]
            found[(*sorted(ends), row["protocol"])].append(row)
        return found


def simulate(folder: Path, **options: object) -> Read:
    """Simulate and read back; every checksum is verified on the way."""
    done = simulate_capture(folder / "lab.pcap", folder / "lab.csv", **options)  # type: ignore[arg-type]
    with open(folder / "lab.pcap", "rb") as file:
        packets = [take_apart(round(at * 1e6), frame) for at, frame in dpkt.pcap.Reader(file)]
    labels = read_back(folder, done)
    assert done.packets == len(packets)
    assert done.without_label == packets.count(None)
    return Read(packets, labels, done.packets)


def labels_of(folder: Path, **options: object) -> pl.DataFrame:
    """Simulate and read back the labels alone."""
    return read_back(folder, simulate_capture(folder / "lab.pcap", folder / "lab.csv", **options))  # type: ignore[arg-type]


def read_back(folder: Path, done: Simulated) -> pl.DataFrame:
    labels = pl.read_csv(folder / "lab.csv", try_parse_dates=True)
    assert tuple(labels.columns) == LABEL_COLUMNS
    assert done.conversations == Counter(labels["label"].to_list())
    return labels


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return simulate(tmp_path_factory.mktemp("lab"), seed=7, minutes=1.5, hosts=14)


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_any_process(tmp_path):
    files = [tmp_path / name for name in ("a.pcap", "a.csv", "b.pcap", "b.csv")]
    simulate_capture(*files[:2], seed=3, minutes=0.3, hosts=9, vlan=12)
    code = f"""
from deepidea.simulation.simulate import simulate_capture
simulate_capture({str(files[2])!r}, {str(files[3])!r}, seed=3, minutes=0.3, hosts=9, vlan=12)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert files[0].read_bytes() == files[2].read_bytes()
    assert files[1].read_bytes() == files[3].read_bytes()


def test_another_seed_gives_another_capture(tmp_path):
    labels = [labels_of(tmp_path, seed=seed, minutes=0.2, hosts=9) for seed in (1, 2)]
    site = [set(table["src_ip"].filter(table["dst_port"] == 993)) for table in labels]
    assert site[0]
    assert not site[0] & site[1]


def test_packets_are_in_order_of_time_and_within_it(lab):
    times = [seen.time_us for seen in lab.packets if seen]
    assert all(one <= other for one, other in pairwise(times))
    assert 85e6 < times[-1] - times[0] <= 90e6


def test_frames_are_tagged_where_asked_for_and_cut(tmp_path):
    simulate_capture(tmp_path / "lab.pcap", tmp_path / "lab.csv", minutes=0.1, hosts=8, vlan=12, snaplen=96)
    with open(tmp_path / "lab.pcap", "rb") as file:
        frames = [frame for _, frame in dpkt.pcap.Reader(file)]
    assert {frame[12:16] for frame in frames} == {bytes.fromhex("8100000c")}
    assert max(map(len, frames)) == 96


def test_an_attack_more_changes_no_benign_conversation(tmp_path):
    few, all_of_them = (
        labels_of(tmp_path, seed=5, minutes=0.4, hosts=10, attacks=attacks) for attacks in ([], tuple(ATTACKS))
    )
    same = ["src_ip", "dst_ip", "dst_port", "protocol", "packets", "start", "end"]
    benign = all_of_them.filter(pl.col("label") == "benign")
    assert set(few["label"]) == {"benign"}
    assert few.select(same).sort(same).equals(benign.select(same).sort(same))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes must be above 0"),
        ({"hosts": 3}, "hosts must be in 8..200"),
        ({"attacks": ["worm"]}, "unknown attack 'worm'"),
        ({"vlan": 5000}, "vlan must be"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_capture(tmp_path / "lab.pcap", tmp_path / "lab.csv", **options)
    assert not list(tmp_path.iterdir())


# --- packets against labels ------------------------------------------------------------------------------------------


def test_every_packet_belongs_to_a_row_and_rows_count_them_all(lab):
    rows, counted = lab.rows, Counter()
    for seen in filter(None, lab.packets):
        of_ends = rows[seen.ends]
        counted[seen.ends] += 1
        assert any(abs_us(row["start"]) - 1 <= seen.time_us <= abs_us(row["end"]) + 1 for row in of_ends)
    assert counted == {ends: sum(row["packets"] for row in of_ends) for ends, of_ends in rows.items()}


def abs_us(time) -> int:
    return round(time.timestamp() * 1e6)


def test_every_class_is_there_and_most_packets_are_benign(lab):
    assert set(lab.labels["label"]) == {"benign", *ATTACKS}
    assert set(lab.labels["class"]) == {"benign", *(attack.class_name for attack in ATTACKS.values())}
    packets = lab.labels.group_by("label").agg(pl.col("packets").sum())
    assert packets.filter(pl.col("label") == "benign")["packets"].item() > 0.3 * lab.frames


def test_traffic_is_of_many_kinds(lab):
    benign = lab.labels.filter(pl.col("label") == "benign")
    assert {22, 25, 53, 80, 123, 443, 993} <= set(benign["dst_port"])
    assert {1, 6, 17} <= set(benign["protocol"])
    assert 0.0 < benign["src_ip"].str.contains(":").mean() < 0.4


def test_tcp_is_set_up_before_it_carries_anything(lab):
    flags_of = defaultdict(list)
    for seen in filter(None, lab.packets):
        if seen.protocol == 6 and lab.rows[seen.ends][0]["label"] != "stealth_scan":
            flags_of[seen.ends].append((seen.transport.flags, len(seen.payload)))
    for packets in flags_of.values():
        flags = [flags for flags, _ in packets]
        assert flags[0] == SYN
        if any(size for _, size in packets):
            first = next(at for at, (_, size) in enumerate(packets) if size)
            assert list(dict.fromkeys(flags[:first])) == [SYN, SYN | ACK, ACK]
        elif RST in flags or RST | ACK in flags:
            assert len(packets) < 6


def test_what_tcp_carries_goes_on_where_it_stood_but_for_losses(lab):
    ends: dict[tuple[object, ...], int] = {}
    carried = again = ahead = 0
    for seen in filter(None, lab.packets):
        if seen.protocol != 6:
            continue
        way, tcp = (seen.src, seen.src_port, seen.dst, seen.dst_port), seen.transport
        if tcp.flags & SYN:
            ends[way] = (tcp.seq + 1) % 2**32
        elif seen.payload:
            beyond = (tcp.seq - ends[way] + 2**31) % 2**32 - 2**31
            carried, again, ahead = carried + 1, again + (beyond < 0), ahead + (beyond > 0)
            ends[way] = (tcp.seq + len(seen.payload)) % 2**32 if beyond >= 0 else ends[way]
    assert carried > 5000
    assert 0 < again < 0.02 * carried
    assert 0 < ahead < 0.02 * carried


def test_attackers_do_what_everybody_does(lab):
    benign = lab.labels.filter(pl.col("label") == "benign")
    known = {*benign["src_ip"], *benign["dst_ip"]}
    strangers = ["benign", "syn_flood", "udp_flood", "icmp_flood", "background_scan"]
    attackers = lab.labels.filter(~pl.col("label").is_in(strangers))["src_ip"].unique().to_list()
    assert sum(address in known for address in attackers) > 0.5 * len(attackers)


# --- no giveaways ----------------------------------------------------------------------------------------------------


def one_rule(values: pl.Series, attack: pl.Series) -> float:
    """Return the balanced accuracy of the best rule that knows one value."""
    table = pl.DataFrame({"value": values, "attack": attack}).drop_nulls()
    shares = table.group_by("value").agg(
        attack=pl.col("attack").sum() / table["attack"].sum(),
        benign=(~pl.col("attack")).sum() / (~table["attack"]).sum(),
    )
    return shares.select(pl.max_horizontal("attack", "benign").sum()).item() / 2


def headers(lab: Read) -> pl.DataFrame:
    rows = lab.rows
    found = []
    for seen in filter(None, lab.packets):
        tcp = seen.transport if seen.protocol == 6 else None
        syn = tcp if tcp is not None and tcp.flags & SYN else None
        mss = dict(dpkt.tcp.parse_opts(syn.opts)).get(dpkt.tcp.TCP_OPT_MSS) if syn else None
        found.append((rows[seen.ends][0]["class"], seen.ttl, syn and syn.win, mss, syn and len(syn.opts)))
    return pl.DataFrame(found, schema=["class", "ttl", "window", "mss", "options"], orient="row")


def test_no_header_tells_an_attack(lab):
    table = headers(lab)
    attack = table["class"] != "benign"
    for name in ("ttl", "window", "mss", "options"):
        assert one_rule(table[name], attack) < 0.8, name
        for class_name in table["class"].unique():
            if class_name != "benign":
                of_two = table.filter(pl.col("class").is_in(["benign", class_name]))
                assert one_rule(of_two[name], of_two["class"] != "benign") < 0.92, (name, class_name)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_both_files_and_says_what_they_prove(command: Command, tmp_path):
    files = tmp_path / "lab.pcap", tmp_path / "lab.csv"
    options = ("--seed", 7, "--minutes", 0.2, "--hosts", 8, "--attacks", "port_scan", "--attacks", "beacon")
    ran = command("simulate", "-o", files[0], "--labels", files[1], *options)
    assert ran.code == 0
    assert "nothing about a real network" in ran.err.replace("\n", " ")
    assert set(read_labels(files[1])["label"]) == {"benign", "port_scan", "beacon"}


def test_the_command_refuses_a_folder_before_it_works(command: Command, tmp_path):
    ran = command("simulate", "-o", tmp_path / "lab.pcap", "--labels", tmp_path)
    assert ran.code == 5
    assert not list(tmp_path.iterdir())


def test_the_command_knows_every_attack():
    assert {kind.value for kind in AttackKind} == {"all", "none", *ATTACKS}
    assert choose_attacks(["none"]) == ()
    assert choose_attacks(["all"]) == tuple(ATTACKS)
