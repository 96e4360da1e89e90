"""Records as JSON values and back: what detector files, result files and ``--json`` hold.

Records are dataclasses. msgspec writes them and checks what it reads against their annotations, so a file that somebody
else wrote gives an error that names the field, never an odd object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from deepidea.errors import DataError, DeepIDEAError

Checked = TypeVar("Checked")


def to_json_values(record: Any) -> Any:
    """Return a record as JSON values; arrays become lists.

    Examples
    --------
    >>> to_json_values({"counts": np.array([1, 2])})
    {'counts': [1, 2]}
    """
    return msgspec.to_builtins(record, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else str(value)


def from_json_values(
    values: Any, kind: type[Checked], what: str, advice: str, error: type[DeepIDEAError] = DataError
) -> Checked:
    """Return JSON values as a record.

    Parameters
    ----------
    values : object
        As read from a file that may be damaged.
    kind : type
        What they must be; any type that msgspec can check.
    what, advice : str
        For the error: what was read, and what to do about it.
    error : type
        Of the error.

    Raises
    ------
    DataError or `error`
        A field is missing, or holds what its annotation excludes.

    Examples
    --------
    >>> from_json_values({"low": 0, "high": 1}, dict[str, float], "an interval", "write it again")
    {'low': 0.0, 'high': 1.0}
    """
    try:
        # str_keys: JSON has no other keys, and records may have numbers there.
        return msgspec.convert(values, kind, str_keys=True)
    except msgspec.ValidationError as fault:
        raise error(f"cannot read {what}: {fault}; {advice}") from fault


def rounded(value: Any, digits: int = 6) -> Any:
    """Return JSON values with few significant digits; a number that is not finite becomes None.

    Examples
    --------
    >>> rounded({"a": [1 / 3, float("nan")]}, digits=3)
    {'a': [0.333, None]}
    """
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value.item() if isinstance(value, np.generic) else value
