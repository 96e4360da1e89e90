"""What the command line shows: progress on the standard error, results on the standard output."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepidea.errors import DeepIDEAError


def is_worker() -> bool:
    """Whether torchrun started this process, one of several that train together."""
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
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def epoch_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback of epochs that prints a line each, with the time left."""
    say("epoch       loss  validation CBA      time      left")

    def show(epoch: Any) -> None:
        cba = "       -" if epoch.validation_cba != epoch.validation_cba else f"{100 * epoch.validation_cba:7.2f} %"
        say(
            f"{epoch.number:2d}/{epoch.n_epochs:<3d} {epoch.loss:10.4f}  {cba:>14s}  "
            f"{duration(epoch.elapsed_s):>8s}  {duration(epoch.left_s):>8s}"
        )

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


@contextlib.contextmanager
def flow_progress(title: str, *, unit: str = "flows") -> Iterator[Callable[[int], None]]:
    """Yield a callback of the flows, or packets, done so far that shows count and rate."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None, told="")

        def show(done: int) -> None:
            elapsed = progress.tasks[task].elapsed or 0.0
            rate = f"  {done / elapsed:,.0f} {unit}/s" if elapsed > 0 else ""
            progress.update(task, told=f"{done:,} {unit}{rate}")

        yield show


@contextlib.contextmanager
def benchmark_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback that tells each cell that ends, and on a terminal which ones run and how long it may take."""
    live = Live(console=err, transient=True, refresh_per_second=4) if err.is_terminal else None

    def show(at: Any) -> None:
        for outcome in at.ended:
            err.print(escape(_told_outcome(outcome)), soft_wrap=True)
        if live is not None:
            live.update(_benchmark_view(at))

    try:
        with live or contextlib.nullcontext():
            yield show
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        raise


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


def show_simulated(done: Any, capture: Any, labels: Any) -> None:
    """Tell what a simulation wrote."""
    told = ", ".join(f"{label} {count:,}" for label, count in done.conversations.most_common())
    say(f"wrote {capture}: {done.packets:,} packets, {done.without_label:,} of them ARP and without a label")
    say(f"wrote {labels}: {done.conversations.total():,} conversations: {told}")
    say("all of it is invented: no figure measured on it says anything about a real network")


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


def show_datasets(registered: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    """Print the data sets that the project knows and which are registered."""
    table = Table("name", "data set", "flows", "files", "from", box=None, header_style="bold", pad_edge=False)
    for name, record in registered.items():
        told = (f"{record.rows:,}", str(len(record.files)), record.source) if record else ("-", "-", "not registered")
        table.add_row(name, escape(titles[name]), *map(escape, told))
    out.print(table)


def show_description(description: Any) -> None:
    """Print what is in a data set."""
    out.print(f"[bold]{escape(description.title)}[/]  ({description.name}, taxonomy {description.taxonomy})")
    out.print(f"schema {description.schema}, {description.n_features} features")
    _show_files(description.files)
    for table in (description.train, description.test, *description.extras.values()):
        if table is not None:
            _show_flows(table)
    _show_split(description.split)
    if description.quirks:
        _show_pairs("quirks of the raw files, handled", {k: f"{v:,}" for k, v in description.quirks.items()})


def _show_files(files: Any) -> None:
    table = Table("file", "role", "rows", "sha256", "official", box=None, header_style="bold", pad_edge=False)
    told = {True: "yes", False: "no: its hash is not the publisher's", None: "publisher states no hash"}
    for file in files:
        table.add_row(escape(file.name), file.role, f"{file.rows:,}", file.sha256[:16], told[file.official])
    out.print(table)


def _show_flows(table: Any) -> None:
    out.print(f"\n[bold]{escape(table.source)}[/]  {table.rows:,} flows, imbalance (eq. 13) {table.imbalance:.2f}")
    out.print(
        f"  {table.distinct_rows:,} distinct ({table.duplicate_rows:,} duplicates); "
        f"{table.contradictory_rows:,} rows share their features with another class, "
        f"{table.benign_or_attack_rows:,} of them benign with attack"
    )
    for title, counts in (("class", table.classes), ("label", table.labels)):
        out.print(f"  {title}: " + escape(", ".join(f"{name} {count:,}" for name, count in counts.items())))
    cells = {"missing": table.missing_cells, "infinite": table.infinite_cells, "-1 window": table.minus_one_windows}
    for kind, columns in cells.items():
        if columns:
            out.print(f"  {kind} cells: " + ", ".join(f"{name} {count:,}" for name, count in columns.items()))


def _show_split(split: Any) -> None:
    if split is None:
        return
    out.print("\n[bold]test against training[/]")
    out.print(
        f"  {split.seen_rows:,} test flows ({100 * split.seen_share:.1f} %) have a twin in training, "
        f"{split.contradicting_rows:,} of them with the opposite verdict"
    )
    if split.new_labels:
        total = sum(split.new_labels.values())
        named = ", ".join(f"{name} {count:,}" for name, count in split.new_labels.items())
        out.print(f"  {len(split.new_labels)} labels occur only in the test, {total:,} flows: {escape(named)}")


def show_training_flows(contract: Mapping[str, Any]) -> None:
    """Tell which flows are trained on, and which are on neither side of the split."""
    classes = ", ".join(f"{name} {count:,}" for name, count in contract["class_rows"].items())
    say(f"training on {contract['rows']:,} flows of {contract['source']}: {classes}")
    for reason, rows in contract.get("split", {}).get("left_out", {}).items():
        counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        say(f"neither trained on nor tested ({reason.replace('_', ' ')}): {counts}")


def show_refused(refused: Mapping[str, str]) -> None:
    """Tell which columns of a table are no features, and why."""
    for column, reason in refused.items():
        say(f"not a feature: {column}: {reason}")


def show_evaluation(evaluation: Any, notes: Any) -> None:
    """Print the scores of a detector, subset by subset and class by class, and how far to trust them."""
    out.print(f"[bold]{escape(str(evaluation.data['source']))}[/]  {evaluation.data['rows']:,} flows")
    subsets = {name: scores for name, scores in evaluation.subsets.items() if scores is not None}
    columns = {**subsets, **evaluation.baselines}
    table = Table("percent", *(escape(_short(name)) for name in columns), box=None, header_style="bold", pad_edge=False)
    table.add_row("flows", *(f"{scores.n_rows:,}" for scores in columns.values()))
    for title, value in _SCORES.items():
        table.add_row(title, *(percent(value(scores)) for scores in columns.values()))
    out.print(table)
    _show_classes(evaluation.scores)
    for note in notes:
        out.print(f"[bold]{escape(note.heading)}[/] {escape(note.text)}", soft_wrap=True)


_SCORES: dict[str, Callable[[Any], float | None]] = {
    "class-balanced accuracy": lambda s: s.cba,
    "macro F1": lambda s: s.macro_f1,
    "accuracy": lambda s: s.accuracy,
    "detection rate": lambda s: s.detection_rate,
    "false-alarm rate": lambda s: s.false_alarm_rate,
    "PR-AUC": lambda s: s.pr_auc,
    "recall at FPR 1e-2": lambda s: s.recall_at_fpr["0.01"].recall,
    "recall at FPR 1e-3": lambda s: s.recall_at_fpr["0.001"].recall,
    "recall at FPR 1e-4": lambda s: s.recall_at_fpr["0.0001"].recall,
    "precision at prevalence 1e-4": lambda s: s.precision_at_prevalence["0.0001"],
    "calibration error": lambda s: s.calibration_error,
}


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _show_classes(scores: Any) -> None:
    columns = ("class", "flows", "precision", "recall", "95 %", "F1")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for name, of in scores.per_class.items():
        span = (
            "-"
            if of.recall_interval is None
            else f"{percent(of.recall_interval.low)}-{percent(of.recall_interval.high)}"
        )
        shares = (percent(of.precision), percent(of.recall), span, percent(of.f1))
        table.add_row(escape(name), f"{of.support:,}", *shares)
    out.print(table)


def show_card(detector: Any) -> None:
    """Print a detector's model card."""
    data, training = detector.card.get("data", {}), detector.card.get("training", {})
    out.print(f"[bold]DeepIDEA detector[/]  {escape(str(detector.card.get('created_with', '')))}")
    _show_pairs("input", _told_input(detector))
    _show_pairs("decision", _told_decision(detector))
    _show_pairs("trained on", _told_data(data))
    _show_pairs("training", _told_training(training))
    if "continued_from" in detector.card or "extra" in detector.card:
        _show_pairs("went on from", _told_beginning(detector.card, training))


def _told_input(detector: Any) -> dict[str, str]:
    schema = detector.schema
    categories = {name: len(values) for name, values in detector.encoder.vocabulary_.items()}
    return {
        "schema": schema.name,
        "numbers": f"{len(schema.numbers)}, scaled by {detector.encoder.scaling}",
        "categories": ", ".join(f"{name} ({count} values)" for name, count in categories.items()) or "none",
    }


def _told_decision(detector: Any) -> dict[str, str]:
    decision = detector.decision
    prior = decision.by_class(_row(decision.prior))[0]
    told = {"classes": ", ".join(f"{c} ({100 * p:.2g} %)" for c, p in zip(detector.classes, prior, strict=True))}
    if detector.labels != detector.classes:
        told["labels told apart"] = ", ".join(detector.labels)
    told["rule"] = f"softmax(z / {decision.temperature:g}) / prior^{decision.tau:g}, added up by class"
    if detector.novelty is not None and detector.novelty.rate:
        told["rule"] += f"; never benign where anomaly > {1 - detector.novelty.rate:g}"
    return {**told, "what is new": _told_novelty(detector.novelty)}


def _told_novelty(novelty: Any) -> str:
    if novelty is None:
        return "not told"
    least = math.exp(novelty.benign.log_shares[-1])
    told = f"anomaly, by held-out benign flows, down to a rate of {least:.2g}"
    without = [
        side for side, bound in zip(("benign flows", "attacks"), novelty.bounds, strict=True) if bound == math.inf
    ]
    return told + (f"; unknown never: too few held-out {' and '.join(without)}" if without else "; unknown")


def _row(values: Any) -> Any:
    import numpy as np

    return np.array([values], np.float32)


def _told_data(data: Mapping[str, Any]) -> dict[str, str]:
    files = [f"{file.get('name')} (sha256 {str(file.get('sha256'))[:12]})" for file in data.get("files", [])]
    classes = ", ".join(f"{name} {count:,}" for name, count in data.get("class_rows", {}).items())
    split = data.get("split", {})
    told = {"source": data.get("source"), "taxonomy": data.get("taxonomy"), "files": ", ".join(files)}
    return {**told, "flows": f"{data.get('rows', 0):,}: {classes}", "split": split.get("kind")}


def _told_training(training: Mapping[str, Any]) -> dict[str, str]:
    parameters = ", ".join(f"{name}={_brief(value)}" for name, value in training.get("parameters", {}).items())
    epochs = training.get("epochs", [])
    last = epochs[-1] if epochs else {}
    return {
        "preset": training.get("preset", "-"),
        "parameters": parameters,
        "seed, threads": f"{training.get('random_state')}, {training.get('n_threads')}",
        "time": duration(training.get("seconds", 0.0)),
        "last epoch": f"loss {last.get('loss', 0):.4f}, validation CBA {percent(last.get('validation_cba'))} %",
        "distinct vectors": f"{training.get('distinct_rows', 0):,}",
        "interrupted": "yes: the best epoch so far was kept" if training.get("interrupted") else "",
    }


def _told_beginning(card: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    begun, extra, compared = (card.get(name) or {} for name in ("continued_from", "extra", "comparison"))
    classes = ", ".join(f"{name} {count:,}" for name, count in extra.get("class_rows", {}).items())
    weight = str(training.get("extra_weight"))[:6]
    return {
        "detector": f"{begun.get('model')} ({begun.get('name')})" if begun else "none: trained anew",
        "judged flows": f"{extra.get('rows', 0):,}, each as {weight}: {classes}" if extra else "",
        "beside it": f"{compared.get('verdict')}: {compared.get('reason')}" if compared else "",
    }


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(set(value)) == 1 and len(value) > 3:
        return f"{len(value)}x{value[0]}"
    return str(value)


def _show_pairs(title: str, pairs: Mapping[str, str | None]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value:
            table.add_row(f"  {escape(name)}", escape(str(value)))
    out.print(f"[bold]{title}[/]")
    out.print(table)
