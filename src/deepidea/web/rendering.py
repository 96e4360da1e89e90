"""Renders templates: formats numbers and times, and escapes untrusted text."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2.filters import do_filesizeformat
from markupsafe import Markup, escape

from deepidea.evaluation.page import figures_script, plotly_script
from deepidea.flows.attack_classes import attack_class_of, technique_by_id
from deepidea.store.alert_columns import SEVERITIES
from deepidea.store.headline import NOTHING, duration

KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".ico": "image/x-icon",
    ".png": "image/png",
}
"""Media types of static files, by suffix."""

LONGEST_NAME = 2_000  # characters of a text from outside that a page shows


# --- text from outside -----------------------------------------------------------------------------------------------


def outside(text: object, most: int = LONGEST_NAME) -> Markup:
    r"""Return text from outside as HTML: escaped, isolated in its writing direction, control characters visible.

    Parameters
    ----------
    text
        Anything; None is a dash.
    most
        Characters shown; an ellipsis follows where there are more.

    Examples
    --------
    >>> outside("<b>"), outside("a\u202eb")
    (Markup('<bdi>&lt;b&gt;</bdi>'), Markup('<bdi>a<span class="ctl">U+202E</span>b</bdi>'))
    """
    if text is None:
        return Markup(NOTHING)
    shown = _cut(text, most)
    if not shown.isprintable():  # nearly all are, and a page has thousands
        control = Markup('<span class="ctl">U+{:04X}</span>')
        shown = Markup("").join(control.format(ord(c)) if _is_control(c) else escape(c) for c in shown)
    return Markup("<bdi>{}</bdi>").format(shown)


def plain(text: object, most: int = 200) -> str:
    r"""Return text from outside for an attribute or a title, control characters as ``[U+....]``.

    Examples
    --------
    >>> plain("a\u202eb")
    'a[U+202E]b'
    """
    return "".join(f"[U+{ord(c):04X}]" if _is_control(c) else c for c in _cut(text, most))


def _cut(text: object, most: int) -> str:
    shown = str(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _is_control(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


# --- numbers ---------------------------------------------------------------------------------------------------------


def number(value: float | None, decimals: int = 0) -> str:
    """Format a number with commas; a dash where there is none.

    Examples
    --------
    >>> number(1234567), number(None), number(3.14159, 2)
    ('1,234,567', '–', '3.14')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    return f"{value:,.{decimals}f}"


def short(value: float | None) -> str:
    """Format a number in few characters.

    Examples
    --------
    >>> [short(n) for n in (0.25, 7, 999, 12_345, 3_400_000, 2e9)]
    ['0.25', '7', '999', '12.3 k', '3.4 M', '2 G']
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = limit if sign != "k" else 1e3
            return f"{value / scale:.1f}".removesuffix(".0") + f" {sign}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2g}"


def share(value: float | None) -> str:
    """Format a share in percent: two figures of its distance to 0 % or 100 %.

    Examples
    --------
    >>> share(0.5), share(0.9987), share(0.00012), share(0.0), share(None)
    ('50 %', '99.87 %', '0.012 %', '0 %', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    distance = min(abs(value), abs(1 - value)) * 100
    decimals = 0 if distance <= 0 or distance >= 9.95 else min(4, max(1, math.ceil(-math.log10(distance)) + 1))
    return f"{100 * value:.{decimals}f} %"


def size(n_bytes: float | None) -> str:
    """Format bytes.

    Examples
    --------
    >>> size(999), size(1_500), size(2_000_000), size(None)
    ('999 B', '1.5 kB', '2.0 MB', '–')
    """
    return NOTHING if n_bytes is None else re.sub("Bytes?", "B", do_filesizeformat(n_bytes))


def _percent(value: float | None) -> str:
    """Return a share in whole percent, or more exactly where that would be 0 % or 100 %."""
    return f"{value:.0%}".replace("%", " %") if value is not None and 0.01 <= value < 0.995 else share(value)


def measured(value: float | None, measure: str) -> str:
    """Spell the value of a finding's measure; the words of its name give the unit.

    Examples
    --------
    >>> measured(993, "ports"), measured(0.95, "failed_share"), measured(75, "gap_s"), measured(2e6, "bytes_out")
    ('993', '95 %', '1 min 15 s', '2.0 MB')
    """
    if measure.endswith(("share", "spread", "same_size")):
        return _percent(value)
    if measure.endswith("_s"):
        return duration(value)
    return size(value) if "bytes" in measure.split("_") else short(value)


def words(name: str) -> str:
    """Return the name of a measure, or of a behaviour, in words, without its unit.

    Examples
    --------
    >>> words("failed_share"), words("median_gap_s"), words("same_size")
    ('failed', 'median gap', 'same size')
    """
    return re.sub(r"_(?:share|s)$", "", name).replace("_", " ")


def direction(ends: str) -> str:
    """Return the direction of a finding in words.

    Examples
    --------
    >>> direction("outside to inside"), direction("inside")
    ('outside to inside', 'inside the network')
    """
    return ends if " " in ends else f"{ends} the network"


def window_key(key: str) -> str:
    """Return what a window of a key watches, in words.

    Examples
    --------
    >>> window_key("source_port"), window_key("target")
    ('source and port', 'target')
    """
    return {
        "source_port": "source and port", "pair": "pair of hosts", "service": "source and service",
        "target_port": "port of a target",
    }.get(key, key)  # fmt: skip


def sentence(text: str) -> str:
    """Return a text that begins with a capital, the rest as it is.

    Examples
    --------
    >>> sentence("PSI of 3 features"), sentence("it is")
    ('PSI of 3 features', 'It is')
    """
    return text[:1].upper() + text[1:]


def plural(n: float, one: str, many: str = "") -> str:
    """Format a count with its noun.

    Examples
    --------
    >>> plural(1, "flow"), plural(2_000, "flow"), plural(3, "class", "classes")
    ('1 flow', '2,000 flows', '3 classes')
    """
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


# --- times -----------------------------------------------------------------------------------------------------------


def moment(when: datetime | None, form: str = "full") -> Markup:
    """Return a time as a ``time`` element, in UTC.

    Parameters
    ----------
    when
    form
        ``full``: date and time; ``clock``: the time alone; ``day``: the date alone.

    Examples
    --------
    >>> moment(datetime(2026, 5, 4, 12, tzinfo=UTC))
    Markup('<time datetime="2026-05-04T12:00:00Z" title="2026-05-04 12:00:00 UTC">2026-05-04 12:00:00</time>')
    """
    if when is None:
        return Markup(NOTHING)
    utc = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    shown = {"full": f"{utc:%Y-%m-%d %H:%M:%S}", "clock": f"{utc:%H:%M:%S}", "day": f"{utc:%Y-%m-%d}"}[form]
    return Markup('<time datetime="{:%Y-%m-%dT%H:%M:%SZ}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        utc, utc, shown
    )


def ago(when: datetime | None, now: datetime | None = None) -> Markup:
    """Return the age of a time, as a ``time`` element that the page keeps up to date.

    Examples
    --------
    >>> noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> ago(noon, noon.replace(minute=5)).striptags()
    '5 min ago'
    """
    if when is None:
        return Markup("never")
    gone = int(((now or datetime.now(UTC)) - when).total_seconds())
    form = '<time class="ago" datetime="{:%Y-%m-%dT%H:%M:%SZ}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>'
    utc = when.astimezone(UTC)
    return Markup(form).format(utc, utc, "now" if gone < 2 else f"{duration(gone, units=1)} ago")


# --- pieces ----------------------------------------------------------------------------------------------------------


def heat(value: float) -> str:
    """Return the CSS class of a heat map's cell for a share, 0..1, in six steps.

    Examples
    --------
    >>> [heat(value) for value in (0, 0.02, 0.4, 1)]
    ['h0', 'h1', 'h3', 'h5']
    """
    return "h0" if value <= 0 else f"h{min(5, 1 + int(value * 5))}"


def width(value: float | None) -> str:
    """Return a share, 0..1, as the width of an SVG bar.

    Examples
    --------
    >>> width(0.256), width(7), width(None)
    ('25.6%', '100%', '0%')
    """
    return f"{100 * min(1.0, max(0.0, value or 0.0)):.4g}%"


def query(values: Mapping[str, object], **changed: object) -> str:
    """Return a query string of what is set, with changes; empty without any.

    Examples
    --------
    >>> query({"q": "a b", "status": "open", "after": None}, status="closed", page=2)
    '?q=a+b&status=closed&page=2'
    >>> query({})
    ''
    """
    kept = {name: value for name, value in {**values, **changed}.items() if value not in (None, "")}
    return f"?{urlencode(kept)}" if kept else ""


# --- static files ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Return the files of the pages by name, each with a hash of its content."""
    own = {
        entry.name: entry.read_bytes()
        for entry in files("deepidea.web").joinpath("static").iterdir()
        if Path(entry.name).suffix in KINDS
    }
    all_files = {**own, "figures.js": figures_script().encode(), "plotly.min.js": plotly_script()}
    return {name: (data, hashlib.sha256(data).hexdigest()[:12]) for name, data in all_files.items()}


@lru_cache(maxsize=1)
def plotly_style_ids() -> tuple[str, ...]:
    """Return ids of style elements that plotly's script adds when it loads, unless the page has them already.

    They are for maps, which no page has, and the security policy forbids inline styles.
    """
    script = static_files()["plotly.min.js"][0].decode("utf-8", "replace")
    return tuple(re.findall(r'if\(!document\.getElementById\("([0-9a-f]{64})"\)\)', script))


def static(name: str) -> str:
    """Return the address of a static file; it contains a hash of its content, so that browsers can cache it."""
    return f"/static/{name}?v={static_files()[name][1]}"


# --- pages -----------------------------------------------------------------------------------------------------------

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("deepidea.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS: Sequence[Any] = (outside, plain, number, short, share, size, duration, moment, ago, heat, width, sentence,
                           measured, words, window_key, direction)  # fmt: skip
ENVIRONMENT.filters.update({entry.__name__: entry for entry in _FILTERS})
ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
ENVIRONMENT.globals.update(
    plotly_style_ids=plotly_style_ids,
    static=static,
    plural=plural,
    query=query,
    severities=SEVERITIES,
    attack_class_of=attack_class_of,
    technique_by_id=technique_by_id,
)


def render(request: Request, name: str, *, status_code: int = 200, **context: Any) -> HTMLResponse:
    """Return a template as a page; ``request`` and ``actor`` (None without a login) are in its context."""
    actor = getattr(request.state, "actor", None)
    text = ENVIRONMENT.get_template(name).render(request=request, actor=actor, **context)
    return HTMLResponse(text, status_code)
