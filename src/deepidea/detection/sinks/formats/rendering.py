"""Every format of alerts by name; one line of text an alert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import polars as pl

from deepidea.detection.sinks.formats.alert_fields import Alert
from deepidea.detection.sinks.formats.cef import to_cef
from deepidea.detection.sinks.formats.ecs import to_ecs
from deepidea.detection.sinks.formats.eve import to_eve
from deepidea.detection.sinks.formats.ocsf import to_ocsf
from deepidea.errors import DataError

__all__ = ["FORMATS", "Format", "TextFormat", "render", "require_format"]

Format = Literal["eve", "ecs", "ocsf", "cef"]


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format: makes one line of text of one alert.

    Parameters
    ----------
    to_text
        Takes a row of an alert table without ``features``, with ``duration_ns``, and with its times as below.
    times
        How times are written, as ``strftime`` has it; milliseconds since 1970 where absent.
    """

    to_text: Callable[[Alert], str]
    times: str | None = None


FORMATS: Mapping[str, TextFormat] = MappingProxyType(
    {
        "eve": TextFormat(to_eve, "%Y-%m-%dT%H:%M:%S%.6f%z"),
        "ecs": TextFormat(to_ecs, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        "ocsf": TextFormat(to_ocsf),
        "cef": TextFormat(to_cef),
    }
)
"""Formats by name."""


def require_format(name: str) -> str:
    """Return the name of a format, or raise :class:`~deepidea.errors.DataError` where there is none of that name."""
    if name not in FORMATS:
        raise DataError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return name


def render(alerts: pl.DataFrame, format: Format | str = "eve") -> list[str]:
    """Return one line of text for each alert, without a line break.

    Parameters
    ----------
    alerts
        Alert table (:data:`deepidea.detection.alerts.ALERT_COLUMNS`); other columns do not matter.
    format
        Name in :data:`FORMATS`.

    Raises
    ------
    DataError
        No format has that name.

    Notes
    -----
    About 25 us an alert.

    Examples
    --------
    >>> import json
    >>> from deepidea.detection.alerts import make_alerts
    >>> verdicts = pl.DataFrame({"class": ["port_scan"], "score": [0.99]})
    >>> alerts = make_alerts(pl.DataFrame({"src_ip": ["192.0.2.7"]}), verdicts, pl.Series([True]), model="ab12")
    >>> json.loads(render(alerts, "eve")[0])["alert"]["category"]
    'Detection of a Network Scan'
    """
    made = FORMATS[require_format(format)]
    times = pl.col("time", "start", "end")
    written = times.dt.timestamp("ms") if made.times is None else times.dt.strftime(made.times)
    duration = (pl.col("end") - pl.col("start")).dt.total_nanoseconds().clip(lower_bound=0)
    # Times are written column by column, by polars: strftime for each row takes longer than the rest.
    rows = alerts.drop("features", strict=False).with_columns(written, duration_ns=duration).iter_rows(named=True)
    return [made.to_text(row) for row in rows]
