"""One attack of a given strength, without any other traffic: to find the weakest strength that a detector finds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

import polars as pl

from deepidea.flows.schema import get_schema
from deepidea.flows.sensors.projection import as_schema
from deepidea.packets.meter import meter_capture
from deepidea.packets.writing import PcapWriter
from deepidea.simulation.attacks import ATTACKS
from deepidea.simulation.episodes import episode_of
from deepidea.simulation.ground_truth import read_labels
from deepidea.simulation.lab import build_lab
from deepidea.simulation.simulate import CaptureWriter, draw_start, packets_in_order

__all__ = ["SimulatedAttack", "simulate_attack"]

_LONGEST_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class SimulatedAttack:
    """Packets and ground truth of one attack.

    Attributes
    ----------
    kind, class_name
        Label and class.
    strength
        Each parameter, given or usual.
    capture
        A pcap file.
    labels
        Ground truth, as `deepidea.simulation.ground_truth.read_labels` returns it.
    networks
        Of the site that is attacked, or attacks.
    """

    kind: str
    class_name: str
    strength: dict[str, float]
    capture: bytes
    labels: pl.DataFrame
    networks: tuple[str, ...]

    def flows(self, schema: str = "cicflow") -> pl.DataFrame:
        """Return its metered flows in a schema: ``cicflow``, ``conn``, or one of these with ``+context``."""
        metered = pl.concat(list(meter_capture(io.BytesIO(self.capture))))
        return as_schema(metered, get_schema(schema))

    def write(self, path: str | Path) -> None:
        """Write the capture."""
        Path(path).write_bytes(self.capture)


def simulate_attack(
    kind: str,
    strength: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    site_hosts: int = 20,
    start: datetime | None = None,
    **more: float,
) -> SimulatedAttack:
    """Return one attack of a given strength.

    Parameters
    ----------
    kind
        One of `deepidea.simulation.attacks.ATTACKS`.
    strength
        Parameters of the kind, such as ``ports`` and ``seconds`` of ``port_scan``; docs/simulate.md lists them. They
        may be given by name, too. The others are in the middle of their range.
    seed
        Of the site, of sources and targets, and of everything else that is drawn. The same arguments give the same
        packets.
    site_hosts
        Hosts of the site.
    start
        Time of the attack; by default drawn.

    Raises
    ------
    ValueError
        The kind or a parameter is unknown, or the strength is not positive.

    Examples
    --------
    >>> scan = simulate_attack("port_scan", ports=25, seconds=10, targets=1, sources=1)
    >>> scan.flows("conn").height
    25
    >>> simulate_attack("beacon", beats=12, period_s=60, jitter=0).labels.height
    12
    """
    if kind not in ATTACKS:
        raise ValueError(f"unknown attack {kind!r}; choose from {', '.join(ATTACKS)}")
    attack = ATTACKS[kind]
    chosen = {**attack.usual(), **_checked(kind, {**(strength or {}), **more})}
    start = start or draw_start(seed)
    lab = build_lab(seed=seed, hosts=site_hosts, duration_s=_LONGEST_S, hour=start.hour + start.minute / 60)
    episode = episode_of(lab, f"{kind}-1", attack, 0.0, chosen, Random(f"{kind} {seed}"))
    capture, labels = io.BytesIO(), io.StringIO()
    writer = CaptureWriter(PcapWriter(capture), labels, start, {episode.label: episode})
    writer.write(packets_in_order([attack.run(episode)], _LONGEST_S))
    truth = read_labels(io.BytesIO(labels.getvalue().encode()))
    return SimulatedAttack(kind, attack.class_name, chosen, capture.getvalue(), truth, lab.plan.networks)


def _checked(kind: str, strength: dict[str, float]) -> dict[str, float]:
    known = ATTACKS[kind].strength
    for name, value in strength.items():
        if name not in known:
            raise ValueError(f"{kind} has no parameter {name!r}; choose from {', '.join(known)}")
        if value < 0 or (value == 0 and known[name][0] > 0):
            raise ValueError(f"{name} of {kind} must be above 0, got {value}")
    return strength
