"""A detection from its configuration to the last alert delivered: source, detector, store and sinks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deepidea.detection.alerting import Thresholds, thresholds_of
from deepidea.detection.allow import read_rules
from deepidea.detection.behaviour.findings import BehaviourDetector
from deepidea.detection.behaviour.registry import BEHAVIOURS, read_thresholds, with_thresholds
from deepidea.detection.behaviour.sites import HomeNetworks
from deepidea.detection.engine import Engine, Progress
from deepidea.detection.health import errors_of
from deepidea.detection.models import CHECK_S, ActiveDetector
from deepidea.detection.sinks.delivery import Delivery, DeliveryStatus
from deepidea.detection.sinks.registry import open_sinks
from deepidea.detection.sources.registry import open_source, source_of
from deepidea.detection.sources.source import Source
from deepidea.detection.starter import load_starter
from deepidea.errors import DataError, SchemaError, StoreError
from deepidea.flows.datasets.installed import data_home
from deepidea.flows.schema import Schema, get_schema
from deepidea.flows.tables import check_inputs
from deepidea.model.detector import Detector
from deepidea.packets.meter import DIALECTS
from deepidea.store import models, rules, sources
from deepidea.store.memory import rename_source
from deepidea.store.store import Store, open_store

DRAIN_S = 10.0  # for sinks to take what waits when detection ends


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """The engine's figures, the status of each sink at the end, and whether the run resumed an earlier one."""

    progress: Progress
    deliveries: tuple[DeliveryStatus, ...]
    resumed: bool


@dataclass(frozen=True, slots=True)
class DetectionConfig:
    """A detection: from which source, with which detector, into which store and sinks.

    Parameters
    ----------
    source : str
        Address of the source.
    model : path, optional
        Detector file; the active model of the store where absent, and the next one once it is activated. The starter
        detector where there is none.
    store : str
        URL of the store; :func:`default_store` where empty.
    sinks : sequence of str
        Addresses of sinks; the store has every alert without any.
    format : str, optional
        Of the alerts that sinks get, where their own is not wanted.
    fpr : float, optional
        False-alarm rate of the thresholds, see :func:`deepidea.detection.alerting.thresholds_of`.
    follow : bool
        Whether to wait for more at the end of a file.
    allow : path, optional
        File of allow rules; rules that an earlier run took from this file and that it no longer has are removed.
    dead_letters : path, optional
        Folder for alerts that a sink refuses; in the user's data folder where absent.
    source_options : mapping
        For the source's constructor.
    home : sequence of str
        Networks that are inside, in CIDR notation; private ones where empty, see
        :class:`deepidea.detection.behaviour.windows.BehaviourWindows`.
    thresholds : path, optional
        File of a site's thresholds of behaviours, see :func:`deepidea.detection.behaviour.registry.read_thresholds`.
    flow_alerts : bool
        Whether single flows raise alerts, too, and not findings of behaviours alone.
    """

    source: str
    model: Path | None = None
    store: str = ""
    sinks: Sequence[str] = ()
    format: str | None = None
    fpr: float | None = None
    follow: bool = False
    allow: Path | None = None
    dead_letters: Path | None = None
    source_options: Mapping[str, Any] = field(default_factory=dict)
    home: Sequence[str] = ()
    thresholds: Path | None = None
    flow_alerts: bool = False

    def open_source(self, detector: Detector) -> Source:
        """Return the source, as :func:`open_source_for` opens it."""
        return open_source_for(detector, self.source, follow=self.follow, **self.source_options)

    def find_behaviours(self) -> Callable[[], BehaviourDetector]:
        """Return what makes a detector of behaviours, with this site's networks and thresholds."""
        own = read_thresholds(self.thresholds) if self.thresholds is not None else {}
        home = HomeNetworks(tuple(self.home)) if self.home else None
        return partial(BehaviourDetector, with_thresholds(BEHAVIOURS, own), home)

    def open_deliveries(self, store: Store) -> list[Delivery]:
        """Return a delivery for each sink, not yet started."""
        letters = self.dead_letters or data_home().parent / "dead-letters"
        return [Delivery(store, sink, letters) for sink in open_sinks(self.sinks, format=self.format)]


def default_store() -> str:
    """Return the URL of the store in the user's data folder, or under ``$DEEPIDEA_HOME``."""
    folder = data_home()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'alerts.db'}"


def open_known_store(url: str = "") -> Store:
    """Open a store that exists, to read what a detection left in it.

    Raises
    ------
    StoreError
        There is none, or it cannot be opened.
    """
    url = url or default_store()
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise StoreError(f"cannot open store {url}: there is no file {path}; deepidea detect makes it")
    return open_store(url)


def open_source_for(detector: Detector, address: str, *, follow: bool = False, **options: Any) -> Source:
    """Return the source of an address; packets are metered in the dialect that the detector was trained on.

    Raises
    ------
    DataError
        The address stands for no source.
    """
    schema = source_of(address, follow=follow).schema
    if schema == "cicflow":
        options = {"dialect": dialect_of(detector), **options}
    elif schema == "any":
        options = {"schema": _schema_to_read(address, detector), **options}
    return open_source(address, follow=follow, **options)


def _schema_to_read(address: str, detector: Detector) -> Schema:
    """Return the schema to read a table in: without context and projection, which are added later."""
    own, context, _ = detector.schema.name.partition("+")
    if own != "conn" and not context:
        return detector.schema
    # Its own schema first; flows of CICFlowMeter's can be projected onto `conn` afterwards.
    for name in dict.fromkeys((own, "cicflow")):
        with contextlib.suppress(SchemaError):
            schema = get_schema(name)
            check_inputs([address], schema)
            return schema
    return get_schema(own)


def dialect_of(detector: Detector) -> str:
    """Return the dialect of the flows that a detector was trained on: :data:`deepidea.packets.meter.DIALECTS`."""
    data = detector.card.get("data")
    name = data.get("source") if isinstance(data, dict) else None
    return str(name) if name in DIALECTS else "corrected"


def run_detection(
    config: DetectionConfig,
    stop: threading.Event,
    *,
    detector: Detector | None = None,
    on_start: Callable[[Thresholds | None], None] | None = None,
    on_batch: Callable[[Progress, Sequence[Delivery]], None] | None = None,
    on_model: Callable[[str], None] | None = None,
    check_s: float = CHECK_S,
) -> DetectionResult:
    """Detect until the source ends or ``stop`` is set, and deliver what was found.

    Without a detector or a model, the active model of the store detects, and the next one between two batches after it
    is activated, if it reads flows as the one before did: one schema, and of packets one dialect. Where no model is
    active, the starter detector does. Each alert names the model that made it.

    Parameters
    ----------
    config : DetectionConfig
    stop : threading.Event
        Set from outside to end: what was read is stored, and what is stored is delivered for a while.
    detector : Detector, optional
        Loaded already; from ``config.model`` where absent.
    on_start : callable, optional
        Gets the thresholds of alerts, None where none are set.
    on_batch : callable, optional
        Called after each batch.
    on_model : callable, optional
        Gets a line for people: which active model detects, which one replaces it, or why it cannot.
    check_s : float
        Seconds between checks for a newly activated model.

    Raises
    ------
    DeepIDEAError
        Source, store or sinks that cannot be used; before anything is read, where that can be known.
    """
    report = on_model or (lambda _: None)
    if detector is None and config.model is not None:
        detector = Detector.load(config.model)
    elif detector is None and not _has_active_model(config.store):
        detector = load_starter()
        report("detecting with the starter detector; adapt it to your network: deepidea adapt BENIGN -o site.idea")
    if detector is not None:
        return _run(config, stop, detector, None, on_start, on_batch)
    with open_known_store(config.store) as store:
        fits = partial(refuse_other_reading, source_of(config.source, follow=config.follow).schema)
        active = ActiveDetector(store, fpr=config.fpr, fits=fits, report=report, every_s=check_s)
        report(f"detecting with the active model of {store.url}: {active.model.name} (detector {active.model.model})")
        return _run(config, stop, active.detector, active.newest, on_start, on_batch)


def _has_active_model(url: str) -> bool:
    """Return whether there is a store with an active model."""
    path = (url or default_store()).removeprefix("sqlite:///")
    if path != (url or default_store()) and not Path(path).exists():
        return False
    with open_known_store(url) as store:
        return store.query(models.active) is not None


def _run(
    config: DetectionConfig,
    stop: threading.Event,
    detector: Detector,
    newest: Callable[[], tuple[Detector, Thresholds | None] | None] | None,
    on_start: Callable[[Thresholds | None], None] | None,
    on_batch: Callable[[Progress, Sequence[Delivery]], None] | None,
) -> DetectionResult:
    thresholds = thresholds_of(detector, config.fpr)
    source = config.open_source(detector)
    behaviours = config.find_behaviours()
    open_sinks(config.sinks, format=config.format)  # an address that is wrong raises before there is a store
    with open_store(config.store or default_store()) as store:
        _take_rules(store, config.allow)
        deliveries = config.open_deliveries(store)
        engine = Engine(
            source,
            detector,
            store,
            thresholds=thresholds,
            on_batch=lambda progress: _after_batch(progress, deliveries, on_batch),
            name=config.model.name if config.model else "",
            sink_errors=lambda: errors_of([delivery.status() for delivery in deliveries]),
            newest=newest,
            behaviours=behaviours,
            flow_alerts=config.flow_alerts,
        )
        store.execute(rename_source, config.source, source.name)  # of an earlier release, or spelt differently
        # Asked before the run, whose first batch stores a position of its own.
        resumed = source.replayable and store.query(sources.position, source.name) is not None
        if on_start is not None:
            on_start(thresholds)
        with running(deliveries):
            progress = engine.run(stop)
        return DetectionResult(progress, tuple(delivery.status() for delivery in deliveries), resumed)


def refuse_other_reading(source_schema: str, old: Detector, new: Detector) -> None:
    """Raise :class:`~deepidea.errors.DataError` where a detector does not read a source as the one before it did."""
    # What is read of a source, and in which dialect, was settled when it was opened.
    apart = source_schema == "any" and old.schema.features != new.schema.features
    if apart or old.schema.name != new.schema.name:
        raise DataError(
            f"it reads schema {new.schema.name} with {len(new.schema.features)} features, and the running model "
            f"{old.schema.name} with {len(old.schema.features)}; restart detect"
        )
    if source_schema == "cicflow" and dialect_of(old) != dialect_of(new):
        raise DataError(
            f"it was trained on dialect {dialect_of(new)}, and packets are metered in {dialect_of(old)}; restart detect"
        )


def _take_rules(store: Store, path: Path | None) -> None:
    """Take allow rules from a file, and restore the alerts of rules that have ended."""
    if path is not None:
        store.execute(rules.sync, read_rules(path), origin=str(path))
    if store.query(rules.all_rules):
        store.execute(rules.apply)


def _after_batch(
    progress: Progress, deliveries: Sequence[Delivery], on_batch: Callable[[Progress, Sequence[Delivery]], None] | None
) -> None:
    for delivery in deliveries:
        # The alerts of this batch are in the store: a delivery that sleeps need not wait for its next look.
        delivery.wake()
    if on_batch is not None:
        on_batch(progress, deliveries)


@contextlib.contextmanager
def running(deliveries: Sequence[Delivery]) -> Iterator[None]:
    """Run deliveries; at the end each has :data:`DRAIN_S` for what waits."""
    for delivery in deliveries:
        delivery.start()
    try:
        yield
    finally:
        for delivery in deliveries:
            delivery.stop(DRAIN_S)
