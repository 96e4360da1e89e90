"""Reading back the contracts of a detector file: plain JSON values that anybody may have written.

Every part of a detector has ``contract()``, its plain values, and ``from_contract``, which rebuilds it. Whatever fails
there on the way is an :class:`ArtifactError` that names the part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import polars as pl

from deepidea.errors import ArtifactError

_CAUSES = (KeyError, TypeError, ValueError, AttributeError, OverflowError, pl.exceptions.PolarsError)


@contextlib.contextmanager
def reading_contract(part: str) -> Iterator[None]:
    """Turn what a bad contract makes the block raise into an :class:`ArtifactError`.

    Examples
    --------
    >>> with reading_contract("decision"):
    ...     float({}["tau"])
    Traceback (most recent call last):
        ...
    deepidea.errors.ArtifactError: cannot read the decision contract of a detector file: KeyError('tau')
    """
    try:
        yield
    except ArtifactError:
        raise
    except _CAUSES as error:
        raise ArtifactError(f"cannot read the {part} contract of a detector file: {error!r}") from error


def require(holds: bool, part: str, rule: str, value: object) -> None:
    """Raise :class:`ArtifactError` where a rule on a part of a contract does not hold."""
    if not holds:
        raise ArtifactError(f"invalid {part} contract of a detector file: {rule}, got {str(value)[:80]}")
