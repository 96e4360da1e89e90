from __future__ import annotations

import pytest
from rich.console import Console

from deepidea.benchmark.cell import Cell
from deepidea.benchmark.runner import Outcome, Progress
from deepidea.cli import benchmark
from deepidea.cli.benchmark import benchmark_progress


def test_a_benchmark_prints_what_ended_and_on_a_terminal_what_runs(capsys, monkeypatch):
    cells = [Cell("kdd99", "auto", name, 0) for name in ("tree", "lstm", "knn")]
    ended = (Outcome(cells[0], "measured", 3.0, cba=0.5123), Outcome(cells[1], "cut", 9.0, "it took [too] long"))
    at = Progress(5, 4, {cells[2]: 7.0}, 61.0, ended)
    with benchmark_progress() as show:
        show(at)
    assert capsys.readouterr().err.splitlines() == [
        "kdd99, auto: tree, seed 0: CBA 51.23 %  (3.0 s)",
        "kdd99, auto: lstm, seed 0: cut: it took [too] long  (9.0 s)",
    ]
    terminal = Console(stderr=True, force_terminal=True, width=100)
    monkeypatch.setattr(benchmark, "err", terminal)
    with benchmark_progress() as show:
        show(at)
        printed = "".join(str(segment.text) for segment in terminal.render(benchmark._running(at)))
    assert "4/5, about 1 min 1 s left" in printed
    assert "7.0 s" in printed
    assert "kdd99, auto: knn, seed 0" in printed


def test_an_interrupted_benchmark_says_how_to_resume():
    with pytest.raises(KeyboardInterrupt, match="the same command resumes here"), benchmark_progress():
        raise KeyboardInterrupt
