"""Findings: evidence of a behaviour over a time window, stored as JSON in the alert that completed it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["Finding", "behaviour_title", "finding_of"]


_ENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "source": ("src_ip",),
        "source_port": ("src_ip", "dst_port"),
        "pair": ("src_ip", "dst_ip"),
        "service": ("src_ip", "dst_ip", "dst_port"),
        "target": ("dst_ip",),
        "target_port": ("dst_ip", "dst_port"),
    }
)
"""Fields of a flow that name its window, by the window's key."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Evidence of a behaviour: what was counted over a time window, against which thresholds.

    Parameters
    ----------
    window_s
        Length of the window.
    key
        What the window watches: ``source``, ``source_port``, ``pair``, ``service``, ``target``, ``target_port``.
    counts, thresholds
        By measure; a measure without a threshold only describes. ``most_...`` is a threshold not to be exceeded.
    margin
        How many times the threshold was exceeded.
    technique
        Id in MITRE ATT&CK.
    direction
        From where to where, seen from the home networks: ``outside to inside``; ``inside`` where both ends are.
    """

    title: str
    window_s: float | None
    key: str | None
    counts: dict[str, float]
    thresholds: dict[str, float]
    margin: float | None
    technique: str | None
    direction: str | None

    @property
    def ends(self) -> tuple[str, ...]:
        """Fields of its flow that the whole window shares; the other ones are those of its last flow."""
        return _ENDS.get(self.key or "", _ENDS["service"])

    def names_peer(self, role: str) -> bool:
        """Return whether its window has one host at the other end of a source or target."""
        return ("dst_ip" if role == "source" else "src_ip") in self.ends

    @property
    def names_port(self) -> bool:
        """Whether its window has one destination port."""
        return "dst_port" in self.ends


def finding_of(text: str | None, behaviour: str | None) -> Finding | None:
    """Return the finding of an alert, None where a flow alone raised it; what its JSON lacks is None or empty.

    Examples
    --------
    >>> finding_of('{"window_s": 600, "key": "pair", "counts": {"ports": 42}}', "port_scan_vertical")
    Finding(title='Port scan vertical', window_s=600, key='pair', counts={'ports': 42}, thresholds={}, margin=None, \
technique=None, direction=None)
    """
    if behaviour is None:
        return None
    values = _object(text)
    return Finding(
        title=behaviour_title(_text(values.get("title")) or behaviour),
        window_s=_number(values.get("window_s")),
        key=_text(values.get("key")),
        counts=_numbers(values.get("counts")),
        thresholds=_numbers(values.get("thresholds")),
        margin=_number(values.get("margin")),
        technique=_text(values.get("technique")),
        direction=_text(values.get("direction")),
    )


def _object(text: str | None) -> Mapping[str, Any]:
    # Anybody may have written the store: one odd row must not end the page of all others.
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None  # type: ignore[return-value]


def _numbers(values: object) -> dict[str, float]:
    found = {name: _number(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if value is not None}


def behaviour_title(behaviour: str) -> str:
    """Return the name of a behaviour in words.

    Examples
    --------
    >>> behaviour_title("password_guessing")
    'Password guessing'
    """
    words = behaviour.replace("_", " ")
    return words[:1].upper() + words[1:]
