"""The security policy in a browser: plots are drawn under it, and what it forbids does not happen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from deepidea.web.access import open_to_all
from tests.stores import Store
from tests.web.running import Served, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
shown = APIRouter(prefix="/shown", dependencies=[open_to_all])
WATCH = """
window.told = [];
document.addEventListener("securitypolicyviolation", event =>
  told.push(event.effectiveDirective + " " + event.blockedURI + " " + event.sourceFile));
"""
DRAW = """
const kinds = [{type: "scatter", y: [1, 3, 2], mode: "lines+markers"},
               {type: "scatter", y: [1, 3, 2], stackgroup: "one", fill: "tozeroy"}, {type: "bar", y: [2, 1]}];
Promise.all(kinds.map((trace, k) => Plotly.newPlot("plot" + k, [trace], {title: {text: "plot"}},
  {displayModeBar: false}))).then(() => { window.drawn = true; });
"""
# plotly writes no <style> element where this one says that the page's own style sheet has its rules
STRICT = '<link id="plotly.js-style-global" class="no-inline-styles" rel="stylesheet" href="/shown/plotly.css">'


@shown.get("/page/{kind}")
def page(kind: str) -> Response:
    body = {
        "plots": f'{STRICT}<div id="plot0"></div><div id="plot1"></div><div id="plot2"></div>'
        '<script src="/static/plotly.min.js"></script><script src="/shown/draw.js"></script>',
        "inline": "<script>window.ran = true</script>",
        "handler": '<img src="/none" onerror="window.ran = true">',
        "style": '<p style="color: red">red</p>',
    }[kind]
    return HTMLResponse(f'<!doctype html><title>x</title><script src="/shown/watch.js"></script>{body}')


@shown.get("/watch.js")
def watch() -> Response:
    return PlainTextResponse(WATCH, media_type="text/javascript")


@shown.get("/draw.js")
def draw() -> Response:
    return PlainTextResponse(DRAW, media_type="text/javascript")


@shown.get("/plotly.css")
def style() -> Response:
    return PlainTextResponse(
        ".main-svg { position: absolute } .svg-container { position: relative }", media_type="text/css"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def plots(stocked: Store) -> Iterator[Served]:
    with running(stocked, routers=[shown]) as server:
        yield server


def wait_until(page: Any, expression: str) -> None:
    """Ask again and again from outside: what polls in the page needs eval there, which its policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def test_plots_look_under_the_policy_as_they_do_without_it(plots: Served, browser: Any) -> None:
    """Lines, areas and bars do; a heat map does not: its pixels are smoothed and its scale is black."""
    seen = []
    for bypassed in (False, True):
        with browser.new_context(bypass_csp=bypassed) as context:
            page = context.new_page()
            page.goto(f"{plots.url}/shown/page/plots")
            wait_until(page, "window.drawn === true")
            assert page.evaluate("document.querySelector('.points path').getBoundingClientRect().height") > 0
            told = page.evaluate("window.told")
            assert bool(told) != bypassed  # it would write rules for maps and for its tool bar, which are not shown
            assert all(text.startswith("style-src") for text in told)
            seen.append(page.screenshot(full_page=True))
    assert seen[0] == seen[1]


def test_what_the_policy_forbids_does_not_happen(plots: Served, browser: Any) -> None:
    page = browser.new_page()
    for kind, directive in (("inline", "script-src"), ("handler", "script-src"), ("style", "style-src")):
        page.goto(f"{plots.url}/shown/page/{kind}")
        wait_until(page, "window.told.length > 0")
        assert page.evaluate("window.told")[0].startswith(directive)
        assert page.evaluate("window.ran") is None
    page.close()


def test_a_page_of_this_server_is_shown_in_no_frame(plots: Served, browser: Any) -> None:
    page = browser.new_page()
    page.set_content(f'<iframe src="{plots.url}/login"></iframe>')
    page.wait_for_timeout(500)
    assert "Log in" not in page.frames[1].content()
    page.close()


def test_a_browser_logs_in_and_its_forms_tell_their_origin(plots: Served, browser: Any) -> None:
    secret = plots.token("viewer")
    page = browser.new_page()
    page.goto(f"{plots.url}/?window=7d")
    assert "/login?next=" in page.url
    page.fill("input[name=token]", secret)
    page.click("button")
    assert page.url == f"{plots.url}/?window=7d"
    with page.expect_request(lambda request: request.method == "POST") as asked:
        page.goto(f"{plots.url}/login")
        page.fill("input[name=token]", "dit_wrong")
        page.click("button")
    assert asked.value.all_headers()["origin"] == plots.url  # under "no-referrer" it would be "null"
    page.close()


def test_a_link_from_another_site_finds_the_session(plots: Served, browser: Any) -> None:
    secret = plots.token("viewer")
    page = browser.new_page()
    page.goto(f"{plots.url}/login")
    page.fill("input[name=token]", secret)
    page.click("button")
    page.goto("about:blank")
    page.set_content(f'<a href="{plots.url}/?window=7d">go</a>')
    page.click("a")
    page.wait_for_url(f"{plots.url}/?window=7d")
    page.wait_for_load_state()
    page.wait_for_selector("main", timeout=10_000)
    assert "/login" not in page.url
    page.close()
