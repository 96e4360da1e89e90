"""Models of a store: which there are, which one detects, and a detection that follows when another is activated."""

from __future__ import annotations

import time
from collections.abc import Callable

from deepidea.detection.alerting import CARD_ENTRY, Thresholds, thresholds_of
from deepidea.errors import ArtifactError, DataError, DeepIDEAError, StoreError
from deepidea.model.detector import Detector
from deepidea.store import models
from deepidea.store.models import StoredModel, model_id_of, open_detector
from deepidea.store.store import Store

__all__ = ["ActiveDetector", "detector_of"]

CHECK_S = 3.0  # between looks at what is active


def detector_of(store: Store, model_id: str) -> Detector:
    """Return the detector of a stored model; :class:`ArtifactError` where its file is not what was added."""
    data = store.query(models.file, model_id)
    if model_id_of(data) != model_id:
        raise ArtifactError(f"the stored file of model {model_id} has another SHA-256 than when it was added")
    return open_detector(data)


class ActiveDetector:
    """The active model of a store, and the next one as soon as another is activated.

    Parameters
    ----------
    store : Store
    fpr : float, optional
        Rate of false alarms to alert at, see :func:`deepidea.detection.alerting.thresholds_of`.
    fits : callable, optional
        Gets the detector that runs and the next one, and raises :class:`~deepidea.errors.DataError` where the next one
        cannot take its place.
    report : callable, optional
        Gets a line for people when the model changes, or cannot.
    every_s : float
        Seconds between looks.

    Raises
    ------
    DataError
        The store has no active model.
    ArtifactError
        Its file cannot be used.
    """

    def __init__(
        self,
        store: Store,
        *,
        fpr: float | None = None,
        fits: Callable[[Detector, Detector], None] | None = None,
        report: Callable[[str], None] | None = None,
        every_s: float = CHECK_S,
    ) -> None:
        self._store, self._fpr, self._every_s = store, fpr, every_s
        self._fits, self._report = fits or (lambda _, __: None), report or (lambda _: None)
        active = store.query(models.active)
        if active is None:
            raise DataError(
                f"store {store.url} has no active model to detect with; give --model FILE, "
                "or: deepidea models add FILE, then deepidea models activate ID"
            )
        self.model, self.detector = active, detector_of(store, active.model_id)
        self._seen = active.model_id
        self._next_look_s = time.monotonic() + every_s

    def newest(self) -> tuple[Detector, Thresholds | None] | None:
        """Return the detector that has been activated since the last call, with its thresholds; None where none has.

        One that cannot take over is reported once, and the one before goes on.
        """
        if time.monotonic() < self._next_look_s:
            return None
        self._next_look_s = time.monotonic() + self._every_s
        try:
            active = self._store.query(models.active)
            if active is None or active.model_id == self._seen:
                return None
            # Noted even if it cannot take over: it is reported once, not every three seconds.
            self._seen = active.model_id
            return self._taken(active)
        except StoreError:
            return None  # the engine itself waits for a store that is away; the next look comes soon
        except DeepIDEAError as error:
            self._report(f"going on with {_named(self.model)}: {self._seen} cannot take over: {error}")
            return None

    def _taken(self, active: StoredModel) -> tuple[Detector, Thresholds | None]:
        detector = detector_of(self._store, active.model_id)
        self._fits(self.detector, detector)
        thresholds = thresholds_of(detector, self._fpr)
        bare = CARD_ENTRY in self.detector.card and thresholds is None
        self.model, self.detector = active, detector
        warning = (
            "; it has no thresholds of your network, as the one before had: run deepidea calibrate" if bare else ""
        )
        self._report(f"detecting with {_named(active)} from here on{warning}")
        return detector, thresholds


def _named(model: StoredModel) -> str:
    return f"{model.name or model.model_id} (detector {model.model})"
