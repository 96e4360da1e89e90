"""Where a value lies in the range of benign flows, as text and as a distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepidea.flows.column import Column
from deepidea.flows.labels import is_count, percent_text, value_text
from deepidea.model.reference import LEVELS, Words

_LEAST_SPREAD = 0.5  # of logarithms: without it, any value would be infinitely far from benign flows that are all alike
RARE = 0.01  # share of benign flows below which a word, or all beyond a value, is unusual


@dataclass(frozen=True, slots=True)
class RangePosition:
    """Position of a value relative to benign flows.

    Parameters
    ----------
    text : str
        The range of benign flows on the side where the value lies.
    beyond : float
        Distance outside the range of 98 % of benign flows, in units of their spread on a logarithmic scale; for a word,
        the powers of ten by which it is rarer than :data:`RARE`. 0 inside.
    surprise : float
        Information content in bits: minus log2 of the share of benign flows that are as far out, as finely as the
        quantiles resolve it; at least 1.
    """

    text: str
    beyond: float
    surprise: float = 1.0


NOT_KNOWN = RangePosition("", 0.0)
_MOST_SURPRISE = 8.0  # the outermost quantiles, 0.5 %, resolve no more


def locate_number(value: float | None, quantiles: tuple[float, ...], column: Column) -> RangePosition:
    """Return the position of a number among benign flows' quantiles.

    Examples
    --------
    >>> duration = Column("duration_us", "number", "us")
    >>> seconds = (0, 0, 0.01, 0.1, 0.5, 1, 2, 6, 12, 14, 30)
    >>> quantiles = tuple(1e6 * second for second in seconds)
    >>> locate_number(119e6, quantiles, duration).text
    '99 % of benign flows stay under 12 s, all of them under 30 s'
    >>> locate_number(1.5e6, quantiles, duration).text
    'half of benign flows lie between 500 ms and 2 s'
    """
    if not quantiles:
        return RangePosition("no benign flow has a value", 0.0)
    known = dict(zip(LEVELS, quantiles, strict=True))
    if value is None or math.isnan(value):
        return RangePosition(f"half of benign flows stay under {value_text(known[0.5], column)}", 0.0)
    return RangePosition(_range_text(value, known, column), _beyond(value, known), _surprise(value, known))


def _range_text(value: float, known: dict[float, float], column: Column) -> str:
    """Return the widest range of benign flows that the value lies outside of, else the range of half of them."""
    if column.kind == "flag":
        return _flag_text(bool(value), known)
    above = next((level for level in (0.99, 0.95, 0.75) if value > known[level]), None)
    below = next((level for level in (0.01, 0.05, 0.25) if value < known[level]), None)
    if above is not None:
        # The extreme is added only where it says more: no benign flow went as far, and it is not the level itself.
        text = _majority_text(above, known[above], known[0.0], "under", column)
        return text + (f", all of them {_bound('under', known[1.0], column)}" * (value > known[1.0] > known[above]))
    if below is not None:
        text = _majority_text(1 - below, known[below], known[1.0], "above", column)
        return text + (f", all of them {_bound('above', known[0.0], column)}" * (value < known[0.0] < known[below]))
    low, high = value_text(known[0.25], column), value_text(known[0.75], column)
    if low == high:
        return f"at least half of benign flows {_quantity(known[0.25], column)}"
    return f"half of benign flows lie between {low} and {high}"


def _flag_text(value: bool, known: dict[float, float]) -> str:
    """Return how many benign flows have the same flag, as finely as quantiles resolve it."""
    word, levels = ("yes" if value else "no"), LEVELS[1:-1]
    alike = [bool(known[level]) == value for level in (reversed(levels) if value else levels)]
    n_alike = sum(alike)
    if n_alike == len(levels):
        return f"{word} in nearly all benign flows"
    return f"{word} in less than {percent_text(levels[n_alike])} of benign flows"


def _majority_text(share: float, edge: float, extreme: float, side: str, column: Column) -> str:
    """Return the bound of most benign flows, or their one value."""
    of = f"{100 * share:.0f} % of benign flows"
    if edge == extreme:
        return f"{of} {_quantity(edge, column)}"
    return f"{of} {'have' if is_count(column) else 'stay'} {_bound(side, edge, column)}"


def _bound(side: str, edge: float, column: Column) -> str:
    if is_count(column):
        return f"{'at most' if side == 'under' else 'at least'} {value_text(edge, column)}"
    return f"{side} {value_text(edge, column)}"


def _quantity(value: float, column: Column) -> str:
    if is_count(column):
        return "have none" if value == 0 else f"have {value_text(value, column)}"
    return f"are at {value_text(value, column)}"


def _surprise(value: float, known: dict[float, float]) -> float:
    if not known[0.0] <= value <= known[1.0]:
        return _MOST_SURPRISE
    levels = LEVELS[1:-1]
    # Bits of surprise of lying so far out, as finely as the kept quantiles tell.
    above = min((1 - level for level in levels if value > known[level]), default=1.0)
    below = min((level for level in levels if value < known[level]), default=1.0)
    return max(-math.log2(min(above, below)), 1.0)


def _beyond(value: float, known: dict[float, float]) -> float:
    """Return the distance beyond the 98 % range, divided by that from the median to its end, both in logarithms."""
    # In logarithms, for sizes and times spread over orders of magnitude; of the sign as well, for some features go
    # below 0.
    low, middle, high, at = (_signed_log(x) for x in (known[0.01], known[0.5], known[0.99], value))
    if at > high:
        return (at - high) / max(high - middle, _LEAST_SPREAD)
    return (low - at) / max(middle - low, _LEAST_SPREAD) if at < low else 0.0


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(min(abs(value), 3e38)), value)  # 3e38: infinity is far, not infinitely far


def locate_word(word: str | None, words: Words) -> RangePosition:
    """Return the position of a word among benign flows' words.

    Examples
    --------
    >>> words = Words(("dns", "http", "ftp"), (0.7, 0.297, 0.003, 0.0))
    >>> [locate_word(word, words).text for word in ("http", "ftp", "irc")]
    ['seen in 30 % of benign flows', 'seen in 0.3 % of benign flows', 'never seen in benign flows']
    """
    share = words.share(word)
    if word is None:
        return RangePosition(f"missing in {percent_text(words.others)} of benign flows at most", 0.0)
    if share is None:
        rare = f"seen in less than {percent_text(words.others)} of benign flows"
        return RangePosition(rare if words.others else "never seen in benign flows", _rarity(0.0), _MOST_SURPRISE)
    surprise = min(max(-math.log2(max(share, 1e-6)), 1.0), _MOST_SURPRISE)
    return RangePosition(f"seen in {percent_text(share)} of benign flows", _rarity(share), surprise)


def _rarity(share: float) -> float:
    return max(math.log10(RARE / max(share, 1e-5)), 0.0)
