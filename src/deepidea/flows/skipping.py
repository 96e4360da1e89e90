"""Skip rows that break a rule, and count them by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from deepidea.errors import CellError

__all__ = ["OnError", "SkipCount", "quoted", "skip_or_raise"]

OnError = Literal["raise", "skip"]
EXAMPLES = 5
LONGEST_QUOTED = 60


@dataclass(slots=True)
class SkipCount:
    """Rows that were skipped, and why.

    Attributes
    ----------
    total
        Rows in all.
    reasons
        Rows by reason, such as ``"fwd_bytes is not a number"``.
    examples
        Messages of the first few, as an error would have worded them.

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
        """Count rows skipped for one reason, with the message of one of them."""
        self.total += rows
        self.reasons[reason] += rows
        # Bounded: a file of nothing but bad rows must not fill the memory with their messages.
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def __bool__(self) -> bool:
        return self.total > 0

    def __str__(self) -> str:
        listed = "; ".join(f"{rows} x {reason}" for reason, rows in self.reasons.most_common())
        noun = "row" if self.total == 1 else "rows"
        return f"{self.total} {noun} skipped" + (f": {listed}" if listed else "")


def skip_or_raise(reason: str, rows: int, message: str, skipped: SkipCount | None) -> None:
    """Count rows that break a rule; without a count, raise an error with the message.

    Raises
    ------
    CellError
        `skipped` is None.

    Examples
    --------
    >>> skip_or_raise("too few cells", 1, "line 7 has 3 cells", None)
    Traceback (most recent call last):
        ...
    deepidea.errors.CellError: line 7 has 3 cells; fix it, or pass --on-error skip to skip and count such rows
    """
    if skipped is None:
        raise CellError(f"{message}; fix it, or pass --on-error skip to skip and count such rows")
    skipped.add(reason, rows, message)


def quoted(value: str) -> str:
    r"""Return untrusted text for a message: quoted, short, control characters escaped.

    Examples
    --------
    >>> quoted("\x1b[2J" + 100 * "a")
    "'\\x1b[2Jaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'..."
    """
    return ascii(value) if len(value) <= LONGEST_QUOTED else f"{value[:LONGEST_QUOTED]!a}..."
