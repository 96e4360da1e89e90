"""The terminal: progress and messages on the standard error, results on the standard output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from deepidea.errors import DeepIDEAError

_WIDE = 180


def is_worker() -> bool:
    """Return whether this process is one of several that train together: its launcher sets these variables."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_silent_worker() -> bool:
    """Return whether another one of several processes prints for all of them."""
    return is_worker() and os.environ["RANK"] != "0"


out = Console(highlight=False, emoji=False, quiet=is_silent_worker())
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print a line about the run, on the standard error."""
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

    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[shown]}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None, shown="")

        def show(done: int) -> None:
            elapsed = progress.tasks[task].elapsed or 0.0
            rate = f"  {done / elapsed:,.0f} {unit}/s" if elapsed > 0 else ""
            progress.update(task, shown=f"{done:,} {unit}{rate}")

        yield show


@contextlib.contextmanager
def stopping(seconds: float | None = None) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and, if given, the end of so many seconds set; a second Ctrl-C breaks off."""
    # The first signal lets the work end by itself, with what was read stored; a second Ctrl-C raises. Handlers can be
    # set in the main thread alone, and are restored at the end.
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
    """Print what was skipped and what was dropped, by reason."""
    for what, counts in (("skipped", skipped), ("dropped", dropped)):
        listed = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
        if listed:
            say(f"{what}: {listed}")


def show_pairs(title: str, pairs: Mapping[str, str | None]) -> None:
    """Print a title, and below it the names that have a value."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value:
            table.add_row(Text(f"  {name}"), Text(str(value)))
    out.print(f"[bold]{title}[/]")
    out.print(table)


def show_table(columns: Sequence[str | Column], rows: Iterable[Sequence[str | Text]], *, empty: str = "") -> None:
    """Print a table, or a line where it has no rows; into a file or pipe it is not folded to 80 columns."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    # rich takes 80 columns where there is no terminal, and would fold what a script reads
    if empty and not table.row_count:
        say(empty)
    else:
        (out if out.is_terminal else Console(width=_WIDE, highlight=False, emoji=False)).print(table)


def write_json(value: Any, *, ensure_ascii: bool = True) -> None:
    """Write a value as JSON on the standard output."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=ensure_ascii) + "\n")


def counted(counts: Mapping[str, int]) -> str:
    """Return names and their counts.

    Examples
    --------
    >>> counted({"benign": 1200, "dos": 3})
    'benign 1,200, dos 3'
    """
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def duration(seconds: float) -> str:
    """Return seconds in words.

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
