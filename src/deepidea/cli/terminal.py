"""The terminal: progress and what is told on the standard error, results on the standard output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deepidea.errors import DeepIDEAError

_WIDE = 180


def is_worker() -> bool:
    """Whether this process is one of several that train together, as what started it tells in the environment."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_silent_worker() -> bool:
    """Whether another one of several processes tells what all of them do."""
    return is_worker() and os.environ["RANK"] != "0"


out = Console(highlight=False, emoji=False, quiet=is_silent_worker())
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Tell the user something about the run, on the standard error."""
    if not is_silent_worker():
        err.print(text, markup=False, soft_wrap=True)


def fail(error: DeepIDEAError) -> None:
    """Print an error of the library, without a traceback."""
    err.print(Text.assemble(("error:", "bold red"), " ", str(error)), soft_wrap=True)


@contextlib.contextmanager
def byte_progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback of bytes done and bytes in all that draws a bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def flow_progress(title: str, *, unit: str = "flows") -> Iterator[Callable[[int], None]]:
    """Yield a callback of the flows, or packets, done so far that shows count and rate."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None, told="")

        def show(done: int) -> None:
            elapsed = progress.tasks[task].elapsed or 0.0
            rate = f"  {done / elapsed:,.0f} {unit}/s" if elapsed > 0 else ""
            progress.update(task, told=f"{done:,} {unit}{rate}")

        yield show


@contextlib.contextmanager
def stopping(seconds: float | None = None) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and, if given, the end of so many seconds set; a second Ctrl-C breaks off."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def halt(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    timer = threading.Timer(seconds, stop.set) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    in_main = threading.current_thread() is threading.main_thread()
    try:
        for number in before if in_main else ():
            signal.signal(number, halt)
        yield stop
    finally:
        for number, handler in before.items() if in_main else ():
            signal.signal(number, handler)
        if timer is not None:
            timer.cancel()


def show_losses(skipped: Mapping[str, int], dropped: Mapping[str, int]) -> None:
    """Tell what was skipped and what was dropped, by reason; nothing where there was nothing."""
    for what, counts in (("skipped", skipped), ("dropped", dropped)):
        listed = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
        if listed:
            say(f"{what}: {listed}")


def show_pairs(title: str, pairs: Mapping[str, str | None]) -> None:
    """Print a title, and what there is of names and values below it."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value:
            table.add_row(f"  {escape(name)}", escape(str(value)))
    out.print(f"[bold]{title}[/]")
    out.print(table)


def print_wide(table: Table) -> None:
    """Print a table; into a file or pipe without folding it to a terminal's width."""
    (out if out.is_terminal else Console(width=_WIDE, highlight=False, emoji=False)).print(table)


def write_json(told: Any, *, ensure_ascii: bool = True) -> None:
    """Write what a command was asked for as JSON, on the standard output."""
    sys.stdout.write(json.dumps(told, indent=1, ensure_ascii=ensure_ascii) + "\n")


def duration(seconds: float) -> str:
    """Return seconds for people.

    Examples
    --------
    >>> duration(3.21), duration(75), duration(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """Return a share in percent, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"
