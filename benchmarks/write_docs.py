"""Fill the tables of README.md, CONTRIBUTING.md and docs/ from the result files.

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``; what is between them is replaced by
the text of the function of that name in :data:`TABLES`. ``--check`` changes nothing and fails where a document differs.

Usage: python -m benchmarks.write_docs [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    accuracy_tables,
    behaviour_tables,
    code_figures,
    recipe_tables,
    scale_tables,
    simulation_distances,
    speed_tables,
)

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n).*?(<!-- /results:\2 -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    **accuracy_tables.TABLES,
    **recipe_tables.TABLES,
    **speed_tables.TABLES,
    **scale_tables.TABLES,
    **code_figures.TABLES,
    **simulation_distances.TABLES,
    **behaviour_tables.TABLES,
}


def filled(text: str) -> str:
    """Return a document with its tables filled."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def documents() -> list[Path]:
    """Return the documents that may hold tables."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Fill the documents, or check them."""
    stale = [path for path in documents() if filled(path.read_text()) != path.read_text()]
    if "--check" in sys.argv:
        sys.exit(f"run make docs: {', '.join(p.name for p in stale)} differ from the result files" if stale else 0)
    for path in stale:
        path.write_text(filled(path.read_text()))
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
