"""Detection put together: a source, a detector, a store and sinks, from their addresses to the last alert delivered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deepidea.detection.alerting import Thresholds, thresholds_of
from deepidea.detection.allow import read_rules
from deepidea.detection.engine import Engine, Progress
from deepidea.detection.health import errors_of
from deepidea.detection.models import CHECK_S, ActiveDetector
from deepidea.detection.sinks.delivery import Delivery, DeliveryStatus
from deepidea.detection.sinks.registry import open_sink
from deepidea.detection.sources.registry import open_source, source_of
from deepidea.detection.sources.source import Source
from deepidea.detection.sources.tables import fits
from deepidea.detection.store import Store, open_store
from deepidea.errors import DataError, SchemaError, StoreError
from deepidea.flows.datasets.installed import data_home
from deepidea.flows.schema import Schema, get_schema
from deepidea.model.detector import Detector
from deepidea.packets.meter import DIALECTS

DRAIN_S = 10.0  # for sinks to take what is left when detection ends


@dataclass(frozen=True, slots=True)
class Watched:
    """What a detection did: the engine's figures, how each sink stands at its end, and whether it had begun before."""

    progress: Progress
    deliveries: tuple[DeliveryStatus, ...]
    resumed: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """How to detect, beside from where and with which detector.

    Parameters
    ----------
    store : str
        URL of the store; :func:`default_store` where empty.
    sinks : sequence of str
        Addresses of sinks; the store has every alert without any.
    format : str, optional
        Of the alerts that sinks get, where their own is not wanted.
    fpr : float, optional
        Rate of false alarms to alert at, see :func:`deepidea.detection.alerting.thresholds_of`.
    follow : bool
        Whether to wait for more at the end of a file.
    allow : path, optional
        File of allow rules; those of the file that an earlier run took, and that are gone from it, are removed.
    dead_letters : path, optional
        Folder for alerts that a sink would not take; beside the store's folder where absent.
    source_options : mapping
        For the source's constructor.
    detector_name : str
        What the detector is called, for people.
    """

    store: str = ""
    sinks: Sequence[str] = ()
    format: str | None = None
    fpr: float | None = None
    follow: bool = False
    allow: Path | None = None
    dead_letters: Path | None = None
    source_options: dict[str, Any] = field(default_factory=dict)
    detector_name: str = ""


def default_store() -> str:
    """Return the URL of the store in the user's data folder, or under ``$DEEPIDEA_HOME``."""
    folder = data_home()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'alerts.db'}"


def open_known_store(url: str = "") -> Store:
    """Open a store that is there already, to read what a detection left in it.

    Raises
    ------
    StoreError
        There is none, or it cannot be opened.
    """
    url = url or default_store()
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        raise StoreError(f"there must be a store to read, however: no file {path}; deepidea detect makes it")
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
    """Return the schema to read a table in: without what is added to it later, context or projection."""
    own, context, _ = detector.schema.name.partition("+")
    if own != "conn" and not context:
        return detector.schema
    for name in dict.fromkeys((own, "cicflow")):
        with contextlib.suppress(SchemaError):
            return fits(address, get_schema(name))
    return get_schema(own)


def dialect_of(detector: Detector) -> str:
    """Return whose mistakes the tables held that a detector was trained on: :data:`deepidea.packets.meter.DIALECTS`."""
    data = detector.card.get("data")
    name = data.get("source") if isinstance(data, dict) else None
    return str(name) if name in DIALECTS else "corrected"


def watch(
    address: str,
    detector: Detector,
    setting: Setting,
    stop: threading.Event,
    *,
    on_start: Callable[[Thresholds | None], None] | None = None,
    on_batch: Callable[[Progress, Sequence[Delivery]], None] | None = None,
    newest: Callable[[], tuple[Detector, Thresholds | None] | None] | None = None,
) -> Watched:
    """Detect until the source ends or ``stop`` is set, and deliver what was found.

    Parameters
    ----------
    address : str
        Of the source.
    detector : Detector
    setting : Setting
    stop : threading.Event
        Set from outside to end: what was read is stored, and what is stored is delivered for a while.
    on_start : callable, optional
        Gets the thresholds that alerts go by, None where nobody set any.
    on_batch : callable, optional
        Called after each batch.
    newest : callable, optional
        Asked before each batch for a detector that is to take over, see :class:`deepidea.detection.engine.Engine`.

    Raises
    ------
    DeepIDEAError
        Source, store or sinks that cannot be used; before anything is read, where that can be told.
    """
    thresholds = thresholds_of(detector, setting.fpr)
    source = open_source_for(detector, address, follow=setting.follow, **setting.source_options)
    sinks = [open_sink(sink, format=setting.format) for sink in setting.sinks]
    letters = setting.dead_letters or data_home() / "dead-letters"
    with open_store(setting.store or default_store()) as store:
        _take_rules(store, setting.allow)
        deliveries = [Delivery(store, sink, letters) for sink in sinks]
        engine = Engine(
            source,
            detector,
            store,
            thresholds=thresholds,
            on_batch=lambda progress: _told(progress, deliveries, on_batch),
            name=setting.detector_name,
            sink_errors=lambda: errors_of([delivery.status() for delivery in deliveries]),
            newest=newest,
        )
        resumed = source.replayable and store.position(source.name) is not None
        if on_start is not None:
            on_start(thresholds)
        with _running(deliveries):
            progress = engine.run(stop)
        return Watched(progress, tuple(delivery.status() for delivery in deliveries), resumed)


def watch_active(
    address: str,
    setting: Setting,
    stop: threading.Event,
    *,
    on_news: Callable[[str], None] | None = None,
    check_s: float = CHECK_S,
    **callbacks: Any,
) -> Watched:
    """Detect as :func:`watch` does with the active model of the store, and with the next one once it is activated.

    Another model takes over between two batches, where it reads flows as the one before did: one schema, and of packets
    one dialect. Each alert names the model that made it.

    Parameters
    ----------
    address, setting, stop
        As of :func:`watch`.
    on_news : callable, optional
        Gets a line for people: which model detects, which one takes over, or why it cannot.
    check_s : float
        Seconds between looks at what is active.
    **callbacks
        ``on_start`` and ``on_batch`` of :func:`watch`.

    Raises
    ------
    DataError
        The store has no active model.
    DeepIDEAError
        As of :func:`watch`.
    """
    tell = on_news or (lambda _: None)
    schema = source_of(address, follow=setting.follow).schema
    with open_known_store(setting.store) as store:
        fits = partial(refuse_other_reading, schema)
        active = ActiveDetector(store, fpr=setting.fpr, fits=fits, tell=tell, every_s=check_s)
        tell(f"detecting with the active model of {store.url}: {active.model.name} (detector {active.model.model})")
        return watch(address, active.detector, setting, stop, newest=active.newest, **callbacks)


def refuse_other_reading(source_schema: str, old: Detector, new: Detector) -> None:
    """Raise :class:`~deepidea.errors.DataError` where a detector does not read a source as the one before it did."""
    apart = old.schema.features != new.schema.features if source_schema == "any" else False
    if apart or old.schema.name != new.schema.name:
        raise DataError(
            f"a model must read the flows of the one before, of schema {old.schema.name}, however: it reads "
            f"{new.schema.name} with {len(new.schema.features)} features; start detect anew"
        )
    if source_schema == "cicflow" and dialect_of(old) != dialect_of(new):
        raise DataError(
            f"packets are metered in one dialect, {dialect_of(old)}, however: the model was trained on "
            f"{dialect_of(new)}; start detect anew"
        )


def _take_rules(store: Store, path: Path | None) -> None:
    """Take allow rules out of a file, and let go what rules that have ended kept quiet."""
    if path is not None:
        store.sync_rules(read_rules(path), origin=str(path))
    if store.rules():
        store.apply_to_store()


def _told(
    progress: Progress,
    deliveries: Sequence[Delivery],
    on_batch: Callable[[Progress, Sequence[Delivery]], None] | None,
) -> None:
    for delivery in deliveries:
        delivery.wake()
    if on_batch is not None:
        on_batch(progress, deliveries)


@contextlib.contextmanager
def _running(deliveries: Sequence[Delivery]) -> Iterator[None]:
    """Run deliveries; at the end each gets a while for what is left."""
    for delivery in deliveries:
        delivery.start()
    try:
        yield
    finally:
        for delivery in deliveries:
            delivery.stop(DRAIN_S)
