"""Take the pictures of the page from what ``make demo`` left: ``python docs/generate_pictures.py demo-output``.

Needs Chromium and playwright. The traffic in the pictures is simulated.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PICTURES = Path(__file__).with_name("pictures")
WIDTH, HEIGHT = 1440, 900
PAGES = {"overview": "/?window=all", "incidents": "/incidents", "hosts": "/hosts", "model": "/model"}
TALL = 1200  # of an incident: down to its flows


@contextlib.contextmanager
def served(demo: Path) -> Iterator[str]:
    """Yield the address of a server over the demo's store."""
    program = Path(sys.executable).with_name("deepidea")
    options = ["--store", f"sqlite:///{demo / 'alerts.db'}", "--model", str(demo / "site.idea"), "--port", "0"]
    with subprocess.Popen([program, "serve", *options], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
            yield address.rstrip("/")
        finally:
            server.terminate()


def main() -> None:
    """Take every picture, the overview once more in the dark theme."""
    from playwright.sync_api import sync_playwright

    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "alerts.db").is_file():
        sys.exit("usage: python docs/generate_pictures.py DIR, the folder of `make demo`")
    with served(Path(sys.argv[1])) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        light, dark = (
            browser.new_page(base_url=address, color_scheme=scheme, viewport={"width": WIDTH, "height": HEIGHT})
            for scheme in ("light", "dark")
        )
        for name, path in [*PAGES.items(), ("sources", "/sources")]:
            _take(light, name, path)
        _take(dark, "dark", PAGES["overview"])
        light.set_viewport_size({"width": WIDTH, "height": TALL})
        light.goto("/incidents?order=alerts")
        link = light.locator("main a[href*='/incidents/']", has_text="brute force").first.get_attribute("href")
        _take(light, "incident", str(link))
        browser.close()


def _take(page: object, name: str, path: str) -> None:
    page.goto(path)  # type: ignore[attr-defined]
    page.wait_for_timeout(2000)  # type: ignore[attr-defined]  # for the plots
    page.screenshot(path=PICTURES / f"{name}.png")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
