"""Explain an alert from its stored features, or rows of a file, by the detector that scored them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, DEFAULT_THRESHOLDS, Thresholds
from deepidea.detection.alerts import features_of
from deepidea.detection.engine import fingerprint
from deepidea.errors import DataError, SchemaError
from deepidea.flows.tables import iter_flows
from deepidea.model.detector import Detector
from deepidea.model.explain import TOP, Basis, Explainer, Explanation

__all__ = ["explain_alert", "explain_rows"]


FIRST_ROWS = 5  # explained where no rows are named


def explain_alert(
    detector: Detector, alert: Mapping[str, Any], *, top: int = TOP, explainer: Explainer | None = None
) -> Explanation:
    """Explain a stored alert.

    Parameters
    ----------
    detector : Detector
        The one that made the alert; it may have been calibrated since.
    alert : mapping
        A row of an alert table, its features included: :func:`deepidea.store.alerts.find_row`.
    top : int
        Most reasons.
    explainer : Explainer, optional
        Of the detector, where many alerts are explained.

    Raises
    ------
    DataError
        Another detector made the alert, or the store no longer has its features.
    """
    model = fingerprint(detector)
    if alert["model"] != model:
        raise DataError(
            f"cannot explain alert {alert['alert_id']}: detector {alert['model']} made it, this one is {model}; "
            "pass the file of that detector"
        )
    flow = _stored_flow(detector, alert)
    explainer = explainer or Explainer(detector)
    [found] = explainer.explain(flow, top=top, classes=[alert["class"]], basis=_basis_of(detector, alert))
    return found


def _stored_flow(detector: Detector, alert: Mapping[str, Any]) -> pl.DataFrame:
    """Return the features of an alert as a table of one flow."""
    if not alert["features"]:
        raise DataError(f"cannot explain alert {alert['alert_id']}: the store no longer has its features")
    try:
        return detector.schema.conform(features_of(alert["features"]))
    except SchemaError as error:
        raise DataError(f"cannot explain alert {alert['alert_id']}: stored features are incomplete: {error}") from error


def _basis_of(detector: Detector, alert: Mapping[str, Any]) -> Basis:
    """Return the measure that raised an alert: its score where that lies above its bound, else its anomaly."""
    stored, default = detector.card.get(CARD_ENTRY), DEFAULT_THRESHOLDS.bounds
    bounds = default if stored is None else Thresholds.from_contract(stored).bounds
    bound = bounds.get("score", default["score"])
    return "score" if alert["anomaly"] is None or alert["score"] > bound else "anomaly"


def explain_rows(
    detector: Detector, path: str | Path, rows: Sequence[int] = (), *, top: int = TOP
) -> list[tuple[int, Explanation]]:
    """Explain flows of a file.

    Parameters
    ----------
    detector : Detector
    path : path
        A table in the detector's schema: CSV, CSV in gzip, Parquet.
    rows : sequence of int
        Rows to explain, counted from 1; by default the :data:`FIRST_ROWS` with the highest scores.
    top : int
        Most reasons of each.

    Returns
    -------
    list of (row, Explanation)

    Raises
    ------
    DataError
        The file cannot be read, lacks a feature, or has no such row.
    """
    chosen = _rows_of(detector, path, set(rows)) if rows else _highest_scores(detector, path)
    order = sorted(chosen, key=list(rows).index) if rows else list(chosen)
    flows = pl.concat([chosen[row] for row in order], how="vertical_relaxed")
    return list(zip(order, Explainer(detector).explain(flows, top=top), strict=True))


def _rows_of(detector: Detector, path: str | Path, wanted: set[int]) -> dict[int, pl.DataFrame]:
    if min(wanted) < 1:
        raise DataError(f"rows are counted from 1, got row {min(wanted)}")
    found, begin = dict[int, pl.DataFrame](), 1
    for flows in iter_flows([path], detector.schema):
        # One pass over the file, whatever the order in which rows were named.
        found |= {row: flows[row - begin] for row in wanted if begin <= row < begin + flows.height}
        begin += flows.height
        if len(found) == len(wanted):
            return found
    raise DataError(f"{path} has {begin - 1:,} rows, got row {max(wanted - set(found)):,}")


def _highest_scores(detector: Detector, path: str | Path) -> dict[int, pl.DataFrame]:
    """Return the rows with the highest scores in descending order, of equal ones the first."""
    best: list[tuple[float, int, pl.DataFrame]] = []
    begin = 1
    for flows in iter_flows([path], detector.schema):
        score = detector.score_conformed(flows)["score"]
        places = score.arg_sort(descending=True)[:FIRST_ROWS].to_list()
        best += [(-score[place], begin + place, flows[place]) for place in places]
        # The five highest of what was read so far; by row number where scores are equal.
        best = sorted(best, key=lambda entry: entry[:2])[:FIRST_ROWS]
        begin += flows.height
    if not best:
        raise DataError(f"{path} has no flows to explain")
    return {row: flow for _, row, flow in best}
