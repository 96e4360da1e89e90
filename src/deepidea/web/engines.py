"""Detections that run in the server's own process: a thread a source, told to stop when the server does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from deepidea.detection.engine import Progress
from deepidea.detection.watch import Setting, watch
from deepidea.errors import DeepIDEAError
from deepidea.model.detector import Detector

log = logging.getLogger("deepidea.web")
JOIN_S = 30.0


@dataclass(slots=True)
class Running:
    """A detection that was started: of which source, how far it is, and what ended it."""

    source: str
    progress: Progress | None = None
    ended: bool = False
    fault: str = ""


@dataclass(slots=True)
class Engines:
    """The detections of a server.

    Parameters
    ----------
    running : list of Running
        One a source.
    """

    running: list[Running] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, sources: Sequence[str], detector: Detector, setting: Setting) -> None:
        """Begin to watch sources; each in a thread of its own, all into one store."""
        for source in sources:
            state = Running(source)
            arguments = (state, detector, setting)
            self.running.append(state)
            self._threads.append(threading.Thread(target=self._watch, args=arguments, name=f"deepidea-{source}"))
            self._threads[-1].start()

    def stop(self) -> None:
        """Tell all to end, and wait until what they read is stored."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)

    @property
    def faults(self) -> dict[str, str]:
        """What ended sources that should still be watched, by source."""
        return {state.source: state.fault for state in self.running if state.fault}

    def _watch(self, state: Running, detector: Detector, setting: Setting) -> None:
        def note(progress: Progress, _: object) -> None:
            state.progress = progress

        try:
            watch(state.source, detector, setting, self._stop, on_batch=note)
        except DeepIDEAError as error:
            state.fault = str(error)
            log.error("%s: %s", state.source, error)  # noqa: TRY400  # an error that says what to do needs no trace
        except Exception as error:
            state.fault = f"a fault of the program: {error}"
            log.exception("%s", state.source)
            raise
        finally:
            state.ended = True
