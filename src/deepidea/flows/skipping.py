"""What is counted when a row that breaks a rule is left out instead of ending the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from deepidea.errors import CellError

__all__ = ["OnError", "SkipCount", "skip_or_raise", "shown"]

OnError = Literal["raise", "skip"]
EXAMPLES = 5
LONGEST_SHOWN = 60


@dataclass(slots=True)
class SkipCount:
    """Rows that were left out, and why.

    Attributes
    ----------
    total
        Rows in all.
    reasons
        Rows by reason, such as ``"fwd_bytes is not a number"``.
    examples
        What was wrong with the first few, as an error would have said it.

    Examples
    --------
    >>> skipped = SkipCount()
    >>> skipped.add("too few cells", 2, "line 7 has 3 cells")
    >>> print(skipped)
    2 rows skipped: 2 x too few cells
    >>> bool(skipped)
    True
    """

    total: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, rows: int, example: str) -> None:
        """Count rows left out for one reason, with one of them as an example."""
        self.total += rows
        self.reasons[reason] += rows
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def __bool__(self) -> bool:
        return self.total > 0

    def __str__(self) -> str:
        listed = "; ".join(f"{rows} x {reason}" for reason, rows in self.reasons.most_common())
        noun = "row" if self.total == 1 else "rows"
        return f"{self.total} {noun} skipped" + (f": {listed}" if listed else "")


def skip_or_raise(reason: str, rows: int, told: str, skipped: SkipCount | None) -> None:
    """Count rows that break a rule; where nobody counts, raise.

    Raises
    ------
    CellError
        `skipped` is None.

    Examples
    --------
    >>> skip_or_raise("too few cells", 1, "line 7 has 3 cells", None)
    Traceback (most recent call last):
        ...
    deepidea.errors.CellError: line 7 has 3 cells; correct it, or score with --on-error skip, which counts such rows
    """
    if skipped is None:
        raise CellError(f"{told}; correct it, or score with --on-error skip, which counts such rows")
    skipped.add(reason, rows, told)


def shown(value: str) -> str:
    r"""Return a value from outside as it may be shown: short, quoted, control characters escaped.

    Examples
    --------
    >>> shown("\x1b[2J" + 100 * "a")
    "'\\x1b[2Jaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'..."
    """
    return ascii(value) if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]!a}..."
