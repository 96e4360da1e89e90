"""The command `deepidea train`: in one process or several, here or on Spark, from memory or from shards."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepidea.cli.comparison import show_comparison
from deepidea.cli.model_card import show_card
from deepidea.cli.options import (
    Benign,
    Engine,
    Inputs,
    Label,
    TaxonomyName,
    fields_as_options,
    one_name,
    option,
    require_writable,
)
from deepidea.cli.shards import refuse_with_shards, train_in_shards
from deepidea.cli.terminal import is_silent_worker, is_worker, say
from deepidea.cli.training_output import epoch_progress, show_gathered, show_training_flows

if TYPE_CHECKING:
    from deepidea.evaluation.continued_training import Gathered
    from deepidea.model.detector import Detector
    from deepidea.model.workers import Workers


Preset = Literal["default", "paper"]
"""Recipes of training."""


Loss = Literal[
    "attack-sharing",
    "focal",
    "class-balanced",
    "ldam",
    "logit-adjusted",
    "balanced-softmax",
    "hierarchical",
    "cost-sensitive",
]
"""Losses that training minimises: the names of ``LOSSES``, which needs torch to be imported."""


Encoding = Literal["scaled", "thermometer", "piecewise-linear", "scaled+thermometer", "scaled+piecewise-linear"]
"""What the network gets of a number: the names of ``NUMBER_ENCODINGS``."""


SplitKind = Literal["auto", "official", "stratified", "by-time", "by-host-pair", "none"]
"""Ways to hold out flows for testing."""


Device = Literal["auto", "cpu", "cuda"]
"""Where the network is trained."""


DATA, NETWORK, CONTINUE, SCALE = "Data", "Network and training", "Continue from a detector", "Scale"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of `deepidea train`."""

    data: Inputs
    output: Annotated[Path, option("Detector file to write.", "--output", "-o")]
    preset: Annotated[Preset | None, option("Recipe: the project's best (default), or the paper's.")] = None
    seed: Annotated[
        int | None,
        option("Makes training reproducible to the bit; it then uses one thread by default.", min=0, max=2**32 - 1),
    ] = None
    label: Label = None
    benign: Benign = None
    taxonomy: TaxonomyName = None
    keep: Annotated[list[str] | None, option("Keep this column of a table as a feature; repeatable.", panel=DATA)] = (
        None
    )
    port: Annotated[bool, option("Use the destination port as a feature.", panel=DATA)] = False
    schema: Annotated[
        str | None, option("Schema: conn for Zeek, Suricata and NetFlow; conn+context; cicflow+context.", panel=DATA)
    ] = None
    split: Annotated[SplitKind, option("How test flows are held out.", panel=DATA)] = "auto"
    test_fraction: Annotated[float, option("Share held out if there is no official split.", panel=DATA)] = 1 / 6
    labels: Annotated[bool | None, option("Train on native labels, not on classes only.", panel=DATA)] = None
    loss: Annotated[Loss | None, option("Loss function; by default the preset's.", panel=NETWORK)] = None
    attack_weight: Annotated[
        float | None,
        option("Lambda of the losses attack-sharing (0: cross-entropy) and hierarchical.", min=0.0, panel=NETWORK),
    ] = None
    number_encoding: Annotated[
        Encoding | None,
        option("What the network gets of a number: docs/concepts.md; by default the preset's.", panel=NETWORK),
    ] = None
    quantiles: Annotated[
        int | None,
        option("Edges of a thermometer, or bins of a piecewise-linear encoding.", min=1, max=256, panel=NETWORK),
    ] = None
    epochs: Annotated[int | None, option("Passes over the training flows.", min=1, panel=NETWORK)] = None
    learning_rate: Annotated[
        float | None, option("Step size; by default the preset's, with --continue a tenth of it.", panel=NETWORK)
    ] = None
    threads: Annotated[
        int | None, option("Training threads; by default the fastest number, measured.", min=1, panel=NETWORK)
    ] = None
    device: Annotated[Device, option("Where to train; auto takes CUDA if there is any.", panel=NETWORK)] = "auto"
    continued: Annotated[
        Path | None,
        option("Start from this detector: weights, encoder, classes, parameters.", "--continue", panel=CONTINUE),
    ] = None
    extra: Annotated[
        list[Path] | None, option("Add labelled alerts, from `deepidea feedback export`; repeatable.", panel=CONTINUE)
    ] = None
    extra_weight: Annotated[
        float | None,
        option("Weight of each labelled alert; by default all of them weigh a tenth of training.", panel=CONTINUE),
    ] = None
    checkpoint: Annotated[
        Path | None, option("Save training to this file after each epoch, and resume from it.", panel=SCALE)
    ] = None
    shards: Annotated[
        int | None,
        option("Split a table larger than memory into so many parts: docs/large-data.md.", min=2, panel=SCALE),
    ] = None
    workers: Annotated[int, option("Processes that train together: docs/large-data.md.", min=1, panel=SCALE)] = 1
    engine: Annotated[Engine, option("Start the workers on this machine, or on Spark.", panel=SCALE)] = "local"
    master: Annotated[
        str | None, option("Spark: local[2], spark://host:7077, yarn, k8s://...; by default local[*].", panel=SCALE)
    ] = None

    @property
    def own_data(self) -> dict[str, str | None]:
        """How labels of a table are read."""
        return {"taxonomy": self.taxonomy, "label": self.label, "benign": self.benign}

    def training(self, workers: Workers | None) -> dict[str, Any]:
        """Return the parameters of training; without a seed one is drawn."""
        import secrets

        changes = {
            "labels": self.labels,
            "loss": self.loss,
            "attack_weight": self.attack_weight,
            "number_encoding": self.number_encoding,
            "n_quantiles": self.quantiles,
            "n_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "random_state": secrets.randbelow(2**31) if self.seed is None else self.seed,
            "n_threads": self.threads or ("auto" if self.seed is None else None),
            "device": self.device,
        }
        fixed = {"preset": self.preset or "default", "workers": workers, "checkpoint": self.checkpoint}
        return fixed | {name: value for name, value in changes.items() if value is not None}


@fields_as_options(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a detector on labelled flows and write it to a file.

    Ctrl-C ends training early and keeps the best model so far.
    """
    if options.master is not None and options.engine != "spark":
        raise typer.BadParameter("--master needs --engine spark")
    require_writable(options.output)
    # a worker was started by this command with the same options: it trains
    if options.engine == "spark" and not is_worker():
        _train_on_spark(options)
    elif options.workers > 1 and not is_worker():
        _train_together(options)
    else:
        _train_here(options)


def _train_together(options: TrainOptions) -> None:
    """Run this command line in several processes, with the seed and checkpoint that they need in common."""
    from deepidea.model.workers import launch

    arguments = _common_arguments(options)
    raise typer.Exit(launch("deepidea.cli.app", options.workers, arguments, threads=options.threads or 1))


def _train_on_spark(options: TrainOptions) -> None:
    """Run this command line in several processes on executors, and write the detector here."""
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_training import session_options, train_on_spark

    output = options.output
    checkpoint = options.checkpoint or output.with_name(f"{output.name}.checkpoint")
    with open_session(options.master or "local[*]", options=session_options(threads=options.threads or 1)) as spark:
        trained = train_on_spark(
            spark,
            options.workers,
            run_command,
            _common_arguments(options),
            output,
            checkpoint,
            inputs=[*options.data, *(options.extra or ()), *([options.continued] if options.continued else [])],
            use_gpu=options.device == "cuda",
        )
    typer.echo(trained.shown, nl=False)
    _say_written(options)


def run_command(arguments: list[str]) -> None:
    """Run a command line in this process: what each process on Spark runs."""
    from deepidea.cli.app import app

    app(arguments, standalone_mode=False)


def _common_arguments(options: TrainOptions) -> list[str]:
    from deepidea.model.workers import common_arguments

    return common_arguments(sys.argv[1:], options.output, seed=options.seed, checkpoint=options.checkpoint)


def _train_here(options: TrainOptions) -> None:
    """Train in this process, alone or as one of several; the first of several prints and writes for all."""
    # Workers read the same data and sum their gradients, so that all of them end with the same network: the first one
    # writes it.
    with _joined(options.device) as workers:
        training = options.training(workers)
        if options.shards is None:
            detector = _train_in_memory(options, training)
        else:
            _refuse_with_shards(options)
            detector = train_in_shards(options, options.shards, **training)
    if is_silent_worker():
        return
    detector.save(options.output)
    if options.checkpoint is not None:  # the training is done, nothing is left to resume
        options.checkpoint.unlink(missing_ok=True)
        options.checkpoint.with_name(f"{options.checkpoint.name}.seed").unlink(missing_ok=True)
    show_card(detector)
    _say_written(options)


def _joined(device: Device) -> Any:
    """Return the context of processes that train together, None alone: torch is not imported for that."""
    if not is_worker():
        return contextlib.nullcontext()
    from deepidea.model.workers import join_workers

    return join_workers("nccl" if device == "cuda" else "gloo")


def _say_written(options: TrainOptions) -> None:
    say(f"wrote {options.output}; next: deepidea evaluate {options.output} {' '.join(options.data)}")


def _refuse_with_shards(options: TrainOptions) -> None:
    in_memory = ("taxonomy", "port", "labels", "extra", "extra_weight")
    given = {name.replace("_", "-"): getattr(options, name) for name in in_memory}
    split = options.split not in ("auto", "none")
    refuse_with_shards(given | {"continue": options.continued, "split": split})


def _train_in_memory(options: TrainOptions, training: dict[str, Any]) -> Detector:
    from deepidea.model.presets import train_detector

    gathered = _gather(options)
    show_training_flows(gathered.part.contract, gathered.part.refused)
    show_gathered(gathered)
    with epoch_progress() as on_epoch:
        detector = train_detector(
            gathered.part.flows,
            card=gathered.card,
            on_epoch=on_epoch,
            extra=gathered.extra.flows if gathered.extra else None,
            extra_weight=options.extra_weight,
            start=gathered.start,
            **training,
        )
    if gathered.start is None or is_silent_worker():
        return detector
    return _compared(options, gathered.start, detector)


def _gather(options: TrainOptions) -> Gathered:
    from deepidea.evaluation.continued_training import gather

    return gather(
        one_name(options.data),
        continued=options.continued,
        extra=options.extra or (),
        fresh={
            "labels": options.labels is not None,
            "keep": options.keep or (),
            "use_port": options.port,
            "schema": options.schema,
            "preset": options.preset,
            "number-encoding": options.number_encoding,
            "quantiles": options.quantiles,
        },
        split=options.split,
        test_fraction=options.test_fraction,
        split_seed=options.seed or 0,
        **options.own_data,
    )


def _compared(options: TrainOptions, start: Detector, detector: Detector) -> Detector:
    """Print a detector beside the one that training continued from, and return it with the comparison on its card."""
    from deepidea.evaluation.continued_training import compare_with_start, with_comparison

    comparison = compare_with_start(start, detector, one_name(options.data), **options.own_data)
    show_comparison(comparison)
    return with_comparison(detector, comparison)
