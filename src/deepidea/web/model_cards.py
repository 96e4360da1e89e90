"""Models for display: those in the store, those that run from files, and their cards."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from deepidea.detection.alerting import CARD_ENTRY, Thresholds
from deepidea.detection.health import json_bounds
from deepidea.errors import ArtifactError, DeepIDEAError, StoreError
from deepidea.evaluation.summary import EVALUATION_ENTRY
from deepidea.model.detector import Detector
from deepidea.store import engines, models
from deepidea.store.models import StoredModel, open_detector
from deepidea.store.store import Store
from deepidea.web.views import Compared, DriftLight, ModelRow, ModelsView, ModelView

_KEPT = 4  # detectors in memory
_BRIEF = 40  # items of a list in a card


class Cards:
    """The models of a store, and the detector that runs from a file.

    Parameters
    ----------
    store : Store
    detector : Detector, optional
    name : str
        Name of the detector's file.
    """

    def __init__(self, store: Store, detector: Detector | None = None, name: str = "") -> None:
        self._store, self._own, self._name = store, detector, name
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Detector] = OrderedDict()

    def detector(self, model: str) -> Detector | None:
        """Return the detector of a fingerprint, None where its file is missing or damaged."""
        if self._own is not None and self._own.fingerprint == model:
            return self._own
        stored = [one for one in self._store.query(models.all_models) if one.model == model]
        return self._loaded(stored[0].model_id) if stored else None

    def _loaded(self, model_id: str) -> Detector | None:
        with self._lock:
            if model_id not in self._kept:
                try:
                    self._kept[model_id] = open_detector(self._store.query(models.file, model_id))
                except StoreError:
                    raise
                except DeepIDEAError:
                    return None  # removed meanwhile, or damaged: shown as missing
            self._kept.move_to_end(model_id)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[model_id]

    def classes(self) -> set[str]:
        """Return the attack classes of the loaded detectors."""
        with self._lock:
            loaded = [*self._kept.values(), *([self._own] if self._own is not None else [])]
        return {name for one in loaded for name in one.classes if name != one.benign}

    def models(self) -> ModelsView:
        """Return the rows of all models: stored ones, the latest first, then those that run from files."""
        history = self._store.query(models.activations)
        rows = self._rows()
        kept = {row.model_id for row in rows if row.stored}
        active = next((row.model_id for row in rows if row.active), None)
        can = any(one.model_id in kept and one.model_id != active for one in history)
        return ModelsView(tuple(rows), tuple(history), can)

    def _rows(self) -> list[ModelRow]:
        states = self._store.query(engines.latest)
        running = {state.model: state.detector for state in states if state.model and state.is_running}
        stored = [_stored_row(one, in_use=one.model in running) for one in self._store.query(models.all_models)]
        known = {row.model for row in stored}
        files = {state.model: state.detector for state in states if state.model}
        if self._own is not None:
            files[self._own.fingerprint] = self._name or files.get(self._own.fingerprint, "")
        return [*stored, *(_file_row(model, name, model in running)
                           for model, name in files.items() if model not in known)]  # fmt: skip

    def row(self, model_id: str) -> ModelRow:
        """Return the row of a stored model."""
        return next(row for row in self._rows() if row.model_id == model_id)

    def view(self, model_id: str | None, light: Callable[[str], DriftLight]) -> ModelView | None:
        """Return all that is known of a model, None where there is none of this id or fingerprint."""
        rows = self._rows()
        ranked = sorted(rows, key=lambda row: (not row.active, not row.in_use))
        named = [row for row in rows if model_id in (row.model_id, row.model)]
        chosen = ranked if model_id is None else named
        if not chosen:
            return None
        row = chosen[0]
        detector = self._loaded(row.model_id) if row.stored else self.detector(row.model)
        return _view(row, detector, light(row.model))


def _stored_row(one: StoredModel, *, in_use: bool) -> ModelRow:
    full = one.comparison
    compared = None if full is None else Compared(
        full["old_id"], full["new_id"], full["verdict"], str(full.get("reason", "")), dict(full)
    )  # fmt: skip
    plain = {name: getattr(one, name) for name in ("model_id", "model", "name", "added", "added_by", "n_bytes")}
    return ModelRow(**plain, active=one.active, stored=True, in_use=in_use, comparison=compared)


def _file_row(model: str, name: str, in_use: bool) -> ModelRow:
    return ModelRow(model, model, name, None, "", 0, active=False, stored=False, in_use=in_use, comparison=None)


def _view(row: ModelRow, detector: Detector | None, light: DriftLight) -> ModelView:
    if detector is None:
        fault = "the detector file is not in the store; add it with: deepidea models add FILE"
        return ModelView(row, {}, (), "", 0, False, None, {}, None, fault, light)
    card = detector.card
    evaluation = card.get(EVALUATION_ENTRY)
    fault = "" if evaluation else "this file has no evaluation; add one with: deepidea evaluate FILE DATA --keep"
    training = card.get("training")
    return ModelView(
        row=row,
        card={name: _brief(value) for name, value in card.items() if name != EVALUATION_ENTRY},
        classes=tuple(detector.classes),
        schema=detector.schema.name,
        n_features=len(detector.schema.features),
        has_reference=detector.reference is not None,
        thresholds=_thresholds(card),
        training=dict(training) if isinstance(training, Mapping) else {},
        evaluation=dict(evaluation) if isinstance(evaluation, Mapping) else None,
        evaluation_fault=fault,
        drift=light,
    )


def _thresholds(card: Mapping[str, Any]) -> dict[str, Any] | None:
    if CARD_ENTRY not in card:
        return None
    try:
        set_by = Thresholds.from_contract(card[CARD_ENTRY])
    except ArtifactError:
        return None
    plain = {name: getattr(set_by, name) for name in ("fpr", "n_flows", "source", "guarantee")}
    return {"bounds": json_bounds(set_by.bounds), **plain}


def _brief(value: Any) -> Any:
    """Return a JSON value, long lists cut to their first items."""
    if isinstance(value, Mapping):
        return {str(name): _brief(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_brief(item) for item in value[:_BRIEF]]
    return value
