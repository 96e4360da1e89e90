"""A grid of data sets, protocols, systems and seeds, measured cell by cell, each in a process of its own.

A run may be killed at any time: records are written whole or not at all, and the next run keeps those that are there.
A cell that takes longer than its budget is cut, a system that fails is recorded with its reason, and the run goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import IO, Literal, cast, get_args

from deepidea.benchmark.cell import Cell, Record, read_all, read_record, write_record
from deepidea.benchmark.provenance import about_this_run
from deepidea.benchmark.systems import SYSTEMS, Group, find_system
from deepidea.errors import DataError, DatasetError, FileFormatError
from deepidea.flows.datasets.loading import installed_datasets
from deepidea.flows.datasets.specs import get_dataset_spec

Status = Literal["measured", "cut", "failed"]
WORKER = (sys.executable, "-m", "deepidea.benchmark.cell")
# Cells run side by side: with threads of their own they would compete, and their times would depend on the neighbours.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")} | {
    "POLARS_MAX_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
}
_POLL_S = 0.05


# --- the grid ----------------------------------------------------------------------------------------------------


def choose_systems(names: Sequence[str]) -> list[str]:
    """Return the systems of names and groups, each once.

    Parameters
    ----------
    names : sequence of str
        Systems, with changed parameters or without; "all"; or groups. A word that is a system and a group is the
        system.

    Raises
    ------
    DataError
        A name is none of them.

    Examples
    --------
    >>> choose_systems(["reference", "deepidea", "one-rule", "deepidea:attack_weight=3"])
    ['majority', 'one-rule', 'deepidea', 'deepidea:attack_weight=3']
    """
    return list(dict.fromkeys(system for name in names for system in _systems_of(name)))


def _systems_of(name: str) -> list[str]:
    if name == "all":
        return list(SYSTEMS)
    if name in get_args(Group) and name not in SYSTEMS:
        return [system for system, info in SYSTEMS.items() if info.group == name]
    find_system(name)
    return [name]


def make_grid(data: Sequence[str], protocols: Sequence[str], systems: Sequence[str], n_seeds: int) -> list[Cell]:
    """Return the cells of a grid; every system gets its first seed before any gets its second.

    Raises
    ------
    DataError
        No such system, or a seed too few.
    DatasetError
        A data set is not known, or not registered on this machine.
    """
    if n_seeds < 1:
        raise DataError(f"n_seeds must be at least 1, got {n_seeds}")
    _refuse_unregistered(data)
    # the system varies fastest, so a run that is stopped early has whole seeds
    order = product(dict.fromkeys(data), dict.fromkeys(protocols), range(n_seeds), choose_systems(systems))
    return [Cell(name, protocol, system, seed) for name, protocol, seed, system in order]


def _refuse_unregistered(data: Sequence[str]) -> None:
    records = installed_datasets()
    for name in (each.partition("@")[0] for each in data):  # behind the at sign stands a taxonomy
        get_dataset_spec(name)
        if records[name] is None:
            raise DatasetError(
                f"data set {name} is not registered on this machine; run: deepidea data add {name} DIR, or deepidea "
                f"data get {name}"
            )


# --- what is there already ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells that a run has to measure, and the records that earlier runs left.

    Attributes
    ----------
    waiting : tuple of Cell
        To be measured, in order.
    kept : mapping of Cell to record
        From earlier runs.
    damaged : mapping of Cell to str
        Those of the waiting whose record cannot be read, and why.
    """

    waiting: tuple[Cell, ...]
    kept: Mapping[Cell, Record]
    damaged: Mapping[Cell, str]


def plan_run(cells: Sequence[Cell], folder: Path, *, retry: bool = False) -> Plan:
    """Return which cells of a grid have no record under a folder; with ``retry``, no measured one."""
    kept: dict[Cell, Record] = {}
    damaged: dict[Cell, str] = {}
    for cell in cells:
        try:
            record = _record_of(cell, folder)
        except FileFormatError as error:
            damaged[cell] = str(error)
            continue
        if record and not (retry and record["status"] != "measured"):
            kept[cell] = record
    return Plan(tuple(cell for cell in cells if cell not in kept), kept, damaged)


def _record_of(cell: Cell, folder: Path) -> Record | None:
    path = cell.path(folder)
    if not path.exists():
        return None
    record = read_record(path)
    if Cell.of(record) != cell:
        raise FileFormatError(f"{path} is the record of another cell ({Cell.of(record)}); remove it")
    return record


# --- running -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended in this run; ``cba`` is that of the system's own decision."""

    cell: Cell
    status: Status
    seconds: float
    reason: str = ""
    cba: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Attributes
    ----------
    n_cells, n_done : int
        Of the grid; done counts those kept from earlier runs.
    running : mapping of Cell to float
        Seconds since each started.
    left_s : float or None
        Estimate: what the same system took on the same data, else the mean of all; None before the first has ended.
    ended : tuple of Outcome
        Cells that ended since the last call.
    """

    n_cells: int
    n_done: int
    running: Mapping[Cell, float]
    left_s: float | None
    ended: tuple[Outcome, ...] = ()


def run_cells(
    plan: Plan,
    folder: Path,
    *,
    jobs: int = 2,
    budget_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    worker: Sequence[str] | None = None,
) -> list[Outcome]:
    """Measure the cells that a plan has waiting, and return how each ended.

    Parameters
    ----------
    plan : Plan
    folder : path
        Each record goes to :meth:`Cell.path` under it; the output of a process that did not end well stays beside, as
        ``seed-<n>.log``.
    jobs : int
        Processes at once, each held to one thread.
    budget_s : float, optional
        Seconds that a cell may take; then it is killed and recorded as "cut".
    progress : callable
        Called when a cell ends, and about twenty times a second.
    worker : sequence of str, optional
        Command line that measures a cell, given folder, data, protocol, system and seed; :data:`WORKER` where absent.

    Raises
    ------
    StorageError
        A record cannot be written.
    """
    run = _Run(plan, folder, budget_s, tuple(worker or WORKER))
    try:
        while run.waiting or run.running:
            while run.waiting and len(run.running) < jobs:
                run.start_next()
            ended = run.settle_ended()
            progress(run.progress(jobs, ended))
            # Only an idle round sleeps: cells that end at once are not held up.
            if not ended:
                time.sleep(_POLL_S)
    finally:
        run.kill_all()
    return run.outcomes


@dataclass(slots=True)
class _Process:
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def kill(self) -> None:
        """Kill it with all that it started, which a session of its own holds together."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        cast(IO[bytes], self.process.stdin).close()


class _Run:
    """The state of a run."""

    def __init__(self, plan: Plan, folder: Path, budget_s: float | None, worker: tuple[str, ...]) -> None:
        self.folder, self.budget_s, self.worker = folder, budget_s, worker
        self.waiting, self.running = list(plan.waiting), dict[Cell, _Process]()
        self.outcomes: list[Outcome] = []
        self.n_kept = len(plan.kept)
        self.taken_s: dict[tuple[str, ...], list[float]] = {}
        for cell, record in plan.kept.items():
            self._remember(
                cell, sum(record.get("times", {}).get(name, 0.0) for name in ("load_s", "fit_s", "predict_s"))
            )

    def _remember(self, cell: Cell, seconds: float) -> None:
        if seconds:
            self.taken_s.setdefault((cell.data, cell.protocol, cell.system), []).append(seconds)

    def start_next(self) -> None:
        cell = self.waiting.pop(0)
        path = cell.path(self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        # the record is the only message from the process
        path.unlink(missing_ok=True)  # of an earlier run: a record that is there afterwards is this run's
        log = path.with_suffix(".log")
        arguments = (str(self.folder), cell.data, cell.protocol, cell.system, str(cell.seed))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.worker, *arguments],
                stdin=subprocess.PIPE,  # it ends with this process, however this one ends
                stdout=output,
                stderr=output,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )
        self.running[cell] = _Process(process, log)

    def settle_ended(self) -> tuple[Outcome, ...]:
        return tuple(outcome for cell in list(self.running) if (outcome := self._settle(cell)))

    # A cell is running until its process ends or its budget does. Either way the process group is killed, so that no
    # child outlives it; the record that it wrote decides the outcome, and its absence is an outcome of its own.
    def _settle(self, cell: Cell) -> Outcome | None:
        at = self.running[cell]
        over = self.budget_s is not None and at.seconds > self.budget_s
        if at.process.poll() is None and not over:
            return None
        # Before the kill: waiting for the group to end is not the cell's time.
        seconds = at.seconds
        at.kill()
        del self.running[cell]
        outcome = self._outcome(cell, at, seconds, over)
        self._remember(cell, seconds)
        self.outcomes.append(outcome)
        if outcome.status == "measured" or not at.log.stat().st_size:
            at.log.unlink()
        return outcome

    def _outcome(self, cell: Cell, at: _Process, seconds: float, over: bool) -> Outcome:
        try:
            record = _record_of(cell, self.folder)
        except FileFormatError as error:
            record = None
            at.log.write_text(str(error))
        if record is None:
            # Without a record the process died or was killed before it could write one.
            status = "cut" if over else "failed"
            reason = f"it took longer than its budget of {self.budget_s:g} s" if over else _reason_of_death(at)
            record = cell.begin_record(status, reason=reason, seconds=seconds, run=about_this_run())
            write_record(cell.path(self.folder), record)
        cba = record["decisions"]["own"]["cba"] if record["status"] == "measured" else None
        return Outcome(cell, record["status"], seconds, record.get("reason", ""), cba)

    def kill_all(self) -> None:
        for at in self.running.values():
            at.kill()
            at.log.unlink(missing_ok=True)

    def progress(self, jobs: int, ended: tuple[Outcome, ...]) -> Progress:
        done = self.n_kept + len(self.outcomes)
        running = {cell: at.seconds for cell, at in self.running.items()}
        return Progress(done + len(running) + len(self.waiting), done, running, self._left_s(running, jobs), ended)

    def _left_s(self, running: Mapping[Cell, float], jobs: int) -> float | None:
        if not self.taken_s:
            return None
        # cells of one system on one data set take about as long as each other; a cell over its expectation adds nothing
        left = sum(self._expected_s(cell) for cell in self.waiting)
        return (left + sum(max(0.0, self._expected_s(cell) - s) for cell, s in running.items())) / jobs

    def _expected_s(self, cell: Cell) -> float:
        known = self.taken_s.get((cell.data, cell.protocol, cell.system))
        return statistics.fmean(known or [s for taken in self.taken_s.values() for s in taken])


def _reason_of_death(at: _Process) -> str:
    code = at.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    lines = at.log.read_text(errors="replace").strip().splitlines()
    return f"its process ended with exit code {code}" + (f": {lines[-1][:500]}" if lines else "")


# --- all records of a folder -------------------------------------------------------------------------------------


def read_records(folder: Path) -> tuple[list[Record], dict[str, str]]:
    """Return all records under a folder, in order of their cells, and the faults of those that cannot be read.

    Raises
    ------
    DataError
        There is no record.
    """
    records, faults = read_all(folder, "*/*/*/seed-*.json", read_record)
    if not records:
        raise DataError(
            f"{folder} holds no records of a benchmark; measure some: deepidea benchmark run --out {folder}"
        )
    return sorted(records, key=_order), faults


def _order(record: Record) -> tuple[str, str, int, str, int]:
    row = record["system"].partition(":")[0]
    place = list(SYSTEMS).index(row) if row in SYSTEMS else len(SYSTEMS)
    return record["data"], record["protocol"], place, record["system"], record["seed"]


def iter_missing(records: Sequence[Record]) -> Iterator[Cell]:
    """Yield the seeds that a system lacks and another of the same experiment has."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for record in records:
        seeds.setdefault((record["data"], record["protocol"]), set()).add(record["seed"])
    # a seed counts as missing where any system of the same experiment has it
    there = {(r["data"], r["protocol"], r["system"], r["seed"]) for r in records}
    for data, protocol, system in dict.fromkeys((r["data"], r["protocol"], r["system"]) for r in records):
        for seed in sorted(seeds[data, protocol]):
            if (data, protocol, system, seed) not in there:
                yield Cell(data, protocol, system, seed)
