"""What the project's HTML pages share: one look, numbers spelt one way, plots that follow the theme, and no requests.

A page carries its own plotting script and forbids every request by its content security policy, which also names the
hashes of its two scripts: a class name that tries to be a script is text. The tables need no JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepidea.errors import MissingExtraError
from deepidea.evaluation.metrics import Interval
from deepidea.flows.atomic import replacing

Figure = dict[str, Any]
Cells = Sequence[str]


def write_page(text: str, path: str | Path) -> None:
    """Write a page whole or not at all; :class:`StorageError` where it cannot be written."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))


def render_page(title: str, body: str, figures: Mapping[str, Figure], *, style: str = "") -> str:
    """Return a whole page.

    Parameters
    ----------
    title : str
        Of the browser's tab; plain text.
    body : str
        HTML.
    figures : mapping of key to plotly figure
        Drawn where :func:`figure` left room. A colour "@name" is looked up in the page's style.
    style : str
        Rules beside those that all pages share.

    Raises
    ------
    MissingExtraError
        plotly is not installed.
    """
    plotly = _plotly_script()
    return _PAGE.format(
        policy=policy(plotly, _SCRIPT),
        title=html.escape(title),
        style=_STYLE + style,
        body=body,
        figures=_json_in_script(figures),
        plotly=plotly,
        script=_SCRIPT,
    )


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(
            "a report needs plotly, however: it is not installed; run: pip install 'deepidea[train]'"
        ) from error
    return str(get_plotlyjs()).replace("\r", "").replace("</script", "<\\/script")


def policy(*scripts: str) -> str:
    """Return a content security policy that lets these scripts run and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json_in_script(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- numbers and names as a reader wants them ---------------------------------------------------------------------


def isolated(text: object) -> str:
    """Return a name from outside as HTML text that cannot turn what stands around it."""
    return f"<bdi>{html.escape(str(text))}</bdi>"


def _decimals(share: float) -> int:
    """Return decimals of a percentage that keep two figures of the distance to 0 % or 100 %."""
    distance = min(share, 1 - share) * 100
    return 0 if distance <= 0 else min(4, max(1, math.ceil(-math.log10(distance)) + 1))


def percent(share: float | None) -> str:
    """Spell a share in percent, with more decimals the nearer it is to 0 or 1; a dash where there is none."""
    return "–" if share is None else f"{share * 100:.{_decimals(share)}f} %"


def span(interval: Interval | None) -> str:
    """Spell an interval; both ends get the decimals of the finer one."""
    if interval is None:
        return ""
    digits = max(_decimals(interval.low), _decimals(interval.high))
    low, high = (f"{end * 100:.{0 if end in (0, 1) else digits}f}" for end in (interval.low, interval.high))
    return f"{low} – {high} %"


def fixed(value: float | None) -> str:
    """Spell a number with four decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"


def thousands(number: int) -> str:
    """Spell a count with commas."""
    return f"{number:,}"


def rounded(number: float) -> str:
    """Spell a number above 1 with two figures or so: 3.4, 47, 1,200."""
    if number < 10:
        return f"{number:.1f}".removesuffix(".0")
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return thousands(round(number / step) * step)


# --- pieces of a page ---------------------------------------------------------------------------------------------


def section(title: str, content: str, note: str = "") -> str:
    """Return a section; title, content and note are HTML already."""
    told = f"<p class=note>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{told}{content}</section>"


def figure(key: str, height: int) -> str:
    """Return the place of a plot, which the page's script draws from the figure of that key."""
    return f'<div class=figure id="figure-{key}" style="height:{height}px"></div>'


def table(head: Cells, rows: Iterable[Cells], kind: str = "") -> str:
    """Return a table whose first column holds the names of its rows; cells are HTML already."""
    heads = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    )
    table = f"<table class='{kind}'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll tabindex=0>{table}</div>"


def with_span(value: str, interval: Interval | None) -> str:
    """Return a value with its interval in small print below."""
    return f"{value}<small>{span(interval)}</small>" if interval else value


def facts_line(facts: Iterable[tuple[str, str]]) -> str:
    """Set facts side by side; names and values are HTML already."""
    return "<dl class=facts>" + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts) + "</dl>"


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix, truth down and verdict across, each row coloured by its shares."""
    many = len(classes) > 8
    heads = "".join(f"<th scope=col>{isolated(name)}</th>" for name in classes)
    rows = "".join(_confusion_row(name, row, many) for name, row in zip(classes, counts, strict=True))
    corner = "<th scope=col class=corner>Truth ↓&ensp;Verdict →</th>"
    table = f"<thead><tr>{corner}{heads}</tr></thead><tbody>{rows}</tbody>"
    return f"<div class=scroll tabindex=0><table class='confusion{' many' if many else ''}'>{table}</table></div>"


def _confusion_row(name: str, counts: Sequence[int], many: bool) -> str:
    total = sum(counts)
    cells = "".join(_confusion_cell(count, total, many) for count in counts)
    return f"<tr><th scope=row>{isolated(name)}</th>{cells}</tr>"


def _confusion_cell(count: int, total: int, many: bool) -> str:
    if count == 0:
        return "<td class=none>·</td>"
    share = count / total
    deep = " deep" if share > 0.55 else ""
    told = (f"{share * 100:.0f}" if share >= 0.005 else "<1") if many else percent(share)
    return (
        f"<td class='heat{deep}' style='--share:{share:.3f}'>{html.escape(told)}<small>{thousands(count)}</small></td>"
    )


# --- plots --------------------------------------------------------------------------------------------------------


def layout(x: Figure, y: Figure, **more: Any) -> Figure:
    """Return the layout that all plots share; `x` and `y` are what is special to the axes."""
    font = {"family": "system-ui, sans-serif", "size": 13, "color": "@ink"}
    title = {"text": "", "font": {"size": 13, "color": "@muted"}, "standoff": 8}
    axis = {"gridcolor": "@rule", "linecolor": "@rule", "zeroline": False, "automargin": True, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "@clear"}
    return {
        "font": font,
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "margin": {"l": 8, "r": 16, "t": 40, "b": 8},
        "legend": legend,
        "hoverlabel": {"bgcolor": "@panel", "bordercolor": "@rule", "font": font},
        "xaxis": {**axis, **x, "title": {**title, "text": x.get("title", "")}},
        "yaxis": {**axis, **y, "title": {**title, "text": y.get("title", "")}},
        **more,
    }


def plot_text(name: str, most: int = 28) -> str:
    """Return a name as plotly text, which knows some mark-up of its own."""
    return html.escape(name if len(name) <= most else name[: most - 1] + "…", quote=False)


def class_axis(classes: Sequence[str]) -> Figure:
    """Return an axis of names from top to bottom, at the places 0, 1, 2, ..."""
    places = list(range(len(classes)))
    return {
        "tickvals": places,
        "ticktext": [plot_text(name) for name in classes],
        "range": [len(classes) - 0.5, -0.5],
        "showgrid": False,
        "ticks": "",
    }


def floats(values: Iterable[float]) -> list[float]:
    """Return numbers with six figures, enough for any screen."""
    return [float(f"{value:.6g}") for value in values]


def line(name: str, x: Iterable[float], y: Iterable[float], line: Figure, hover: str) -> Figure:
    """Return a trace of one line."""
    points = {"x": floats(x), "y": floats(y)}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, "hovertemplate": hover, **points}


# --- style and script ---------------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<noscript><p>Plots need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { --page: #ffffff; --panel: #f5f7f9; --ink: #1c2733; --muted: #5d6b79; --rule: #dde3e8; --faint: #e3efee;
  --benign: #2f6fb3; --attack: #c8500f; --accent: #0f766e; --on-accent: #ffffff; --clear: rgba(0,0,0,0); }
@media (prefers-color-scheme: dark) { :root:not(.print) { --page: #11161b; --panel: #192028; --ink: #e4e9ee;
  --muted: #98a5b2; --rule: #2c3742; --faint: #1b2e2e; --benign: #66a5e6; --attack: #f18d4f; --accent: #3fb8ab;
  --on-accent: #06201d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 6px; }
section { margin-top: 44px; }
.kind { margin: 0 0 4px; color: var(--muted); }
.note, footer { color: var(--muted); font-size: .9rem; max-width: 76ch; margin: 0 0 14px; }
footer { margin-top: 44px; border-top: 1px solid var(--rule); padding-top: 12px; }
dl, dd { margin: 0; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin-bottom: 12px; }
.tiles { margin-top: 24px; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; }
.tiles div { background: var(--panel); border-radius: 8px; padding: 14px 16px; }
.tiles span, .tiles small { display: block; color: var(--muted); font-size: .85rem; }
.tiles b { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.notes div { display: grid; grid-template-columns: 13rem 1fr; gap: 2px 20px; padding: 10px 0;
  border-top: 1px solid var(--rule); }
.notes div:last-child { border-bottom: 1px solid var(--rule); }
.notes dt { font-weight: 600; }
.notes dd { max-width: 76ch; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 500; }
thead th { color: var(--muted); font-size: .85rem; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page); }
tbody th { min-width: 7rem; overflow-wrap: anywhere; }
td { white-space: nowrap; }
td small { display: block; color: var(--muted); font-size: .78rem; white-space: nowrap; }
.plain th { width: 34%; overflow-wrap: anywhere; }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.plain thead th { text-align: left; }
.tag { color: var(--attack); border: 1px solid currentColor; border-radius: 4px; padding: 0 5px; font-size: .75rem;
  white-space: nowrap; }
i.benign, i.attack { display: inline-block; width: .6em; height: .6em; border-radius: 2px; margin-right: .5em; }
i.benign { background: var(--benign); } i.attack { background: var(--attack); }
.confusion { width: auto; border-collapse: separate; border-spacing: 3px; }
.confusion th, .confusion td { border: 0; }
.confusion td { text-align: center; min-width: 92px; border-radius: 5px; vertical-align: middle; }
.confusion thead th { text-align: center; max-width: 12rem; overflow-wrap: anywhere; }
.confusion .corner { text-align: left; white-space: nowrap; }
.confusion tbody th { vertical-align: middle; max-width: 16rem; }
.confusion .none { color: var(--muted); background: var(--panel); }
.confusion .heat { background: color-mix(in srgb, var(--accent) calc(8% + 92% * var(--share)), var(--page)); }
.confusion .deep, .confusion .deep small { color: var(--on-accent); }
.many { font-size: .75rem; border-spacing: 2px; }
.many td { min-width: 30px; padding: 2px 3px; border-radius: 3px; } .many td small { font-size: .65rem; }
.many tbody th { padding: 2px 6px 2px 0; white-space: nowrap; }
.many th bdi { display: inline-block; max-width: 10rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.many thead th bdi { writing-mode: vertical-rl; transform: rotate(180deg); max-width: none; max-height: 10rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.figure { min-width: 0; margin-bottom: 14px; }
.narrow { max-width: 600px; }
@media screen and (max-width: 760px) { main { padding: 20px 14px 32px; } h1 { font-size: 1.4rem; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles b { font-size: 1.35rem; } .pair { grid-template-columns: 1fr; }
  .notes div { grid-template-columns: 1fr; } th, td { padding: 6px 8px; } }
:root.print main { max-width: 670px; padding: 0; }
@media print { @page { margin: 14mm; } main { max-width: none; padding: 0; } body { font-size: 12px; }
  .tiles { grid-template-columns: repeat(4, 1fr); } .tiles b { font-size: 1.4rem; }
  .scroll { overflow: visible; } section { margin-top: 24px; } h2, .note { break-after: avoid; break-inside: avoid; }
  th:first-child { position: static; background: none; }
  .figure, tr, .notes div, .tiles { break-inside: avoid; } * { print-color-adjust: exact; } }
"""

_SCRIPT = """
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const colour = name => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map(item => painted(item, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name)]));
    const named = typeof value === "string" && value.startsWith("@") && /color(scale)?$/.test(key || "");
    return named ? colour(value.slice(1)) : value;
  };
  const draw = () => {
    for (const [key, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure);
      Plotly.react("figure-" + key, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  const print = printing => { root.classList.toggle("print", printing); draw(); };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
"""
