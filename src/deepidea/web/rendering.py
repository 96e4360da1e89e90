"""Templates made into pages."""

from __future__ import annotations

from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("deepidea.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(request: Request, name: str, *, status_code: int = 200, **context: Any) -> HTMLResponse:
    """Return a template as a page; it knows the ``request``, and the ``actor`` where somebody is logged in."""
    actor = getattr(request.state, "actor", None)
    text = ENVIRONMENT.get_template(name).render(request=request, actor=actor, **context)
    return HTMLResponse(text, status_code)
