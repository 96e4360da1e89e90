"""Where a value lies among those of benign flows, in words and as a distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepidea.flows.column import Column
from deepidea.flows.labels import is_count, percent_text, value_text
from deepidea.model.reference import LEVELS, Words

_LEAST_SPREAD = 0.5  # of logarithms: where benign flows are all alike, any other value would be infinitely far
RARE = 0.01  # share of benign flows below which a word, or what lies beyond a value, is out of the ordinary


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies among those of benign flows.

    Parameters
    ----------
    text : str
        The range of benign flows on the side where the value lies.
    beyond : float
        How far it lies outside of what 98 % of benign flows keep to, in their own spread on a logarithmic scale; of a
        word, the powers of ten by which it is rarer than :data:`RARE`. 0 inside.
    surprise : float
        Bits that it tells to someone who knows benign flows alone: minus the binary logarithm of the share of benign
        flows that are as far out, as finely as quantiles have it; at least 1.
    """

    text: str
    beyond: float
    surprise: float = 1.0


NOT_KNOWN = Place("", 0.0)
_MOST_SURPRISE = 8.0  # quantiles of benign flows tell no more


def place_number(value: float | None, quantiles: tuple[float, ...], column: Column) -> Place:
    """Tell where a number lies.

    Examples
    --------
    >>> duration = Column("duration_us", "number", "us")
    >>> seconds = (0, 0, 0.01, 0.1, 0.5, 1, 2, 6, 12, 14, 30)
    >>> quantiles = tuple(1e6 * second for second in seconds)
    >>> place_number(119e6, quantiles, duration).text
    '99 % of benign flows stay under 12 s, all of them under 30 s'
    >>> place_number(1.5e6, quantiles, duration).text
    'half of benign flows lie between 500 ms and 2 s'
    """
    if not quantiles:
        return Place("no benign flow has a value", 0.0)
    known = dict(zip(LEVELS, quantiles, strict=True))
    if value is None or math.isnan(value):
        return Place(f"half of benign flows stay under {value_text(known[0.5], column)}", 0.0)
    return Place(_range_text(value, known, column), _beyond(value, known), _surprise(value, known))


def _range_text(value: float, known: dict[float, float], column: Column) -> str:
    """Say what is left by the value: the widest range of benign flows that it lies outside of, else where half are."""
    if column.kind == "flag":
        return _flag_text(bool(value), known)
    above = next((level for level in (0.99, 0.95, 0.75) if value > known[level]), None)
    below = next((level for level in (0.01, 0.05, 0.25) if value < known[level]), None)
    if above is not None:
        told = _most_keep_to(above, known[above], known[0.0], "under", column)
        return told + (f", all of them {_bound('under', known[1.0], column)}" * (value > known[1.0] > known[above]))
    if below is not None:
        told = _most_keep_to(1 - below, known[below], known[1.0], "above", column)
        return told + (f", all of them {_bound('above', known[0.0], column)}" * (value < known[0.0] < known[below]))
    low, high = value_text(known[0.25], column), value_text(known[0.75], column)
    if low == high:
        return f"at least half of benign flows {_quantity(known[0.25], column)}"
    return f"half of benign flows lie between {low} and {high}"


def _flag_text(value: bool, known: dict[float, float]) -> str:
    """Say how many benign flows have the same, as far as quantiles tell."""
    word, levels = ("yes" if value else "no"), LEVELS[1:-1]
    alike = [bool(known[level]) == value for level in (reversed(levels) if value else levels)]
    n_alike = sum(alike)
    if n_alike == len(levels):
        return f"{word} in nearly all benign flows"
    return f"{word} in less than {percent_text(levels[n_alike])} of benign flows"


def _most_keep_to(share: float, edge: float, extreme: float, side: str, column: Column) -> str:
    """Say what most benign flows keep to; where that is one value, say which."""
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
    above = min((1 - level for level in levels if value > known[level]), default=1.0)
    below = min((level for level in levels if value < known[level]), default=1.0)
    return max(-math.log2(min(above, below)), 1.0)


def _beyond(value: float, known: dict[float, float]) -> float:
    """Return the distance from what 98 % keep to over that from the median to there, both of logarithms."""
    low, middle, high, at = (_signed_log(x) for x in (known[0.01], known[0.5], known[0.99], value))
    if at > high:
        return (at - high) / max(high - middle, _LEAST_SPREAD)
    return (low - at) / max(middle - low, _LEAST_SPREAD) if at < low else 0.0


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(min(abs(value), 3e38)), value)  # 3e38: infinity is far, not infinitely far


def place_word(word: str | None, words: Words) -> Place:
    """Tell how usual a word is.

    Examples
    --------
    >>> words = Words(("dns", "http", "ftp"), (0.7, 0.297, 0.003, 0.0))
    >>> [place_word(word, words).text for word in ("http", "ftp", "irc")]
    ['seen in 30 % of benign flows', 'seen in 0.3 % of benign flows', 'never seen in benign flows']
    """
    share = words.share(word)
    if word is None:
        return Place(f"missing in {percent_text(words.others)} of benign flows at most", 0.0)
    if share is None:
        rare = f"seen in less than {percent_text(words.others)} of benign flows"
        return Place(rare if words.others else "never seen in benign flows", _rarity(0.0), _MOST_SURPRISE)
    surprise = min(max(-math.log2(max(share, 1e-6)), 1.0), _MOST_SURPRISE)
    return Place(f"seen in {percent_text(share)} of benign flows", _rarity(share), surprise)


def _rarity(share: float) -> float:
    return max(math.log10(RARE / max(share, 1e-5)), 0.0)
