"""Simulated flows, for demos and tests without a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["simulate_flows"]

_STATES = ("SF", "S0", "REJ", "RSTO")
_LEAST_BYTES = {"tcp": 40, "udp": 28}  # headers of a packet that carries nothing
_MOST_BYTES = 1500


@dataclass(frozen=True, slots=True)
class _Traffic:
    """One kind of traffic. Sizes are log-normal: the median, and the spread of its logarithm."""

    label: str
    share: float
    protocol: str
    service: str | None
    port: int  # 0: any
    packets: tuple[float, float]
    answers: float  # packets that come back for each one sent
    fwd_size: float  # bytes of a packet, at the median
    bwd_size: float
    duration_s: tuple[float, float]
    states: tuple[float, float, float, float]  # chances of _STATES


# Every attack has benign traffic that resembles it: scans and floods have failed connections, password
# guessing has short logins, beacons have small requests, and exfiltration has backups.
_TRAFFIC = (
    _Traffic("benign", 0.36, "tcp", "http", 443, (12, 0.9), 1.2, 140, 900, (1.5, 1.5), (0.96, 0.01, 0.01, 0.02)),
    _Traffic("benign", 0.26, "udp", "dns", 53, (1.2, 0.3), 1.0, 70, 160, (0.03, 0.8), (0.98, 0.02, 0.0, 0.0)),
    _Traffic("benign", 0.04, "tcp", "ssh", 22, (25, 1.2), 1.0, 110, 150, (9, 1.6), (0.94, 0.02, 0.02, 0.02)),
    _Traffic("benign", 0.06, "tcp", "smtp", 25, (14, 0.7), 0.9, 420, 90, (1.2, 0.9), (0.93, 0.02, 0.04, 0.01)),
    _Traffic("benign", 0.06, "tcp", "ssl", 443, (300, 1.0), 2.0, 80, 1300, (60, 1.0), (0.97, 0.0, 0.0, 0.03)),
    _Traffic("benign", 0.02, "tcp", "ssl", 443, (900, 1.1), 0.5, 1250, 60, (70, 1.1), (0.98, 0.0, 0.0, 0.02)),
    _Traffic("benign", 0.05, "tcp", None, 0, (1.6, 0.5), 0.6, 52, 42, (0.8, 1.4), (0.10, 0.50, 0.35, 0.05)),
    _Traffic("port_scan", 0.05, "tcp", None, 0, (1.2, 0.3), 0.8, 46, 42, (0.05, 1.4), (0.05, 0.35, 0.55, 0.05)),
    _Traffic("syn_flood", 0.06, "tcp", None, 443, (1.8, 0.7), 0.5, 44, 44, (1.2, 1.5), (0.02, 0.85, 0.05, 0.08)),
    _Traffic("brute_force", 0.02, "tcp", "ssh", 22, (14, 0.3), 1.1, 115, 140, (2.5, 0.5), (0.80, 0.02, 0.03, 0.15)),
    _Traffic("beacon", 0.015, "tcp", "http", 443, (7, 0.25), 0.9, 130, 260, (0.6, 0.5), (0.97, 0.02, 0.0, 0.01)),
    _Traffic("exfiltration", 0.005, "tcp", "ssl", 443, (700, 0.9), 0.45, 1300, 55, (140, 0.9), (0.97, 0.0, 0.0, 0.03)),
)


def simulate_flows(*, n_flows: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """Return simulated labelled flows in the columns of the `conn` schema.

    No figure measured on them is valid for a real network: the differences between the classes are the ones defined
    here.

    Parameters
    ----------
    n_flows
        Number of flows.
    seed
        The same seed gives the same flows.

    Returns
    -------
    polars.DataFrame
        ``dst_port``, ``duration_s``, ``protocol``, ``service``, ``fwd_packets``, ``bwd_packets``, ``fwd_bytes``,
        ``bwd_bytes``, ``state`` (Zeek's names), ``label``: benign (web, DNS, SSH, mail, video, backups and
        connections that fail) in about 85 of 100 flows, and port_scan, syn_flood, brute_force, beacon, exfiltration.

    Examples
    --------
    >>> flows = simulate_flows(n_flows=1000)
    >>> flows.height, flows["label"].n_unique()
    (1000, 6)
    """
    if n_flows < 0:
        raise ValueError(f"n_flows must be at least 0, got {n_flows}")
    rng = np.random.default_rng(seed)
    shares = np.array([traffic.share for traffic in _TRAFFIC])
    kind = rng.choice(len(_TRAFFIC), n_flows, p=shares / shares.sum())  # n_flows
    state = _states(kind, rng)
    fwd_packets = 1 + np.floor(_lognormal(_of(kind, "packets"), rng))
    answered = np.round(fwd_packets * _of(kind, "answers") * rng.lognormal(0, 0.25, n_flows))
    bwd_packets = np.select([state == "S0", state == "REJ"], [0.0, 1.0], np.maximum(answered, 1))
    lone = (fwd_packets == 1) & (bwd_packets == 0)
    return pl.DataFrame(
        {
            "dst_port": _ports(kind, rng),
            "duration_s": np.where(lone, 0.0, np.round(_lognormal(_of(kind, "duration_s"), rng), 6)),
            "protocol": _words(kind, "protocol"),
            "service": _words(kind, "service"),
            "fwd_packets": fwd_packets.astype(np.int64),
            "bwd_packets": bwd_packets.astype(np.int64),
            "fwd_bytes": _bytes(fwd_packets, "fwd_size", kind, rng),
            "bwd_bytes": _bytes(bwd_packets, "bwd_size", kind, rng),
            "state": pl.Series(state.tolist(), dtype=pl.String),
            "label": _words(kind, "label"),
        }
    ).with_columns(pl.when(pl.col("state") != "S0").then(pl.col("service")))  # unanswered, nothing was said


def _of(kind: npt.NDArray[np.int64], field: str) -> npt.NDArray[np.float64]:
    """Return a field of each flow's kind of traffic, (n_flows,) or (n_flows, n_values)."""
    values: npt.NDArray[np.float64] = np.array([getattr(traffic, field) for traffic in _TRAFFIC], np.float64)[kind]
    return values


def _words(kind: npt.NDArray[np.int64], field: str) -> pl.Series:
    return pl.Series(field, [getattr(traffic, field) for traffic in _TRAFFIC], pl.String).gather(kind)


def _lognormal(median_and_spread: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    median, spread = median_and_spread.T
    drawn: npt.NDArray[np.float64] = rng.lognormal(np.log(median), spread)
    return drawn


def _states(kind: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.str_]:
    # Inverse transform: how many cumulated chances a uniform number has passed is the state.
    below = np.cumsum(_of(kind, "states"), axis=1)  # n_flows, n_states
    drawn = (rng.random((len(kind), 1)) >= below).sum(axis=1)
    states: npt.NDArray[np.str_] = np.array(_STATES)[np.minimum(drawn, len(_STATES) - 1)]
    return states


def _ports(kind: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    usual, any_port = _of(kind, "port").astype(np.int64), rng.integers(1, 65536, len(kind))
    return np.where(usual > 0, usual, any_port)


def _bytes(
    packets: npt.NDArray[np.float64], field: str, kind: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    least = np.array([_LEAST_BYTES[traffic.protocol] for traffic in _TRAFFIC])[kind]
    mean = np.clip(_of(kind, field) * rng.lognormal(0, 0.3, len(kind)), least, _MOST_BYTES)
    return np.round(packets * mean).astype(np.int64)
