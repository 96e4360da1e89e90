"""The standard output as a sink."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO

from deepidea.detection.sinks.sink import sink_errors


class StdoutSink:
    """The standard output: one line an alert."""

    def __init__(self, _address: str = "stdout", *, format: str = "eve", stream: IO[str] | None = None) -> None:
        self.name, self.format = "stdout", format
        self._stream = stream

    def send(self, lines: Sequence[str]) -> None:
        """Write and flush lines."""
        stream = self._stream or sys.stdout
        with sink_errors(self.name):
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()

    def close(self) -> None:
        """Do nothing: the process owns the stream."""
