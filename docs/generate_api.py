"""Write the tables of ``docs/api.md`` from the API's OpenAPI document: ``python docs/generate_api.py``.

Text between the ``api`` markers is generated; ``tests/web/test_api_docs.py`` compares the page with it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from deepidea.web import api, live

PAGE = Path(__file__).with_name("api.md")
_BEGIN, _END = "<!-- api: {} -->", "<!-- /api: {} -->"


def filled(page: str) -> str:
    """Return the page with new tables."""
    for name, table in (("routes", routes_table()), ("events", events_table())):
        begin, end = _BEGIN.format(name), _END.format(name)
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return page


def routes_table() -> str:
    """Return one row per operation: request, role, summary."""
    rows = [f"| `{way} {path}` | {one['x-role']} | {_summary(one)} |" for path, way, one in operations()]
    return "\n".join(["| request | role | what it does |", "|---|---|---|", *rows])


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of the whole document."""
    for path, ways in api.document(FastAPI())["paths"].items():
        for way, one in ways.items():
            yield path, way.upper(), one


def _summary(operation: dict[str, Any]) -> str:
    named = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    explained = {"limit", "after"} if "limit" in named else set()
    explained |= {"since", "until"} if "window" in named else set()  # the page explains these once
    fields = [name for name in named if name not in explained]
    query = f" Query: {', '.join(f'`{name}`' for name in fields)}." if fields else ""
    return operation["description"].split("\n\n")[0].replace("\n", " ") + query


def events_table() -> str:
    """Return one row per kind of event, from the docstring of ``EVENTS``."""
    source = inspect.getsource(live)
    comment = source.split("EVENTS = ", 1)[1].split('"""')[1]
    found = re.findall(r"^``(.+?)``\n((?:    .+\n)+)", comment, re.MULTILINE)
    rows = [f"| {_plain(f'``{names}``')} | {_plain(' '.join(text.split()))} |" for names, text in found]
    return "\n".join(["| event | data |", "|---|---|", *rows])


def _plain(text: str) -> str:
    """Return a docstring's text with the page's code marks."""
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
