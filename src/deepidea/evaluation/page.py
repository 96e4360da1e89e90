"""HTML pages that stand alone: one layout for all reports, numbers spelt one way, no request to anywhere.

Templates hold all markup and are rendered with autoescape. A page carries its own plotting script and forbids every
request by its content security policy, which also names the hashes of its two scripts: a class name that tries to be a
script is text. The tables need no JavaScript.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepidea.errors import MissingExtraError
from deepidea.evaluation.metrics import Interval
from deepidea.evaluation.plots import Figure
from deepidea.flows.atomic import replacing

if TYPE_CHECKING:
    import jinja2


def write_page(text: str, path: str | Path) -> None:
    """Write a page whole or not at all; :class:`StorageError` where it cannot be written."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))


def render_page(template: str, figures: Mapping[str, Figure], *, package: str = __package__, **values: Any) -> str:
    """Return a whole page.

    Parameters
    ----------
    template : str
        Name of a file in the package's ``templates`` that extends ``base.html``, or stands for itself.
    figures : mapping of key to plotly figure
        Each is drawn where the template has ``figure(key, height)``. A colour "@name" is looked up in the page's style.
    package : str
        Where the templates are; those of ``deepidea.evaluation`` can be included by all.
    **values
        What the template shows. Text is escaped.

    Raises
    ------
    MissingExtraError
        jinja2 is not installed.
    """
    made = environment(package)  # first, for the error where jinja2 is missing: markupsafe comes with it
    from markupsafe import Markup

    plotly = plotly_script().decode().replace("\r", "").replace("</script", "<\\/script")
    draw = figures_script()
    # Markup is what templates put in unescaped: each entry is ours, or was made safe just above.
    page = {
        "policy": Markup(policy(plotly, draw)),  # quotes in it are its syntax; no value from outside gets there
        "figures": Markup(_json_in_script(figures)),
        "plotly": Markup(plotly),
        "draw": Markup(draw),
    }
    return made.get_template(template).render(page=page, **values)


def environment(package: str = __package__) -> jinja2.Environment:
    """Return the environment of a package's templates, with the spelling of numbers as filters.

    Raises
    ------
    MissingExtraError
        jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "cannot write a report: jinja2 is not installed; run: pip install 'deepidea[train]'"
        ) from error
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, __package__))]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=jinja2.select_autoescape(("html", "css")),
        # A misspelt name in a template is an error, not an empty cell.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {of.__name__: of for of in (percent, span, fixed, thousands, rounded)}
    return made


def figures_script() -> str:
    """Return the script that draws the figures of a report, or of a web page."""
    return resources.files(__package__).joinpath("templates", "figures.js").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def plotly_script() -> bytes:
    """Return plotly.js (MIT license), as the plotly package ships it; the package itself is not needed."""
    return gzip.decompress(resources.files(__package__).joinpath("templates", "plotly.min.js.gz").read_bytes())


def policy(*scripts: str) -> str:
    """Return a content security policy that lets these scripts run and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    # By hash: nothing but these very scripts runs, even if a name from the data should slip through as markup.
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json_in_script(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # inside a script element only these three could end it or start markup; JSON takes them as escapes
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- numbers as text ---------------------------------------------------------------------------------------------


def _decimals(share: float) -> int:
    """Return decimals of a percentage that keep two figures of the distance to 0 % or 100 %."""
    # 99.987 % and 0.013 % need as many decimals as each other
    distance = min(share, 1 - share) * 100
    return 0 if distance <= 0 else min(4, max(1, math.ceil(-math.log10(distance)) + 1))


def percent(share: float | None) -> str:
    """Return a share in percent, with more decimals the nearer it is to 0 or 1; a dash where there is none."""
    return "–" if share is None else f"{share * 100:.{_decimals(share)}f} %"


def span(interval: Interval | None) -> str:
    """Return an interval in percent; both ends get the decimals of the finer one."""
    if interval is None:
        return ""
    digits = max(_decimals(interval.low), _decimals(interval.high))
    low, high = (f"{end * 100:.{0 if end in (0, 1) else digits}f}" for end in (interval.low, interval.high))
    return f"{low} – {high} %"


def fixed(value: float | None) -> str:
    """Return a number with four decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"


def thousands(number: object) -> str:
    """Return a count with commas; a dash where there is none."""
    return f"{number:,}" if isinstance(number, int) else "–"


def rounded(number: float) -> str:
    """Return a number above 1 with two figures or so: 3.4, 47, 1,200."""
    if number < 10:
        return f"{number:.1f}".removesuffix(".0")
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return thousands(round(number / step) * step)
