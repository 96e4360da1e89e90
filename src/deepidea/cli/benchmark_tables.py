"""What the benchmark shows: cells as they end, on a terminal those that run, and what a comparison found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from deepidea.cli.terminal import duration, err, out, percent, say


@contextlib.contextmanager
def benchmark_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback that tells each cell that ends, and on a terminal which ones run and how long it may take."""
    from rich.live import Live

    live = Live(console=err, transient=True, refresh_per_second=4) if err.is_terminal else None

    def show(at: Any) -> None:
        for outcome in at.ended:
            err.print(escape(_told_outcome(outcome)), soft_wrap=True)
        if live is not None:
            live.update(_benchmark_view(at))

    try:
        with live or contextlib.nullcontext():
            yield show
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command goes on from here") from error


def _told_outcome(outcome: Any) -> str:
    told = f"CBA {percent(outcome.cba)} %" if outcome.status == "measured" else f"{outcome.status}: {outcome.reason}"
    return f"{outcome.cell}: {told}  ({duration(outcome.seconds)})"


def _benchmark_view(at: Any) -> Table:
    left = "" if at.left_s is None else f", about {duration(at.left_s)} left"
    view = Table.grid(padding=(0, 2))
    view.add_row(
        ProgressBar(total=max(1, at.n_cells), completed=at.n_done, width=30), f"{at.n_done}/{at.n_cells}{left}"
    )
    for cell, seconds in at.running.items():
        view.add_row(f"  {duration(seconds)}", escape(str(cell)))
    return view


def show_plan(plan: Any) -> None:
    """Tell what a benchmark has to do, what it keeps, and which records are damaged."""
    for cell, fault in plan.damaged.items():
        say(f"{cell} is measured again: {fault}")
    say(f"{len(plan.waiting):,} cells to measure; {len(plan.kept):,} kept from earlier runs")


def show_outcomes(plan: Any, outcomes: Any, folder: Any) -> int:
    """Tell how a benchmark ended, and return its exit code: 1 where a cell of its grid has no figures."""
    ends = [record["status"] for record in plan.kept.values()] + [outcome.status for outcome in outcomes]
    counts = {status: ends.count(status) for status in ("measured", "cut", "failed")}
    say(", ".join(f"{count:,} {status}" for status, count in counts.items() if count or status == "measured"))
    without = len(ends) - counts["measured"]
    again = f"; {without:,} have no figures, try them again with --retry" if without else ""
    say(f"records are in {folder}{again}; next: deepidea benchmark report {folder} -o report.html")
    return int(without > 0)


def show_answers(answers: Any) -> None:
    """Print what a comparison found, a paragraph for each contest."""
    for answer in answers:
        out.print(f"[bold]{escape(answer.heading)}[/]  {escape(answer.lead)}", soft_wrap=True)
        for sentence in answer.more:
            out.print(f"  {escape(sentence)}", soft_wrap=True)


def show_sweep(sweep: Any) -> None:
    """Print what a system comes to at each strength of the prior correction."""
    told = ", ".join(f"{tau:g}: {sweep.mean(tau, 'mixed'):.1f}" for tau in sweep.by_tau)
    say(f"{sweep.data}: {sweep.system}, held-out CBA in percent by tau: {told}; best {sweep.best():g}")
