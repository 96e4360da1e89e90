"""The commands `deepidea benchmark ...`: measure systems on data sets, and compare them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from deepidea.cli.options import option
from deepidea.cli.terminal import duration, err, out, percent, say

Data = Annotated[list[str], option("Name of a registered data set; repeatable.")]
Records = Annotated[Path, option("Folder of records; existing ones are kept.", "--out")]


def benchmark_run(
    data: Data = ["kdd99"],  # noqa: B006
    protocol: Annotated[list[str], option("How flows are split into training and test; repeatable.")] = ["auto"],  # noqa: B006
    models: Annotated[
        list[str], option("System, group or all; with parameters: deepidea:attack_weight=3; repeatable.")
    ] = ["all"],  # noqa: B006
    seeds: Annotated[int, option("Runs of each system, with seeds 0, 1, 2, ...", min=1)] = 5,
    folder: Records = Path("benchmark"),
    jobs: Annotated[int, option("Processes at once, one thread each.", min=1)] = 2,
    budget: Annotated[int, option("Most seconds of one run.", min=1)] = 3600,
    retry: Annotated[bool, option("Repeat runs that failed or exceeded the budget.")] = False,
) -> None:
    """Measure systems on data sets, and keep a record of each run; resumes where an earlier one stopped."""
    from deepidea.benchmark.runner import make_grid, plan_run, run_cells

    plan = plan_run(make_grid(data, protocol, models, seeds), folder, retry=retry)
    for cell, fault in plan.damaged.items():
        say(f"{cell} is measured again: {fault}")
    say(f"{len(plan.waiting):,} runs to do; {len(plan.kept):,} kept from earlier")
    with benchmark_progress() as progress:
        outcomes = run_cells(plan, folder, jobs=jobs, budget_s=budget, progress=progress)
    raise typer.Exit(show_outcomes(plan, outcomes, folder))


@contextlib.contextmanager
def benchmark_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback that prints each run that ends, and on a terminal shows those that go on and the time left."""
    from rich.live import Live

    live = Live(console=err, transient=True, refresh_per_second=4) if err.is_terminal else None

    def show(at: Any) -> None:
        for outcome in at.ended:
            err.print(escape(_outcome(outcome)), soft_wrap=True)
        if live is not None:
            live.update(_running(at))

    try:
        with live or contextlib.nullcontext():
            yield show
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command resumes here") from error


def _outcome(outcome: Any) -> str:
    measured = outcome.status == "measured"
    result = f"CBA {percent(outcome.cba)} %" if measured else f"{outcome.status}: {outcome.reason}"
    return f"{outcome.cell}: {result}  ({duration(outcome.seconds)})"


def _running(at: Any) -> Table:
    left = "" if at.left_s is None else f", about {duration(at.left_s)} left"
    bar = ProgressBar(total=max(1, at.n_cells), completed=at.n_done, width=30)
    view = Table.grid(padding=(0, 2))
    view.add_row(bar, f"{at.n_done}/{at.n_cells}{left}")
    for cell, seconds in at.running.items():
        view.add_row(f"  {duration(seconds)}", escape(str(cell)))
    return view


def show_outcomes(plan: Any, outcomes: Any, folder: Path) -> int:
    """Print how a benchmark ended, and return its exit code: 1 where a run has no result."""
    # "cut": over its budget; kept records are of earlier runs of the same grid
    ends = [record["status"] for record in plan.kept.values()] + [outcome.status for outcome in outcomes]
    counts = {status: ends.count(status) for status in ("measured", "cut", "failed")}
    say(", ".join(f"{count:,} {status}" for status, count in counts.items() if count or status == "measured"))
    without = len(ends) - counts["measured"]
    again = f"; {without:,} runs have no result, --retry repeats them" if without else ""
    say(f"records are in {folder}{again}; next: deepidea benchmark report {folder} -o report.html")
    return int(without > 0)


def benchmark_tau(
    data: Data = ["kdd99"],  # noqa: B006
    models: Annotated[list[str], option("System that gives probabilities, or a group; repeatable.")] = ["deepidea"],  # noqa: B006
    repeats: Annotated[int, option("How often attack types are left out; two trainings each.", min=1)] = 3,
    folder: Records = Path("benchmark"),
    deals: Annotated[int | None, option("Former name of --repeats.", min=1, hidden=True)] = None,
) -> None:
    """Try strengths of the prior correction on training flows with attack types left out, for the report."""
    from deepidea.benchmark.tau_sweep import iter_sweeps

    for sweep in iter_sweeps(data, models, folder, n_repeats=deals or repeats):
        means = ", ".join(f"{tau:g}: {sweep.mean(tau, 'mixed'):.1f}" for tau in sweep.by_tau)
        say(f"{sweep.data}: {sweep.system}, held-out CBA in percent by tau: {means}; best {sweep.best():g}")


def benchmark_report(
    folder: Annotated[list[Path], typer.Argument(help="Folders of records, as `deepidea benchmark run` writes them.")],
    output: Annotated[Path, option("HTML page to write.", "--output", "-o")],
    markdown: Annotated[Path | None, option("Write the tables as Markdown, too.")] = None,
) -> None:
    """Report measured systems: tables beside the paper's, tests over seeds, plots."""
    from deepidea.benchmark.comparison import read_comparison
    from deepidea.benchmark.findings import summarise_tasks
    from deepidea.benchmark.report import write_benchmark_markdown, write_benchmark_report

    comparison = read_comparison(*folder)
    write_benchmark_report(comparison, output)
    if markdown is not None:
        write_benchmark_markdown(comparison, markdown)
    for summary in summarise_tasks(comparison):
        out.print(f"[bold]{escape(summary.heading)}[/]  {escape(summary.lead)}", soft_wrap=True)
        for sentence in summary.more:
            out.print(f"  {escape(sentence)}", soft_wrap=True)
    say(f"wrote {output}")
