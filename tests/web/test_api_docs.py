"""The page on the API says what its document says."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate_api.py"))
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_is_as_generated():
    assert GENERATOR["filled"](PAGE) == PAGE, "run: python docs/generate_api.py"


def test_every_operation_and_event_has_a_line():
    from deepidea.web.live import EVENTS

    for path, way, _ in GENERATOR["operations"]():
        assert f"| `{way} {path}` |" in PAGE
    for kind in EVENTS:
        assert f"`{kind}`" in PAGE.split("api: events")[1]
