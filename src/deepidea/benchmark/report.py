"""A benchmark as one HTML page, and the same words and tables as Markdown; both are templates over the same entries.

The page leads with the answer in words, then shows each task: ranks, classes beside the paper's numbers, the same
decision for all, tests over seeds, plots. Cells without figures are listed with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deepidea.benchmark.comparison import BenchmarkTask, Comparison
from deepidea.benchmark.findings import TaskSummary, summarise_task
from deepidea.benchmark.report_figures import shown_rows, task_figures
from deepidea.benchmark.tables import (
    NONE,
    Table,
    ahead_table,
    class_table,
    class_title,
    difference_table,
    escape_markdown,
    new_label_table,
    pooled_table,
    rank_table,
    rule_table,
    tau_table,
    unmeasured_table,
)
from deepidea.benchmark.transfer import describe_transfer, transfer_tables, transfers
from deepidea.evaluation.page import environment, render_page, write_page
from deepidea.evaluation.plots import Figure

__all__ = ["render_benchmark", "render_markdown", "write_benchmark_markdown", "write_benchmark_report"]


def write_benchmark_report(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison as one self-contained HTML page.

    Raises
    ------
    MissingExtraError
        jinja2 or scipy is not installed.
    StorageError
        The file cannot be written; the old one stays.
    """
    write_page(render_benchmark(comparison), path)


def write_benchmark_markdown(comparison: Comparison, path: str | Path) -> None:
    """Write the words and tables of a comparison as Markdown; raises as :func:`write_benchmark_report`."""
    write_page(render_markdown(comparison), path)


def render_markdown(comparison: Comparison) -> str:
    """Return the text that :func:`write_benchmark_markdown` writes."""
    made = environment("deepidea.benchmark")
    made.filters["escape_markdown"] = escape_markdown
    return made.get_template("benchmark.md").render(**_content(comparison))


def render_benchmark(comparison: Comparison) -> str:
    """Return the page that :func:`write_benchmark_report` writes."""
    content = _content(comparison)
    figures = {f"{section.place}-{key}": of for section in content["sections"] for key, of in section.figures.items()}
    return render_page(
        "benchmark.html",
        figures,
        package="deepidea.benchmark",
        heading="Benchmark of network intrusion detectors",
        overview=_overview(comparison),
        none=NONE,
        **content,
    )


class _Section:
    """What a report shows of one task; plots and words only of main tasks."""

    def __init__(self, place: int, task: BenchmarkTask, *, in_full: bool) -> None:
        self.place, self.task, self.in_full = place, task, in_full
        self.summary: TaskSummary | None = summarise_task(task) if in_full else None
        self.tables = dict(_tables(task))
        self.figures: dict[str, Figure] = task_figures(task) if in_full else {}

    @property
    def facts(self) -> list[tuple[str, object]]:
        """Counts and names of its flows."""
        rows, facts = self.task.sample.get("rows", {}), self.task.facts
        titles = ("Training flows", "Test flows", "Distinct", "Vectors unseen in training")
        counts = (rows.get(name) for name in ("training", "all", "distinct", "unseen"))
        spelt = [(title, f"{n:,}" if isinstance(n, int) else NONE) for title, n in zip(titles, counts, strict=True)]
        files = ", ".join(_file_names(facts)) or NONE
        return [*spelt, ("Taxonomy", facts.get("taxonomy", NONE)), ("Files", files)]

    @property
    def confusions(self) -> list[tuple[str, list[str], list[list[int]]]]:
        """Title, classes and counts of the confusion matrices of the first two rows shown."""
        titles = [class_title(name) for name in self.task.classes]
        return [(row.title, titles, self.task.confusion(row)) for row in shown_rows(self.task)[:2]]


def _content(comparison: Comparison) -> dict[str, Any]:
    """Return what both reports show."""
    main = comparison.main_tasks
    return {
        "sections": [_Section(at, task, in_full=task in main) for at, task in enumerate(comparison.tasks)],
        "transfers": [(of.title, describe_transfer(of), transfer_tables(of)) for of in transfers(comparison)],
        "pooled": pooled_table(comparison),
        "unmeasured": unmeasured_table(comparison),
        "machines": list(dict.fromkeys(map(_machine, comparison.runs))),
    }


def _tables(task: BenchmarkTask) -> Iterable[tuple[str, Table]]:
    made = {
        "Ranking": rank_table(task),
        "Class by class": class_table(task),
        "The same decision for all": rule_table(task),
        "Baselines above DeepIDEA by the same decision": ahead_table(task),
        "Against the best baseline": difference_table(task),
        "Attacks that training never showed": new_label_table(task, shown_rows(task)[:4]),
        "Strength of the prior correction, on training flows": tau_table(task),
    }
    yield from ((title, table) for title, table in made.items() if table)


def _machine(run: Mapping[str, Any]) -> str:
    """Return machine and versions, whatever the day."""
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return f"{run.get('processor')}, {run.get('cores')} cores; Python {run.get('python')}, {versions}"


def _overview(comparison: Comparison) -> list[tuple[str, str]]:
    systems = {row.system for task in comparison.tasks for row in task.measured}
    n_records = sum(len(row.records) for task in comparison.tasks for row in (*task.rows, *task.sweeps))
    dates = sorted({str(run.get("date")) for run in comparison.runs})
    return [
        ("Tasks", f"{len(comparison.tasks):,}"),
        ("Systems", f"{len(systems):,}"),
        ("Trainings", f"{n_records:,}"),
        ("Without figures", f"{len(comparison.unmeasured) + len(comparison.damaged):,}"),
        ("Measured", " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else NONE),
    ]


def _file_names(facts: Mapping[str, Any]) -> list[str]:
    files = facts.get("files")
    names = [str(file.get("name")) for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    return names if len(names) <= 3 else [names[0], f"{len(names) - 1} more"]
