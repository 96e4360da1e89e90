"""Explanations of alerts by the detectors that raised them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from deepidea.detection.explain import explain_alert
from deepidea.errors import DeepIDEAError, StoreError
from deepidea.flows.column import Column
from deepidea.flows.labels import title_of, value_text
from deepidea.model.detector import Detector
from deepidea.model.explain import Explainer
from deepidea.web.model_cards import Cards
from deepidea.web.views import FeatureValue, WhyView, why_of

_KEPT = 4  # explainers, each with its detector's network


class Explainers:
    """Explains alerts; the explainers of the latest detectors are kept.

    Parameters
    ----------
    cards : Cards
        Provides the detectors.
    """

    def __init__(self, cards: Cards) -> None:
        self._cards, self._lock = cards, threading.Lock()
        self._kept: OrderedDict[str, Explainer] = OrderedDict()

    def why(self, alert: Mapping[str, Any]) -> WhyView:
        """Return the explanation of an alert, or why there is none."""
        try:
            explainer = self._explainer(alert["model"] or "")
            if explainer is None:
                return WhyView(alert["alert_id"], False, _no_file(alert["model"]))
            return why_of(alert["alert_id"], explain_alert(explainer.detector, alert, explainer=explainer))
        except StoreError:
            raise
        except DeepIDEAError as error:
            return WhyView(alert["alert_id"], False, str(error))

    def _explainer(self, model: str) -> Explainer | None:
        with self._lock:
            found = self._kept.get(model)
            if found is None:
                detector = self._cards.detector(model)
                if detector is None:
                    return None
                found = self._kept[model] = Explainer(detector)
            self._kept.move_to_end(model)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return found


def _no_file(model: str | None) -> str:
    return (
        f"no explanation: detector {model or '?'} of this alert is not in the store; "
        "add its file with: deepidea models add FILE"
    )


def feature_values(detector: Detector | None, features: str | None) -> tuple[FeatureValue, ...]:
    """Return the features of a flow for display; without the detector, titles are column names."""
    values: dict[str, Any] = json.loads(features) if features else {}
    known = {} if detector is None else {column.name: column for column in detector.schema.columns}
    return tuple(_feature(known.get(name), name, raw) for name, raw in values.items())


def _feature(column: Column | None, name: str, raw: Any) -> FeatureValue:
    column = column or Column(name, "category" if isinstance(raw, str) or name.endswith("_port") else "number")
    value = float(raw) if isinstance(raw, bool | int) else raw
    if column.kind != "category" and isinstance(value, str):
        value = _number(value)
    shown = int(raw) if isinstance(raw, bool) else raw
    return FeatureValue(name, title_of(column), value_text(value, column), shown)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
