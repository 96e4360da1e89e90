"""Which role each route of an application requires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from fastapi import FastAPI, routing

from deepidea.store.access import ROLES, Role
from deepidea.web.access import Needs, public


def roles_of(app: FastAPI) -> dict[tuple[str, str], Role | Literal["undeclared"] | None]:
    """Return the role that each route requires, by method and path; None where it is open to everyone.

    A route without a declaration, and anything but a plain route (a mount, a socket), is ``undeclared``.
    """
    found: dict[tuple[str, str], Role | Literal["undeclared"] | None] = {}
    for route in _routes_of(app):
        calls = [dependency.call for dependency in _flat(getattr(route, "dependant", None))]
        declared = [call.role for call in calls if isinstance(call, Needs)]
        role = max(declared, key=ROLES.index) if declared else None if public in calls else "undeclared"
        for method in sorted(getattr(route, "methods", None) or ["ANY"]):
            found[method, str(getattr(route, "path", route))] = role
    return found


def _routes_of(app: FastAPI) -> Iterator[Any]:
    """Yield every route, those of included routers with their full path."""
    contexts: Callable[[Any], Iterator[Any]] = getattr(routing, "iter_route_contexts", iter)
    yield from contexts(app.routes)


def _flat(dependant: Any) -> list[Any]:
    parts = [] if dependant is None else dependant.dependencies
    return [inner for part in parts for inner in (part, *_flat(part))]
