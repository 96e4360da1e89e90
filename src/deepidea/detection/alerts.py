"""Alerts: verdicts above a threshold, each with its flow and the features that the detector scored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import polars as pl

from deepidea.errors import SchemaError
from deepidea.flows.attack_classes import attack_class_of
from deepidea.flows.identity import IDENTITY, community_id, transport_name
from deepidea.store.alert_columns import ALERT_COLUMNS, FINDING_COLUMNS, TIME

__all__ = ["features_of", "make_alerts"]

SURE_SCORE = 0.9
COUNTS = ("fwd_packets", "bwd_packets", "fwd_bytes", "bwd_bytes")
_NO_FEATURES = ("start", "end", "src_ip", "src_port", "dst_ip", "community_id")  # protocol, dst_port can be features
_KEY = ("start", "end", "src_ip", "src_port", "dst_ip", "dst_port", "protocol")


def make_alerts(
    flows: pl.DataFrame,
    verdicts: pl.DataFrame,
    selected: pl.Series,
    *,
    model: str,
    features: pl.DataFrame | None = None,
    findings: pl.DataFrame | None = None,
    made_at: datetime | None = None,
) -> pl.DataFrame:
    """Return an alert for each selected flow, in the order of the flows.

    Parameters
    ----------
    flows
        Identity columns and features under canonical names, ``(n_flows, ...)``; absent identity columns are null.
    verdicts
        Output of ``Detector.score``, ``(n_flows, ...)``.
    selected
        Boolean ``(n_flows,)``: which flows raise an alert; null is no.
    model
        Fingerprint of the detector.
    features
        The features that the detector scored, ``(n_flows, n_features)``, where they are not in ``flows``.
    findings
        The finding that each selected flow completed, ``(n_selected, 7)``: :data:`FINDING_COLUMNS
        <deepidea.store.alert_columns.FINDING_COLUMNS>`, ``class``, ``score``, ``severity``. The last three replace the
        verdict's. Where ``behaviour`` is null, the row is of a flow that the verdict alone selected.
    made_at
        Time of alerts whose flow has none; by default now.

    Returns
    -------
    DataFrame
        Columns of :data:`~deepidea.store.alert_columns.ALERT_COLUMNS`, ``(n_selected, ...)``.

    Raises
    ------
    SchemaError
        The three differ in their number of rows, ``verdicts`` lacks ``class`` or ``score``, or ``findings`` has another
        number of rows than flows are selected.

    Notes
    -----
    An alert's id is the end of its flow in milliseconds (12 digits) and 80 bits of BLAKE2b over model, start, end,
    5-tuple and class. It is the same when the flow comes again: after a crash, from a second sensor, in another batch.
    Two flows that agree in all of these are one alert. Where start, end or an address is unknown, as in tables without
    times, the hash covers the features too; that of a finding covers its behaviour.

    Examples
    --------
    >>> from deepidea.flows.identity import IDENTITY
    >>> when = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> who = {"src_ip": "192.0.2.7", "src_port": 40000, "dst_ip": "198.51.100.1", "dst_port": 22, "protocol": "tcp"}
    >>> flows = pl.DataFrame([{"start": when, "end": when, **who, "fwd_packets": 3.0}], schema_overrides=IDENTITY)
    >>> verdicts = pl.DataFrame({"class": ["brute_force"], "score": [0.98], "p_benign": [0.02]})
    >>> alert = make_alerts(flows, verdicts, pl.Series([True]), model="ab12").row(0, named=True)
    >>> alert["severity"], alert["community_id"], alert["features"]
    (2, '1:7AAAV1V09jhkyMaDgrpHfnJvZbg=', '{"dst_port":22,"protocol":"tcp","fwd_packets":3.0}')
    """
    _check_rows(flows, verdicts, selected)
    mask = selected.fill_null(False)
    if findings is not None and findings.height != mask.sum():
        raise SchemaError(f"findings must have one row for each selected flow: {mask.sum()}, got {findings.height}")
    flows, verdicts = flows.filter(mask), verdicts.filter(mask)
    scored = flows.select(pl.exclude(*_NO_FEATURES)) if features is None else features.filter(mask)
    flows = _with_identity(flows)
    parts = (
        flows.select(time=pl.coalesce("end", "start", pl.lit(made_at or datetime.now(UTC)).cast(TIME))),
        flows.select(*IDENTITY),
        _verdict_columns(verdicts, findings),
        _counts(flows),
        pl.DataFrame([_probabilities_json(verdicts), _features_json(scored, flows.height)]),
        _finding_columns(findings, flows.height),
    )
    table = pl.concat(parts, how="horizontal").with_columns(model=pl.lit(model), suppressed_by=pl.lit(None, pl.String))
    return table.with_columns(alert_id=_alert_ids(table)).select(*ALERT_COLUMNS).cast(pl.Schema(ALERT_COLUMNS))


def _check_rows(flows: pl.DataFrame, verdicts: pl.DataFrame, selected: pl.Series) -> None:
    if not flows.height == verdicts.height == len(selected):
        counts = f"{flows.height} flows, {verdicts.height} verdicts, {len(selected)} selected"
        raise SchemaError(f"flows, verdicts and selected must have the same number of rows, got {counts}")
    missing = [name for name in ("class", "score") if name not in verdicts.columns]
    if missing:
        raise SchemaError(f"verdicts lack the column {missing[0]}")


def _with_absent(table: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the table with these columns, null where it lacks them."""
    absent = {name: pl.lit(None, dtype) for name, dtype in columns.items() if name not in table.columns}
    return table.with_columns(**absent)


def _storable(texts: pl.Expr) -> pl.Expr:
    return texts.str.replace_all("\0", "\ufffd", literal=True)  # PostgreSQL stores no NUL in text


def _with_identity(flows: pl.DataFrame) -> pl.DataFrame:
    """Return flows with every identity column, protocol names, and a Community ID where both addresses are known."""
    flows = _with_absent(flows, IDENTITY).cast(pl.Schema(IDENTITY))
    names = {text: transport_name(text) for text in flows["protocol"].unique().drop_nulls()}
    flows = flows.with_columns(pl.col("protocol").replace(names), _storable(pl.col("src_ip", "dst_ip", "community_id")))
    return flows.with_columns(_community_ids(flows))


def _community_ids(flows: pl.DataFrame) -> pl.Series:
    """Return the Community ID of each flow, computed once for each conversation that lacks it."""
    ends = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
    lacking = pl.col("community_id").is_null() & pl.col("src_ip").is_not_null() & pl.col("dst_ip").is_not_null()
    rows = flows.select("community_id", lacking.alias("lacking"), *ends).iter_rows()
    computed = cache(community_id)
    return pl.Series("community_id", [computed(*row) if absent else given for given, absent, *row in rows], pl.String)


_VERDICT = {name: ALERT_COLUMNS[name] for name in ("class", "label", "score", "anomaly", "unknown")}


def _verdict_columns(verdicts: pl.DataFrame, findings: pl.DataFrame | None) -> pl.DataFrame:
    """Return class to severity, the finding's where there is one: no label or novelty of its last flow refines it."""
    own = _own_verdicts(verdicts)
    if findings is None or not findings.height:
        return own
    found, raised = _finding_verdicts(findings), pl.col("behaviour").is_not_null()
    both = pl.concat([own, found.select(pl.all().name.prefix("of_")), findings.select("behaviour")], how="horizontal")
    of_finding = {name: pl.when(raised).then(f"of_{name}").otherwise(name) for name in found.columns}
    of_flow = {name: pl.when(~raised).then(name) for name in ("label", "unknown")}
    return both.with_columns(**of_finding, **of_flow).select(own.columns)


def _finding_verdicts(findings: pl.DataFrame) -> pl.DataFrame:
    names = ("class", "score", "severity")
    return findings.select(names).cast(pl.Schema({name: ALERT_COLUMNS[name] for name in names}))


def _finding_columns(findings: pl.DataFrame | None, n_selected: int) -> pl.DataFrame:
    if findings is None:
        return pl.DataFrame(
            {name: pl.repeat(None, n_selected, dtype=of, eager=True) for name, of in FINDING_COLUMNS.items()}
        )
    return findings.select(*FINDING_COLUMNS).cast(pl.Schema(FINDING_COLUMNS)).select(_storable(pl.all()))


def _own_verdicts(verdicts: pl.DataFrame) -> pl.DataFrame:
    table = _with_absent(verdicts, _VERDICT).select(*_VERDICT).cast(pl.Schema(_VERDICT))
    # A detector of our own never gives NaN; another one's must not stop the readers of alerts.
    table = table.with_columns(pl.col("score").fill_nan(0).fill_null(0), pl.col("anomaly").fill_nan(None))
    return table.with_columns(_severities(table))


def _severities(verdicts: pl.DataFrame) -> pl.Series:
    of_class = {name: attack_class_of(name).severity for name in verdicts["class"].unique().drop_nulls()}
    of_sure = pl.col("class").replace_strict(of_class, default=3, return_dtype=pl.Int16)
    level = of_sure + (pl.col("score") < SURE_SCORE).cast(pl.Int16)
    at_least_medium = pl.when(pl.col("unknown").fill_null(False)).then(pl.min_horizontal(level, 3)).otherwise(level)
    return verdicts.select(severity=at_least_medium.clip(1, 4).cast(pl.Int16)).to_series()


def _counts(flows: pl.DataFrame) -> pl.DataFrame:
    counts = _with_absent(flows, dict.fromkeys(COUNTS, pl.Float64())).select(COUNTS)
    return counts.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)


def _probabilities_json(verdicts: pl.DataFrame) -> pl.Series:
    columns = [name for name in verdicts.columns if name.startswith("p_")]
    plain = verdicts.select(pl.col(name).alias(name.removeprefix("p_")) for name in columns)
    return _json_objects(plain, verdicts.height).alias("probabilities")


def _features_json(features: pl.DataFrame, n_rows: int) -> pl.Series:
    """Return each row as a JSON object, in which infinity and NaN are strings: JSON has no such numbers (RFC 8259)."""
    texts = _json_objects(features, n_rows)
    odd = _rows_not_finite(features)
    if len(odd):
        rows = features[odd].iter_rows(named=True)
        written = [json.dumps({k: _finite_or_text(v) for k, v in row.items()}, separators=(",", ":")) for row in rows]
        texts = texts.scatter(odd, written)
    return texts.alias("features")


def _rows_not_finite(features: pl.DataFrame) -> pl.Series:
    floats = [name for name, dtype in features.schema.items() if dtype.is_float()]
    if not floats:
        return pl.Series(dtype=pl.UInt32)
    return features.select(~pl.all_horizontal(pl.col(floats).is_finite().fill_null(True))).to_series().arg_true()


def _finite_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _json_objects(table: pl.DataFrame, n_rows: int) -> pl.Series:
    if not table.width or not n_rows:
        return pl.Series(["{}"] * n_rows, dtype=pl.String)
    return table.select(pl.struct(pl.all()).struct.json_encode()).to_series()


def _alert_ids(alerts: pl.DataFrame) -> pl.Series:
    # Like a UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, then bits that distinguish alerts of one millisecond; but
    # these are a hash, so that the same flow gets the same id again. \x1f, the unit separator, keeps fields apart.
    whole = pl.all_horizontal(pl.col("start", "end", "src_ip", "dst_ip").is_not_null())
    named = [pl.col(name).cast(pl.Int64 if name in ("start", "end") else pl.String) for name in _KEY]
    parts = [pl.col("model"), *named, pl.col("class"), pl.when(whole).then(pl.lit("")).otherwise(pl.col("features"))]
    written = pl.concat_str([part.cast(pl.String).fill_null("-") for part in parts], separator="\x1f")
    # A flow and the finding that it completes are two alerts; ids of flows stay what they were before findings.
    written += pl.when(pl.col("behaviour").is_null()).then(pl.lit("")).otherwise(pl.lit("\x1f") + pl.col("behaviour"))
    when = (pl.coalesce(pl.col("end").cast(pl.Int64), 0) // 1000).clip(0, (1 << 48) - 1)
    rows = alerts.select(when=when, text=written).iter_rows()
    return pl.Series([f"{ms:012x}{_digest(text)}" for ms, text in rows], dtype=pl.String)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def features_of(features: str) -> pl.DataFrame:
    """Return the features of one alert as a flow table of one row for the detector that made it.

    Examples
    --------
    >>> features_of('{"fwd_packets":3.0,"bytes_per_s":"inf","protocol":"6"}').row(0)
    (3.0, inf, '6')
    """
    odd = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    return pl.DataFrame([{name: odd.get(value, value) for name, value in json.loads(features).items()}])
