"""Logs of sensors as sources: Zeek's conn.log and Suricata's EVE, from files and folders that may still grow."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from deepidea.detection.sources.follow import Begins, follow_logs
from deepidea.detection.sources.positions import path_name
from deepidea.detection.sources.source import BATCH_FLOWS, FlowBatch, Position
from deepidea.flows.sensors.records import RecordParser
from deepidea.flows.sensors.suricata import EveParser
from deepidea.flows.sensors.zeek import ZeekParser

__all__ = ["PARSERS", "EveSource", "Sensor", "ZeekSource", "sensor_of"]

Sensor = Literal["zeek", "eve"]

PARSERS: dict[Sensor, Callable[[], RecordParser]] = {"zeek": ZeekParser, "eve": EveParser}
"""What reads the records of each sensor."""

_EVE_TYPE = re.compile(rb'"event_type"\s*:\s*"')
_ZEEK_KEY = re.compile(rb'"(id\.orig_h|_path)"\s*:')
_ZEEK_HEAD = re.compile(rb"^\s*#(separator|fields)\b", re.MULTILINE)
_TIMESTAMP = re.compile(rb'"timestamp"\s*:\s*"([^"]{1,40})"')


def sensor_of(beginning: bytes) -> Sensor | None:
    r"""Return whose records these are, by the first of them and the comments above; None where it is neither's.

    Examples
    --------
    >>> sensor_of(b'{"event_type":"dns"}\n'), sensor_of(b"#separator \\x09\n#fields\tts\n1\n"), sensor_of(b"a,b\n1,2\n")
    ('eve', 'zeek', None)
    """
    if _ZEEK_HEAD.search(beginning):
        return "zeek"
    if not beginning.lstrip().startswith(b"{"):
        return None
    if _EVE_TYPE.search(beginning):
        return "eve"
    return "zeek" if _ZEEK_KEY.search(beginning) else None


def zeek_begins(beginning: bytes) -> float | None:
    """Return when the first conversation of a conn.log ended, 0 where it cannot be read; None of any other file."""
    if sensor_of(beginning) != "zeek":
        return None
    parsed = ZeekParser().parse(beginning)
    if parsed.not_flows:
        return None
    # By the end, for conn.log is written when conversations end: its first record began before the log did.
    return parsed.flows["end"][0].timestamp() if parsed.flows.height else 0.0


def eve_begins(beginning: bytes) -> float | None:
    """Return when the first event of an EVE file was written, 0 where it has no time; None for any other file."""
    if sensor_of(beginning) != "eve":
        return None
    found = _TIMESTAMP.search(beginning)
    try:
        return datetime.fromisoformat(found[1].decode("ascii")).timestamp() if found else 0.0
    except (ValueError, OverflowError):
        return 0.0


BEGINNINGS: dict[Sensor, Begins] = {"zeek": zeek_begins, "eve": eve_begins}


class _LogSource:
    """Files of one kind of log; see `deepidea.detection.sources.follow` for what is read, in which order."""

    schema = "conn"
    replayable = True
    sensor: ClassVar[Sensor]

    def __init__(self, address: str | Path, *, follow: bool = False, batch_flows: int = BATCH_FLOWS) -> None:
        if batch_flows < 1:
            raise ValueError(f"batch_flows must be at least 1, got {batch_flows}")
        self.name = path_name(address)
        self._root = Path(address)
        self._follow, self._batch_flows = follow, batch_flows

    def batches(self, after: Position | None, stop: threading.Event) -> Iterator[FlowBatch]:
        """Yield batches: see :meth:`deepidea.detection.sources.source.Source.batches`."""
        # A parser a log: what its # lines say must not reach the records of another one.
        parsers: dict[str, RecordParser] = {}
        lines = follow_logs(
            self._root, BEGINNINGS[self.sensor], after, stop, follow=self._follow, most_lines=self._batch_flows
        )
        for block in lines:
            if block.log not in parsers:
                parsers[block.log] = PARSERS[self.sensor]()
            parsed = parsers[block.log].parse(block.data)
            yield FlowBatch(parsed.flows, block.position, parsed.skipped, block.dropped, not_flows=parsed.not_flows)


class ZeekSource(_LogSource):
    r"""Zeek's conn.log, or a folder of them.

    Parameters
    ----------
    address
        The log, with what it is rotated to; or a folder, of which every conn.log is read and nothing else.
    follow
        Whether to wait for more at the end.
    batch_flows
        Most flows of a batch.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "conn.log"
    >>> record = b'{"ts":1700000000.5,"id.orig_h":"10.0.0.1","id.resp_h":"10.0.0.2","proto":"udp","conn_state":"S0"}\n'
    >>> _ = path.write_bytes(3 * record)
    >>> [batch.flows.height for batch in ZeekSource(path, batch_flows=2).batches(None, threading.Event())]
    [2, 1]
    """

    sensor = "zeek"


class EveSource(_LogSource):
    r"""Suricata's EVE file, or a folder of them.

    Parameters
    ----------
    address
        The file, with what it is rotated to; or a folder, of which every EVE file is read and nothing else.
    follow
        Whether to wait for more at the end.
    batch_flows
        Most flows of a batch.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "eve.json"
    >>> _ = path.write_bytes(b'{"event_type":"dns"}\n')
    >>> [dict(batch.not_flows) for batch in EveSource(path).batches(None, threading.Event())]
    [{'dns': 1}]
    """

    sensor = "eve"
