"""Columns of an alert table, and the names of severities."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from deepidea.flows.identity import IDENTITY

__all__ = ["ALERT_COLUMNS", "FINDING_COLUMNS", "SEVERITIES", "TIME"]

TIME = pl.Datetime("us", "UTC")

FINDING_COLUMNS: Mapping[str, pl.DataType] = {
    "behaviour": pl.String(),
    "role": pl.String(),
    "sentence": pl.String(),
    "finding": pl.String(),
}
"""Columns of an alert that a finding raised, evidence of a behaviour over a time window; null in any other alert.

``behaviour``
    Name of the behaviour, ``port_scan_vertical``.
``role``
    Whose incident the alert makes: the ``source`` or the ``target`` of its flow; null: as its class has it.
``sentence``
    The evidence in words: ``42 ports of 1 host, 95 % refused, 5 s``.
``finding``
    JSON object: ``window_s``; ``key``, what the window watches (``pair``); ``counts`` and ``thresholds`` by measure;
    ``margin``, how many times the threshold was exceeded; ``technique`` of MITRE ATT&CK, ``T1046``; ``direction``,
    ``outside to inside``.
"""

ALERT_COLUMNS: Mapping[str, pl.DataType] = {
    "alert_id": pl.String(),
    "time": TIME,
    **IDENTITY,
    "class": pl.String(),
    "label": pl.String(),
    "score": pl.Float64(),
    "anomaly": pl.Float64(),
    "unknown": pl.Boolean(),
    "severity": pl.Int16(),
    "fwd_packets": pl.Int64(),
    "bwd_packets": pl.Int64(),
    "fwd_bytes": pl.Int64(),
    "bwd_bytes": pl.Int64(),
    "probabilities": pl.String(),
    "features": pl.String(),
    **FINDING_COLUMNS,
    "model": pl.String(),
    "suppressed_by": pl.String(),
}
"""Columns of an alert table, in order.

``alert_id``
    32 hexadecimal digits, see ``deepidea.detection.alerts.make_alerts``; sorts by time.
``time``
    End of the flow, else its start, else when the alert was made. Never null.
``start`` .. ``community_id``
    Identity of the flow (:data:`deepidea.flows.identity.IDENTITY`); ``protocol`` is a name, ``tcp``.
``class``, ``label``, ``score``, ``anomaly``, ``unknown``
    The verdict (:meth:`deepidea.model.detector.Detector.score`); null where the detector lacks that output.
``severity``
    1 (critical) to 4 (low), see :data:`SEVERITIES`.
``fwd_packets`` .. ``bwd_bytes``
    The features of these names; null where the schema has none.
``probabilities``, ``features``
    JSON objects: probability by class; every feature by canonical name, destination port and protocol as the schema
    writes them included (``deepidea.detection.alerts.features_of`` parses it).
``behaviour`` .. ``finding``
    The finding that raised the alert (:data:`FINDING_COLUMNS`): the flow is the one that completed its evidence, and
    class, score and severity are the finding's. Null where the verdict on the flow raised it.
``model``
    Fingerprint of the detector.
``suppressed_by``
    Id of the allow rule that suppresses the alert, else null.
"""

SEVERITIES: Mapping[int, str] = {1: "critical", 2: "high", 3: "medium", 4: "low"}
"""Names of severities: 1 is the most urgent, as in Suricata and Snort.

The class gives the severity (:mod:`deepidea.flows.attack_classes`): 1 for activity from inside (botnet, infiltration,
U2R, backdoor, worm, ...), 3 for reconnaissance (probe, scan, sweep, ...), 2 for every other attack. A score below
0.9 makes it one less urgent. A flow unlike benign flows and known attacks alike (``unknown``) is at
least 3, whatever its class and score.
"""
