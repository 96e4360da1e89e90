"""Why an alert was raised: its stored features, explained by the detector that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from deepidea.detection.alerting import CARD_ENTRY, LIKELIER_THAN_NOT, Thresholds
from deepidea.detection.alerts import features_of
from deepidea.detection.engine import fingerprint
from deepidea.errors import DataError, SchemaError
from deepidea.flows.tables import iter_flows
from deepidea.model.detector import Detector
from deepidea.model.explain import TOP, Basis, Explainer, Explanation

__all__ = ["explain_alert", "explain_rows"]


def explain_alert(
    detector: Detector, alert: Mapping[str, Any], *, top: int = TOP, explainer: Explainer | None = None
) -> Explanation:
    """Explain a stored alert.

    Parameters
    ----------
    detector : Detector
        The one that made the alert; it may have been calibrated since.
    alert : mapping
        A row of :meth:`deepidea.detection.store.Store.alerts`.
    top : int
        Most reasons.
    explainer : Explainer, optional
        Of the detector, where many alerts are to be explained.

    Raises
    ------
    DataError
        Another detector made the alert, or the store does not hold its features.
    """
    _check_model(detector, alert)
    flow = _stored_flow(detector, alert)
    explainer = explainer or Explainer(detector)
    [found] = explainer.explain(flow, top=top, classes=[alert["class"]], basis=_basis_of(detector, alert))
    return found


def _check_model(detector: Detector, alert: Mapping[str, Any]) -> None:
    ours = fingerprint(detector)
    if alert["model"] != ours:
        raise DataError(
            "an alert must be explained by the detector that made it, however: detector "
            f"{alert['model']} made {alert['alert_id']}, and this one is {ours}; give that detector's file"
        )


def _stored_flow(detector: Detector, alert: Mapping[str, Any]) -> pl.DataFrame:
    """Return the features of an alert as a table of one flow."""
    if not alert["features"]:
        raise DataError(f"an alert's features must be stored, however: those of {alert['alert_id']} are gone")
    try:
        return detector.schema.conform(features_of(alert["features"]))
    except SchemaError as error:
        raise DataError(
            f"an alert must be stored with all that the detector saw, however: of {alert['alert_id']}: {error}"
        ) from error


def _basis_of(detector: Detector, alert: Mapping[str, Any]) -> Basis:
    """Return what raised an alert: its score where that lies above its bound, else its anomaly."""
    kept = detector.card.get(CARD_ENTRY)
    bounds = (LIKELIER_THAN_NOT if kept is None else Thresholds.from_contract(kept)).bounds
    bound = bounds.get("score", LIKELIER_THAN_NOT.bounds["score"])
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
        Rows to explain, counted from 1; where there are none, the :data:`FIRST_ROWS` likeliest attacks.
    top : int
        Most reasons of each.

    Returns
    -------
    list of (row, Explanation)

    Raises
    ------
    DataError
        A file that cannot be read or lacks a feature, or a row that it does not have.
    """
    chosen = _rows_of(detector, path, set(rows)) if rows else _likeliest(detector, path)
    order = sorted(chosen, key=list(rows).index) if rows else list(chosen)
    flows = pl.concat([chosen[row] for row in order], how="vertical_relaxed")
    return list(zip(order, Explainer(detector).explain(flows, top=top), strict=True))


FIRST_ROWS = 5  # explained where none are asked for


def _rows_of(detector: Detector, path: str | Path, wanted: set[int]) -> dict[int, pl.DataFrame]:
    if min(wanted) < 1:
        raise DataError(f"rows must be counted from 1, however: row {min(wanted)} is asked for")
    found, begin = dict[int, pl.DataFrame](), 1
    for flows in iter_flows([path], detector.schema):
        found |= {row: flows[row - begin] for row in wanted if begin <= row < begin + flows.height}
        begin += flows.height
        if len(found) == len(wanted):
            return found
    raise DataError(
        f"rows must be in the file, however: {path} has {begin - 1:,} and row {max(wanted - set(found)):,} is asked for"
    )


def _likeliest(detector: Detector, path: str | Path) -> dict[int, pl.DataFrame]:
    """Return the rows with the highest scores, the first of equal ones, by score."""
    kept: list[tuple[float, int, pl.DataFrame]] = []
    begin = 1
    for flows in iter_flows([path], detector.schema):
        score = detector.score_conformed(flows)["score"]
        places = score.arg_sort(descending=True)[:FIRST_ROWS].to_list()
        kept += [(-score[place], begin + place, flows[place]) for place in places]
        kept = sorted(kept, key=lambda entry: entry[:2])[:FIRST_ROWS]
        begin += flows.height
    if not kept:
        raise DataError(f"a file must hold flows to be explained, however: {path} holds none")
    return {row: flow for _, row, flow in kept}
