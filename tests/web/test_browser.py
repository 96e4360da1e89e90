"""An analyst's day in a real browser, what axe-core finds, and pictures of each page for the documents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmarks.page_speed import served

from tests.web.browsing import Network, chromium, train_site_detector

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

PAGES = ("/", "/incidents", "/hosts", "/model", "/sources", "/rules", "/rules/new", "/audit", "/tokens")
SCANNER, GUESSER = "192.0.2.66", "192.0.2.77"
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


class Site:
    """A network, the server that watches it, and its files."""

    def __init__(self, folder: Path) -> None:
        self.model, self.store = folder / "site.idea", f"sqlite:///{folder}/site.db"
        self.network = Network(folder / "conn.log")
        self.address = ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pytest.importorskip("torch")
    site = Site(tmp_path_factory.mktemp("site"))
    train_site_detector(site.model)
    site.network.begin()
    site.network.talk("benign", 400)
    watching = ("--model", str(site.model), "--source", f"zeek:{site.network.log}", "--follow", "--flow-alerts")
    with served(site.store, *watching) as site.address:
        yield site


def plotly(told: Any) -> bool:
    """Whether the browser says that it kept plotly from writing a style attribute, which our plots do not need."""
    return "Applying inline style violates" in told.text and "plotly.min.js" in told.location["url"]


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """A tab in which every fault of a script, every refused file and every broken policy fails the test."""
    faults: list[str] = []
    with browser.new_context(base_url=site.address, viewport={"width": 1440, "height": 900}) as context:
        tab = context.new_page()
        tab.set_default_timeout(WAIT_MS)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda told: faults.append(told.text) if told.type == "error" and not plotly(told) else None)
        yield tab
    assert faults == []


def until(page: Any, holds: Any) -> None:
    """Load a page anew until something holds; what is written to a log takes a moment to be stored."""
    for _ in range(40):
        if holds():
            return
        page.wait_for_timeout(250)
        page.reload()
    assert holds()


def test_the_day_of_an_analyst(page: Any, site: Site, tmp_path: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    # sees a new incident arrive on an open page
    page.goto("/incidents")
    site.network.talk("port_scan", 80, **{"id.orig_h": SCANNER, "id.resp_h": "10.0.0.5"})
    expect(page.locator("#arrived")).to_be_visible()
    page.locator("#arrived a").click()
    # finds it by the keyboard, and opens it
    page.keyboard.press("/")
    page.keyboard.type(SCANNER)
    page.keyboard.press("Enter")
    row = page.locator("table tbody tr").filter(has_text=SCANNER).filter(has_text="scan")
    expect(row.first).to_be_visible()
    row.first.locator("a.main").click()
    # understands it: a sentence, what drove the verdict, what is usual
    expect(page.locator("h1")).to_contain_text(SCANNER)
    expect(page.locator("[aria-labelledby=h-why]")).to_contain_text("benign flows")
    expect(page.locator("[data-plot], .plot, .js-plotly-plot").first).to_be_visible()
    # opens one flow behind it, with its own reasons and its record
    page.locator("#flows tbody tr a").first.click()
    expect(page.locator("#flow")).to_contain_text("EVE")
    # says that it is a false positive, and why
    page.locator("#judge label", has_text="False positive").click()
    page.fill("#verdict-note", "the scanner of the audit team <b>")
    page.locator("#judge button", has_text="Save label").click()
    expect(page.locator("#verdicts")).to_contain_text("the scanner of the audit team <b>")
    # allow-lists it, having seen what that silences
    incident = page.url.partition("?")[0].partition("#")[0]
    page.locator("#allow button").click()
    expect(page.locator("#silenced")).to_contain_text("stored alert")
    page.locator("button", has_text="Add rule").click()
    # sees it gone, and quiet from now on
    page.goto(f"/incidents?q={SCANNER}")
    expect(page.locator("main")).to_contain_text("No incident matches")
    site.network.talk("port_scan", 20, **{"id.orig_h": SCANNER, "id.resp_h": "10.0.0.5"})
    site.network.talk("brute_force", 20, **{"id.orig_h": GUESSER, "id.resp_h": "10.0.0.6"})
    page.locator("#nav a", has_text="Incidents").click()
    until(page, lambda: GUESSER in page.locator("tbody").inner_text())
    expect(page.locator("tbody")).not_to_contain_text(SCANNER)
    assert incident.startswith(site.address)
    # acknowledges the rest, all at once
    page.locator("[data-pick-all]").check()
    page.locator("button[value=acknowledged]").first.click()
    expect(page.locator("[role=status]")).to_be_visible()
    page.goto("/incidents?status=open")
    expect(page.locator("main")).to_contain_text("No incident matches")
    # and exports what was said, for the next training
    told = page.request.get("/api/v1/verdicts/export?format=csv")
    assert told.ok, told.text()
    (tmp_path / "feedback.csv").write_bytes(told.body())
    exported = pl.read_csv(tmp_path / "feedback.csv", infer_schema=False)
    assert exported.height >= 10
    assert set(exported["label"]) == {"benign"}
    assert set(exported["src_ip"]) == {SCANNER}


def seen(page: Any, path: str, width: int, scheme: str) -> list[str]:
    """Return what axe-core finds serious on a page, as rule and place."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    found = axe.run(page).response["violations"]
    return [
        f"{path} {width} {scheme}: {fault['id']} {node['target']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.fixture
def an_incident(page: Any, site: Site) -> str:
    """Address of an incident that is there."""
    site.network.talk("syn_flood", 60, **{"id.resp_h": "10.0.0.9", "id.resp_p": 80})
    page.goto("/incidents")
    page.wait_for_selector("tbody a.main, #arrived:not([hidden])")
    page.goto("/incidents?order=alerts")
    return str(page.locator("tbody a.main").first.get_attribute("href"))


def test_nothing_serious_stands_in_the_way_of_anyone(page: Any, an_incident: str) -> None:
    faults = [
        fault
        for path in (*PAGES, an_incident)
        for width, scheme in ((1440, "light"), (1440, "dark"), (390, "light"))
        for fault in seen(page, path, width, scheme)
    ]
    assert faults == []


def test_a_phone_scrolls_down_only(page: Any, an_incident: str) -> None:
    page.set_viewport_size({"width": 360, "height": 780})
    for path in (*PAGES, an_incident):
        page.goto(path)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{path} is {wide} wide"


def test_pages_work_without_scripts(browser: Any, site: Site, an_incident: str) -> None:
    with browser.new_context(base_url=site.address, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(an_incident)
        page.fill("#note", "seen without scripts")
        page.locator("#notes button").click()
        assert page.locator("#note").input_value() == "seen without scripts"
        for path in PAGES:
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200


def test_pictures_are_taken(page: Any, site: Site, tmp_path: Path) -> None:
    folder = Path(os.environ.get("DEEPIDEA_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    attacks = (("brute_force", 60, "192.0.2.20"), ("beacon", 25, "192.0.2.31"), ("exfiltration", 9, "192.0.2.8"))
    for label, n, host in attacks:
        site.network.talk(label, n, **{"id.orig_h": host, "id.resp_h": "198.51.100.14"})
    site.network.talk("benign", 300)
    page.goto("/incidents?q=192.0.2.20")
    until(page, lambda: page.locator("tbody a.main").count() > 0)
    guessing = str(page.locator("tbody a.main").first.get_attribute("href"))
    pictures = {"overview": "/", "incidents": "/incidents?order=alerts", "incident": guessing, "hosts": "/hosts",
                "model": "/model", "sources": "/sources", "dark": "/"}  # fmt: skip
    for name, path in pictures.items():
        page.emulate_media(color_scheme="dark" if name == "dark" else "light")
        page.goto(path)
        page.wait_for_timeout(600)
        page.evaluate(RENAMED, [str(site.network.log.parent), "/opt/zeek/logs/current"])
        page.screenshot(path=folder / f"{name}.png", full_page=name in ("incident", "model"))
        assert (folder / f"{name}.png").stat().st_size > 20_000


RENAMED = """([from, to]) => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) walk.currentNode.data = walk.currentNode.data.replaceAll(from, to);
}"""
"""Shows the folder of the test as what it stands for."""
