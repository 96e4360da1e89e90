"""Alerts: verdicts worth telling, each with the flow it is about and what the model saw."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from deepidea.errors import SchemaError
from deepidea.flows.attack_classes import attack_class_of
from deepidea.flows.identity import IDENTITY, community_id, transport_name

__all__ = ["ALERT_COLUMNS", "SEVERITIES", "features_of", "make_alerts"]

TIME = pl.Datetime("us", "UTC")

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
    "model": pl.String(),
    "suppressed_by": pl.String(),
}
"""Columns of an alert table, in order.

``alert_id``
    32 hexadecimal digits, see :func:`make_alerts`; sorts by time.
``time``
    When the flow ended; its start where that is not known, else when the alert was made. Never null.
``start`` .. ``community_id``
    Who talked to whom (:data:`deepidea.flows.identity.IDENTITY`); ``protocol`` is a name, ``tcp``.
``class``, ``label``, ``score``, ``anomaly``, ``unknown``
    The verdict (:meth:`deepidea.model.detector.Detector.score`); null where the detector does not tell it.
``severity``
    1 (critical) to 4 (low), see :data:`SEVERITIES`.
``fwd_packets`` .. ``bwd_bytes``
    What the flow's schema counts as such; null where it has no such feature.
``probabilities``, ``features``
    JSON objects: probability by class; every feature by canonical name, ports asked for and protocol as the schema
    writes it among them (:func:`features_of` reads it).
``model``
    Fingerprint of the detector.
``suppressed_by``
    Id of the allow rule that keeps the alert quiet, else null.
"""

SEVERITIES: Mapping[int, str] = {1: "critical", 2: "high", 3: "medium", 4: "low"}
"""Names of severities: 1 is the most urgent, as in Suricata and Snort.

The class gives the severity (:mod:`deepidea.flows.attack_classes`): 1 for what runs inside already (botnet,
infiltration, U2R, backdoor, worm, ...), 3 for reconnaissance (probe, scan, sweep, ...), 2 for every other attack. A
score under :data:`SURE_SCORE` makes it one less urgent. What is unlike benign flows and known attacks alike
(``unknown``) is at least 3, whatever its class and score.
"""

SURE_SCORE = 0.9
COUNTS = ("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")
_NO_FEATURES = ("start", "end", "src_ip", "src_port", "dst_ip", "community_id")  # protocol and dst_port may be some
_NAMED = ("start", "end", "src_ip", "src_port", "dst_ip", "dst_port", "protocol")


def make_alerts(
    flows: pl.DataFrame,
    verdicts: pl.DataFrame,
    chosen: pl.Series,
    *,
    model: str,
    features: pl.DataFrame | None = None,
    made_at: datetime | None = None,
) -> pl.DataFrame:
    """Return an alert for each chosen flow, in the order of the flows.

    Parameters
    ----------
    flows
        Identity columns and features under canonical names, ``(n_flows, ...)``; identity columns that are absent
        count as null.
    verdicts
        What ``Detector.score`` says of them, ``(n_flows, ...)``.
    chosen
        Boolean ``(n_flows,)``: which verdicts are worth telling; null is no.
    model
        Fingerprint of the detector.
    features
        What the detector saw of the flows, ``(n_flows, n_features)``, where that is not in ``flows``.
    made_at
        Time of alerts whose flow has none; now where absent.

    Returns
    -------
    DataFrame
        Columns of :data:`ALERT_COLUMNS`, ``(n_chosen, ...)``.

    Raises
    ------
    SchemaError
        The three do not have one row a flow, or ``verdicts`` lacks ``class`` or ``score``.

    Notes
    -----
    An alert's id is the end of its flow in milliseconds (12 digits) and 80 bits of BLAKE2b over model, start, end,
    5-tuple and class: equal when the same flow comes again, after a crash, from a second sensor or in another batch.
    So two flows that agree in all of these are one alert, told once; a counter would tell them apart, but would
    depend on what came before. Where an end, an address or the start is not known, which happens in tables without
    times, the features count too, so that only flows alike in everything are one.

    Examples
    --------
    >>> from deepidea.flows.attack_classes import attack_class_of
    from deepidea.flows.identity import IDENTITY
    >>> when = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> who = {"src_ip": "192.0.2.7", "src_port": 40000, "dst_ip": "198.51.100.1", "dst_port": 22, "protocol": "tcp"}
    >>> flows = pl.DataFrame([{"start": when, "end": when, **who, "fwd_packets": 3.0}], schema_overrides=IDENTITY)
    >>> verdicts = pl.DataFrame({"class": ["brute_force"], "score": [0.98], "p_benign": [0.02]})
    >>> alert = make_alerts(flows, verdicts, pl.Series([True]), model="ab12").row(0, named=True)
    >>> alert["severity"], alert["community_id"], alert["features"]
    (2, '1:7AAAV1V09jhkyMaDgrpHfnJvZbg=', '{"dst_port":22,"protocol":"tcp","fwd_packets":3.0}')
    """
    _check_rows(flows, verdicts, chosen)
    mask = chosen.fill_null(False)
    flows, verdicts = flows.filter(mask), verdicts.filter(mask)
    seen = flows.select(pl.exclude(*_NO_FEATURES)) if features is None else features.filter(mask)
    evidence = _features_json(seen, flows.height)
    flows = _identified(flows)
    table = pl.DataFrame(
        [
            *_known_times(flows, made_at or datetime.now(UTC)),
            *flows.select(*IDENTITY).iter_columns(),
            *_verdict_columns(verdicts),
            *_counts(flows),
            _probabilities_json(verdicts),
            evidence,
        ]
    ).with_columns(model=pl.lit(model), suppressed_by=pl.lit(None, pl.String))
    return table.with_columns(alert_id=_alert_ids(table)).select(*ALERT_COLUMNS).cast(pl.Schema(ALERT_COLUMNS))


def _check_rows(flows: pl.DataFrame, verdicts: pl.DataFrame, chosen: pl.Series) -> None:
    if not flows.height == verdicts.height == len(chosen):
        raise SchemaError(
            "each flow must have one verdict and one choice, however: "
            f"there are {flows.height} flows, {verdicts.height} verdicts and {len(chosen)} choices"
        )
    missing = [name for name in ("class", "score") if name not in verdicts.columns]
    if missing:
        raise SchemaError(f"verdicts must have class and score, however: {', '.join(missing)} is missing")


def _identified(flows: pl.DataFrame) -> pl.DataFrame:
    """Return flows with every identity column, the protocol as a name, and a Community ID where one can be had."""
    absent = {name: pl.lit(None, dtype) for name, dtype in IDENTITY.items() if name not in flows.columns}
    flows = flows.with_columns(**absent).cast(pl.Schema(IDENTITY))
    names = {text: transport_name(text) for text in flows["protocol"].unique().drop_nulls()}
    plain = pl.col("src_ip", "dst_ip", "community_id").str.replace_all("\0", "\ufffd", literal=True)
    flows = flows.with_columns(pl.col("protocol").replace(names), plain)  # NUL is text that not every store can hold
    return flows.with_columns(_community_ids(flows))


def _community_ids(flows: pl.DataFrame) -> pl.Series:
    """Return the Community ID of each flow; a conversation that comes twice is worked out once."""
    wanted = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
    lacking = flows["community_id"].is_null() & flows["src_ip"].is_not_null() & flows["dst_ip"].is_not_null()
    known: dict[Any, str | None] = {}
    worked_out = []
    for row in flows.filter(lacking).select(wanted).iter_rows():
        if row not in known:
            known[row] = community_id(*row)
        worked_out.append(known[row])
    ids = flows["community_id"].to_list()
    for place, text in zip(lacking.arg_true(), worked_out, strict=True):
        ids[place] = text
    return pl.Series("community_id", ids, pl.String)


def _known_times(flows: pl.DataFrame, made_at: datetime) -> list[pl.Series]:
    return [flows.select(time=pl.coalesce("end", "start", pl.lit(made_at).cast(TIME))).to_series()]


def _verdict_columns(verdicts: pl.DataFrame) -> list[pl.Series]:
    wanted = ("class", "label", "score", "anomaly", "unknown")
    absent = {name: pl.lit(None, ALERT_COLUMNS[name]) for name in wanted if name not in verdicts.columns}
    table = verdicts.with_columns(**absent).select(wanted).cast({name: ALERT_COLUMNS[name] for name in wanted})
    # no detector of ours gives a score or anomaly that is no number; one that does must not stop what reads alerts
    table = table.with_columns(pl.col("score").fill_nan(0).fill_null(0), pl.col("anomaly").fill_nan(None))
    return [*table.iter_columns(), _severities(table)]


def _severities(verdicts: pl.DataFrame) -> pl.Series:
    of_class = {name: attack_class_of(name).severity for name in verdicts["class"].unique().drop_nulls()}
    sure = pl.col("class").replace_strict(of_class, default=3, return_dtype=pl.Int16)
    level = sure + (pl.col("score") < SURE_SCORE).cast(pl.Int16)
    at_least_medium = pl.when(pl.col("unknown").fill_null(False)).then(pl.min_horizontal(level, 3)).otherwise(level)
    return verdicts.select(severity=at_least_medium.clip(1, 4).cast(pl.Int16)).to_series()


def _counts(flows: pl.DataFrame) -> list[pl.Series]:
    absent = {name: pl.lit(None, pl.Float64) for name in COUNTS if name not in flows.columns}
    counts = flows.with_columns(**absent).select(pl.col(COUNTS).cast(pl.Float64, strict=False))
    return list(counts.select(pl.all().cast(pl.Int64, strict=False)).iter_columns())


def _probabilities_json(verdicts: pl.DataFrame) -> pl.Series:
    columns = [name for name in verdicts.columns if name.startswith("p_")]
    plain = verdicts.select(pl.col(name).alias(name.removeprefix("p_")) for name in columns)
    return _json_objects(plain, verdicts.height).alias("probabilities")


def _features_json(features: pl.DataFrame, n_rows: int) -> pl.Series:
    """Return each row as a JSON object; infinity and NaN, which JSON does not know, stand in it as text."""
    texts = _json_objects(features, n_rows)
    odd = _rows_not_finite(features)
    if len(odd):
        rows = features[odd].iter_rows(named=True)
        spelt = [json.dumps({k: _spelt(v) for k, v in row.items()}, separators=(",", ":")) for row in rows]
        texts = texts.scatter(odd, spelt)
    return texts.alias("features")


def _rows_not_finite(features: pl.DataFrame) -> pl.Series:
    floats = [name for name, dtype in features.schema.items() if dtype.is_float()]
    if not floats:
        return pl.Series(dtype=pl.UInt32)
    return features.select(~pl.all_horizontal(pl.col(floats).is_finite().fill_null(True))).to_series().arg_true()


def _spelt(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _json_objects(table: pl.DataFrame, n_rows: int) -> pl.Series:
    if not table.width or not n_rows:
        return pl.Series(["{}"] * n_rows, dtype=pl.String)
    return table.select(pl.struct(pl.all()).struct.json_encode()).to_series()


def _alert_ids(alerts: pl.DataFrame) -> pl.Series:
    whole = pl.all_horizontal(pl.col("start", "end", "src_ip", "dst_ip").is_not_null())
    named = [pl.col(name).cast(pl.Int64 if name in ("start", "end") else pl.String) for name in _NAMED]
    parts = [pl.col("model"), *named, pl.col("class"), pl.when(whole).then(pl.lit("")).otherwise(pl.col("features"))]
    written = pl.concat_str([part.cast(pl.String).fill_null("-") for part in parts], separator="\x1f")
    when = (pl.coalesce(pl.col("end").cast(pl.Int64), 0) // 1000).clip(0, (1 << 48) - 1)
    rows = alerts.select(when=when, text=written).iter_rows()
    return pl.Series([f"{ms:012x}{_digest(text)}" for ms, text in rows], dtype=pl.String)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def features_of(features: str) -> pl.DataFrame:
    """Return the features of one alert as a flow table of one row, as the detector that made it takes them.

    Examples
    --------
    >>> features_of('{"fwd_packets":3.0,"bytes_per_s":"inf","protocol":"6"}').row(0)
    (3.0, inf, '6')
    """
    odd = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    return pl.DataFrame([{name: odd.get(value, value) for name, value in json.loads(features).items()}])
