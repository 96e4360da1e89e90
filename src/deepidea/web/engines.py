"""Detections that run in the server's process: one thread per source, stopped with the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deepidea.detection.engine import Progress
from deepidea.detection.flow_adapter import flow_adapter
from deepidea.detection.runner import DRAIN_S, DetectionConfig, run_detection
from deepidea.detection.sinks.delivery import Delivery
from deepidea.errors import DataError, DeepIDEAError
from deepidea.model.detector import Detector
from deepidea.store.store import Store

log = logging.getLogger("deepidea.web")
JOIN_S = 30.0


@dataclass(slots=True)
class Running:
    """A detection that was started.

    Parameters
    ----------
    source
        Name of the source in the store, without passwords.
    progress
        None before the first batch.
    ended, fault
        Whether it has ended, and its error; empty for a source that was read to its end.
    """

    source: str
    progress: Progress | None = None
    ended: bool = False
    fault: str = ""


@dataclass(slots=True)
class Engines:
    """The detections of a server, and the deliveries of their alerts to sinks.

    Parameters
    ----------
    running : list of Running
        One per source.
    """

    running: list[Running] = field(default_factory=list)
    _deliveries: list[Delivery] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, configs: Sequence[DetectionConfig], detector: Detector, store: Store) -> None:
        """Start detections; each in a thread of its own, all into one store and with one configuration but the source.

        Parameters
        ----------
        configs : sequence of DetectionConfig
            One a source. Without a model, each follows the active model of the store. Each sink is served once,
            whatever the number of sources.
        detector : Detector
            Shared by all of them.
        store : Store
            Open at what the configurations name.

        Raises
        ------
        DeepIDEAError
            A source, a sink, a threshold or a home network cannot be used, or two addresses are the same source;
            nothing has begun then.
        """
        names = [_name_of(config, detector) for config in configs]
        if len(set(names)) < len(names):
            raise DataError(f"sources must differ, got {', '.join(names)}; name each once")
        self._deliveries = configs[0].open_deliveries(store) if configs else []
        for delivery in self._deliveries:
            delivery.start()
        for config, name in zip(configs, names, strict=True):
            self.running.append(Running(name))
            arguments = (self.running[-1], replace(config, sinks=()), None if config.model is None else detector)
            self._threads.append(threading.Thread(target=self._detect, args=arguments, name=f"deepidea-{name}"))
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop all detections; wait until what they read is stored, and at most :data:`DRAIN_S` for deliveries."""
        self._stop.set()
        ends = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        for delivery in self._deliveries:
            delivery.stop(DRAIN_S)

    @property
    def faults(self) -> dict[str, str]:
        """Errors that ended detections, by source."""
        return {state.source: state.fault for state in self.running if state.fault}

    @property
    def sink_errors(self) -> dict[str, str]:
        """Last errors of the sinks that reject alerts now, by sink."""
        return dict(fault for delivery in self._deliveries if (fault := delivery.fault) is not None)

    def _detect(self, state: Running, config: DetectionConfig, detector: Detector | None) -> None:
        def note(progress: Progress, _: object) -> None:
            state.progress = progress
            for delivery in self._deliveries:
                delivery.wake()

        try:
            run_detection(config, self._stop, detector=detector, on_model=log.info, on_batch=note)
        except DeepIDEAError as error:
            state.fault = str(error)
            log.error("detection on %s ended: %s", state.source, error)
        except Exception as error:
            state.fault = f"internal error: {type(error).__name__}"
            log.exception("detection on %s ended", state.source)
        finally:
            state.ended = True


def _name_of(config: DetectionConfig, detector: Detector) -> str:
    """Return a source's name; an error where its flows are not what the detector reads, or its options mean nothing."""
    config.find_behaviours()
    source = config.open_source(detector)
    flow_adapter(source.schema, detector)
    return source.name
