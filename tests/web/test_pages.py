"""Every page, over an empty store and one that holds what an attacker would write: links, forms, mark-up, weight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from deepidea.detection.store import Store, open_store
from tests.web.conftest import XSS
from tests.web.running import running

FIRST_LOAD = 150_000  # bytes, plotly's script apart
VOID = {"input", "meta", "link", "img", "br", "hr"}


class Seen(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.files: list[str] = []
        self.faults: list[str] = []
        self.forms: list[dict[str, object]] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.faults += [f"<{tag} {name}>" for name in given if name.startswith("on") or name == "style"]
        if tag in ("img", "iframe", "object", "style") or (
            tag == "script" and "src" not in given and not given.get("type")
        ):
            self.faults.append(f"<{tag}>")
        if tag == "a" and (given.get("href") or "").startswith("/"):
            self.links.append(str(given["href"]))
        if tag in ("script", "link") and (given.get("src") or given.get("href")):
            self.files.append(str(given.get("src") or given.get("href")))
        if tag == "form":
            self.forms.append({"method": given.get("method", "get"), "names": []})
        if tag in ("input", "button", "textarea", "select") and given.get("name") and self.forms:
            self.forms[-1]["names"].append(given["name"])  # type: ignore[attr-defined]
        if given.get("id"):
            self.ids.append(str(given["id"]))


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/empty.db") as store:
        yield store


def crawl(address: str, most: int = 120) -> dict[str, httpx.Response]:
    """Return every page that can be reached from the first one."""
    found: dict[str, httpx.Response] = {}
    todo = ["/"]
    with httpx.Client(base_url=address, timeout=30) as client:
        while todo and len(found) < most:
            path = todo.pop(0)
            if path in found or path.startswith(("/static/", "/api/")):
                continue
            found[path] = client.get(path, follow_redirects=True)
            todo += [link.partition("#")[0] for link in Seen(found[path].text).links]
    return found


def check(pages: dict[str, httpx.Response]) -> None:
    for path, answer in pages.items():
        assert answer.status_code == 200, path
        seen = Seen(answer.text)
        assert seen.faults == [], path
        assert len(set(seen.ids)) == len(seen.ids), f"{path}: ids that are there twice"
        for form in seen.forms:
            assert form["method"] != "post" or "csrf" in form["names"], f"{path}: a form without its secret"


def test_every_page_of_an_empty_store_says_what_fills_it(empty: Store) -> None:
    with running(empty) as served:
        pages = crawl(served.url)
        check(pages)
    assert {"/", "/incidents", "/hosts", "/model", "/sources", "/rules"} <= set(pages)
    assert all("deepidea " in pages[path].text for path in ("/", "/incidents", "/model", "/sources"))


def test_no_text_of_an_attacker_becomes_mark_up(filled: Store) -> None:
    with running(filled) as served:
        pages = crawl(served.url)
        check(pages)
        with httpx.Client(base_url=served.url) as client:
            for path in ("/incidents?q=", "/hosts?q=", "/hosts/", "/incidents?class=", "/rules/new?note="):
                answer = client.get(path + httpx.QueryParams({"x": XSS})["x"].replace("<", "%3C").replace("#", "%23"))
                assert Seen(answer.text).faults == [], path
    assert sum(path.startswith("/incidents/") for path in pages) >= 4
    shown = [path for path, answer in pages.items() if "onerror" in answer.text]
    assert len(shown) > 3  # it is there, as text


def test_what_is_not_there_is_told_as_a_page(filled: Store) -> None:
    with running(filled) as served, httpx.Client(base_url=served.url) as client:
        for path in (
            "/none",
            "/incidents/" + "0" * 32,
            "/models/x/activate",
            "/static/none.css",
            "/static/..%2fapp.py",
        ):
            assert client.get(path).status_code == 404, path
        answer = client.get("/incidents?status=nonsense")
        assert (answer.status_code, "a status must be one of" in answer.text) == (422, True)
        assert "Traceback" not in answer.text


def test_the_first_page_is_light(filled: Store) -> None:
    with running(filled) as served, httpx.Client(base_url=served.url) as client:
        page = client.get("/")
        files = {urlsplit(urljoin("/", name)).path: client.get(name) for name in Seen(page.text).files}
        icons = set(re.findall(r'href="(/static/[^"#?]+\.svg)', page.text))
    own = [answer for path, answer in files.items() if "plotly.min" not in path]
    weight = len(page.content) + sum(len(answer.content) for answer in own) + 20_000 * len(icons)
    assert weight < FIRST_LOAD
