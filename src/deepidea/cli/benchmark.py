"""Commands that measure systems against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepidea.cli.benchmark_tables import benchmark_progress, show_answers, show_outcomes, show_plan, show_sweep
from deepidea.cli.terminal import say


def benchmark_run(
    data: Annotated[list[str], typer.Option(help="Name of a registered data set.")] = ["kdd99"],  # noqa: B006
    protocol: Annotated[list[str], typer.Option(help="How flows are dealt into training and test.")] = ["auto"],  # noqa: B006
    models: Annotated[
        list[str], typer.Option(help="A system, a group of them, or all; parameters as in deepidea:attack_weight=3.")
    ] = ["all"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each system: seeds 0, 1, 2, ...")] = 5,
    out: Annotated[Path, typer.Option(help="Folder of records; what is there is kept.")] = Path("benchmark"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, one thread each.")] = 2,
    budget: Annotated[int, typer.Option(min=1, help="Seconds that one cell may take.")] = 3600,
    retry: Annotated[bool, typer.Option(help="Try again what was cut or failed.")] = False,
) -> None:
    """Measure systems on data sets: one record a cell, resumed where an earlier run stopped."""
    from deepidea.benchmark.runner import make_grid, plan_run, run_cells

    plan = plan_run(make_grid(data, protocol, models, seeds), out, retry=retry)
    show_plan(plan)
    with benchmark_progress() as progress:
        outcomes = run_cells(plan, out, jobs=jobs, budget_s=budget, progress=progress)
    raise typer.Exit(show_outcomes(plan, outcomes, out))


def benchmark_tau(
    data: Annotated[list[str], typer.Option(help="Name of a registered data set.")] = ["kdd99"],  # noqa: B006
    models: Annotated[list[str], typer.Option(help="A system that states probabilities, or a group of them.")] = [  # noqa: B006
        "deepidea"
    ],
    deals: Annotated[int, typer.Option(min=1, help="How often attack types are dealt out; two trainings each.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of records; what is there is kept.")] = Path("benchmark"),
) -> None:
    """Try every strength of the prior correction on training flows, types left out; the report shows it."""
    from deepidea.benchmark.tau_sweep import iter_sweeps

    for sweep in iter_sweeps(data, models, out, n_repeats=deals):
        show_sweep(sweep)


def benchmark_report(
    folder: Annotated[list[Path], typer.Argument(help="Folders of records, as `deepidea benchmark run` writes them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Self-contained HTML page to write.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown, too.")] = None,
) -> None:
    """Compare what was measured: tables beside the paper's, tests over seeds, plots."""
    from deepidea.benchmark.comparison import read_comparison
    from deepidea.benchmark.findings import summarise_tasks
    from deepidea.benchmark.report import write_benchmark_markdown, write_benchmark_report

    comparison = read_comparison(*folder)
    write_benchmark_report(comparison, output)
    if markdown is not None:
        write_benchmark_markdown(comparison, markdown)
    show_answers(summarise_tasks(comparison))
    say(f"wrote {output}")
