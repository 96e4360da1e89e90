"""Count what the code and the documents measure: lines, function bodies, comments, words.

A function's body is its lines less its docstring. Code lines are neither blank, nor comments, nor in a docstring.

Usage: python -m benchmarks.code_figures
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.result_files import RESULTS, read_result, write_result

ROOT = Path(__file__).resolve().parents[1]
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def measure(root: Path = ROOT) -> dict[str, Any]:
    """Return the figures of the package below ``root/src`` and of the documents."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((root / "src").rglob("*.py"))]
    bodies = sorted(length for source in sources for length in body_lengths(source))
    code, comments = (sum(of(source) for source in sources) for of in (code_lines, comment_lines))
    pages = [path.read_text(encoding="utf-8") for path in (root / "docs").glob("*.md")]
    return {
        "src_modules": len(sources),
        "src_lines": sum(source.count("\n") for source in sources),
        "functions": len(bodies),
        "body_median": int(statistics.median(bodies)),
        "body_p90": bodies[min(len(bodies) - 1, int(0.9 * len(bodies)))],
        "body_max": bodies[-1],
        "comments_per_100_code_lines": round(100 * comments / code, 1),
        "docs_words": sum(len(page.split()) for page in pages),
        "readme_bytes": (root / "README.md").stat().st_size,
    }


def body_lengths(source: str) -> list[int]:
    r"""Return the lines of each function, without its docstring.

    Examples
    --------
    >>> body_lengths('def f(x):\n    "Return twice x."\n    return 2 * x\n')
    [2]
    """
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [len(_span(one)) - len(_docstring_span(one)) for one in functions]


def code_lines(source: str) -> int:
    r"""Return the number of code lines.

    Examples
    --------
    >>> code_lines('"Module."\n\n# why\nx = 1  # what\n')
    1
    """
    inside = {line for node in _documented(source) for line in _docstring_span(node)}
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for at, line in lines if line.strip() and at not in inside and not line.strip().startswith("#"))


def comment_lines(source: str) -> int:
    r"""Return the number of lines with a comment.

    Examples
    --------
    >>> comment_lines('# why\nx = "#"  # what\n')
    2
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})


def _documented(source: str) -> Iterator[_DOCUMENTED]:
    yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, _DOCUMENTED))


def _docstring_span(node: _DOCUMENTED) -> range:
    return range(0) if ast.get_docstring(node, clean=False) is None else _span(node.body[0])


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def code_table() -> str:
    """Return the figures of the result file."""
    found = read_result("code_figures")
    rows = [
        ["lines of `src`, in modules", f"{found['src_lines']:,}, {found['src_modules']:,}"],
        [
            f"body of a function: median, 90 % within, longest ({found['functions']:,} functions)",
            f"{found['body_median']}, {found['body_p90']}, {found['body_max']} lines",
        ],
        ["comments per 100 lines of code", f"{found['comments_per_100_code_lines']:.1f}"],
        ["words of `docs`", f"{found['docs_words']:,}"],
        ["README", f"{found['readme_bytes']:,} bytes"],
        *_measured_rows(),
    ]
    return table(["what", "counted"], rows) + f"\n\n{found['run']['date']}."


def _measured_rows() -> list[list[str]]:
    """Return what other scripts measured: `page_queries`, `install_size`, `suite_time`, `memory_cost`."""
    page = read_result("page_queries")["pages"]["/incidents/INCIDENT"]
    installs, suite = read_result("install_size")["installs"], read_result("suite_time")
    base, serve = installs["base"], installs["serve"]
    ratios = ", ".join(f"{name}: {of['ratio']:.2f}" for name, of in read_result("memory_cost")["sources"].items())
    return [
        ["queries, transactions of `/incidents/ID`", f"{page['queries']}, {page['transactions']}"],
        ["base install", f"{base['megabytes']:.0f} MB, {base['packages']} packages"],
        ["`serve` adds", f"{serve['megabytes']:.1f} MB, {serve['packages']} packages"],
        [f"whole suite on {suite['cores']} cores", f"{suite['seconds']:,} s"],
        ["time of a detection that saves its state, over one that does not", ratios],
    ]


TABLES: dict[str, Callable[[], str]] = {"code": code_table}


def main() -> None:
    """Count, print the table and write the result file."""
    write_result(RESULTS / "code_figures.json", measure())
    print(code_table())


if __name__ == "__main__":
    main()
