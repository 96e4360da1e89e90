"""Ground truth of attacks by instance: kind, class, sources, targets, time and strength of each."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from deepidea.errors import SchemaError

__all__ = ["attack_instances", "strength_text"]


def strength_text(strength: Mapping[str, float]) -> str:
    """Return a strength as the ground truth has it.

    Examples
    --------
    >>> strength_text({"ports": 93, "seconds": 12.5})
    'ports=93 seconds=12.5'
    """
    return " ".join(f"{name}={value:.12g}" for name, value in strength.items())


def attack_instances(labels: pl.DataFrame) -> pl.DataFrame:
    """Return the instances of attacks in a ground truth, one a row, in order of time.

    Parameters
    ----------
    labels
        Ground truth with the column ``instance``, as `deepidea.simulation.ground_truth.read_labels` returns it. Rows
        without an instance are left out.

    Returns
    -------
    polars.DataFrame
        ``instance``, ``label``, ``class``, ``sources`` and ``targets`` (lists of addresses, those with most
        conversations first), ``first``, ``last``, ``conversations``, ``strength``.

    Raises
    ------
    SchemaError
        The ground truth has no instances.

    Examples
    --------
    >>> from deepidea.simulation.one_attack import simulate_attack
    >>> found = attack_instances(simulate_attack("port_scan", ports=40, seconds=5, targets=1).labels)
    >>> found.select("label", "class", "conversations", "strength").row(0)
    ('port_scan', 'port_scan', 40, 'ports=40 seconds=5 targets=1 sources=1')
    """
    if "instance" not in labels.columns:
        raise SchemaError("the ground truth has no column instance; write it with deepidea simulate")
    return (
        labels.filter(pl.col("instance").is_not_null())
        .group_by("instance", "label", "class", "strength")
        .agg(
            _by_frequency("src_ip").alias("sources"),
            _by_frequency("dst_ip").alias("targets"),
            first=pl.col("start").min(),
            last=pl.col("end").max(),
            conversations=pl.len(),
        )
        .select("instance", "label", "class", "sources", "targets", "first", "last", "conversations", "strength")
        .sort("first", "instance")
    )


def _by_frequency(column: str) -> pl.Expr:
    """Return the distinct values of a column, the most frequent first, equal ones in order of the alphabet."""
    return pl.col(column).sort().value_counts(sort=True).struct.field(column)
