"""Detections that run in the server's own process: a thread a source, told to stop when the server does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from deepidea.detection.engine import Progress, flow_adapter
from deepidea.detection.runner import DRAIN_S, Setting, open_source_for, watch, watch_active
from deepidea.detection.sinks.delivery import Delivery
from deepidea.detection.sinks.registry import open_sink
from deepidea.detection.store import Store
from deepidea.errors import DataError, DeepIDEAError
from deepidea.flows.datasets.installed import data_home
from deepidea.model.detector import Detector

log = logging.getLogger("deepidea.web")
JOIN_S = 30.0


@dataclass(slots=True)
class Running:
    """A detection that was started.

    Parameters
    ----------
    source
        Name of the source in the store: no password is in it.
    progress
        How far it is; None before its first batch.
    ended, fault
        Whether it works no more, and what ended it; a source that has come to its end has no fault.
    """

    source: str
    progress: Progress | None = None
    ended: bool = False
    fault: str = ""


@dataclass(slots=True)
class Engines:
    """The detections of a server, and the deliveries to sinks of what they find.

    Parameters
    ----------
    running : list of Running
        One a source.
    """

    running: list[Running] = field(default_factory=list)
    _deliveries: list[Delivery] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(
        self,
        addresses: Sequence[str],
        detector: Detector,
        setting: Setting,
        store: Store,
        *,
        follows_active: bool = False,
    ) -> None:
        """Begin to watch sources; each in a thread of its own, all into one store.

        Parameters
        ----------
        addresses : sequence of str
            Of the sources.
        detector : Detector
            Shared by all of them.
        setting : Setting
            Each sink is served once, whatever the number of sources.
        store : Store
            Open at what ``setting.store`` names.
        follows_active : bool
            Whether the detector is the active model of the store, and the next one takes over when it is activated.

        Raises
        ------
        DeepIDEAError
            A source or a sink cannot be used, or two addresses are the same source; nothing has begun then.
        """
        names = [_name_of(address, detector, setting) for address in addresses]
        if len(set(names)) < len(names):
            raise DataError(f"sources must differ, however: they are {', '.join(names)}; name each once")
        letters = setting.dead_letters or data_home() / "dead-letters"
        self._deliveries = [Delivery(store, open_sink(sink, format=setting.format), letters) for sink in setting.sinks]
        for delivery in self._deliveries:
            delivery.start()
        for address, name in zip(addresses, names, strict=True):
            self.running.append(Running(name))
            used = None if follows_active else detector
            arguments = (self.running[-1], address, used, replace(setting, sinks=()))
            self._threads.append(threading.Thread(target=self._watch, args=arguments, name=f"deepidea-{name}"))
            self._threads[-1].start()

    def stop(self) -> None:
        """Tell all to end, and wait until what they read is stored, and for a while until it is delivered."""
        self._stop.set()
        ends = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        for delivery in self._deliveries:
            delivery.stop(DRAIN_S)

    @property
    def faults(self) -> dict[str, str]:
        """What ended sources that should still be watched, by source."""
        return {state.source: state.fault for state in self.running if state.fault}

    def _watch(self, state: Running, address: str, detector: Detector | None, setting: Setting) -> None:
        def note(progress: Progress, _: object) -> None:
            state.progress = progress
            for delivery in self._deliveries:
                delivery.wake()

        try:
            if detector is None:
                watch_active(address, setting, self._stop, on_news=log.info, on_batch=note)
            else:
                watch(address, detector, setting, self._stop, on_batch=note)
        except DeepIDEAError as error:
            state.fault = str(error)
            log.error("%s is not watched any more: %s", state.source, error)
        except Exception as error:
            state.fault = f"a fault of the program: {type(error).__name__}"
            log.exception("%s is not watched any more", state.source)
        finally:
            state.ended = True


def _name_of(address: str, detector: Detector, setting: Setting) -> str:
    """Return a source's name, once it is sure that its flows are what the detector reads."""
    source = open_source_for(detector, address, follow=setting.follow, **setting.source_options)
    flow_adapter(source.schema, detector)
    return source.name
