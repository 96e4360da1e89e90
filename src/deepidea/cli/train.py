"""The command `deepidea train`: alone, as one of several processes, on Spark, from memory or from shards."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepidea.cli.card import show_card
from deepidea.cli.model_tables import show_comparison
from deepidea.cli.options import (
    Benign,
    Engine,
    Inputs,
    Label,
    TaxonomyName,
    one_name,
    refuse_unwritable,
    taking,
)
from deepidea.cli.shards import refuse_with_shards, train_in_shards
from deepidea.cli.terminal import is_silent_worker, is_worker, say
from deepidea.cli.training_tables import epoch_progress, show_gathered, show_refused, show_training_flows

if TYPE_CHECKING:
    from deepidea.evaluation.continued_training import Gathered
    from deepidea.model.detector import Detector
    from deepidea.model.workers import Workers


class Preset(StrEnum):
    """Recipes of training."""

    default = "default"
    paper = "paper"


class Loss(StrEnum):
    """Losses that a network is trained with; the names of ``LOSSES``, which is not read here because it needs torch."""

    attack_sharing = "attack-sharing"
    focal = "focal"
    class_balanced = "class-balanced"
    ldam = "ldam"
    logit_adjusted = "logit-adjusted"
    balanced_softmax = "balanced-softmax"
    hierarchical = "hierarchical"
    cost_sensitive = "cost-sensitive"


class SplitKind(StrEnum):
    """Ways to hold out flows for testing."""

    auto = "auto"
    official = "official"
    stratified = "stratified"
    by_time = "by-time"
    by_host_pair = "by-host-pair"
    none = "none"


class Device(StrEnum):
    """Where the network is trained."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What `deepidea train` takes."""

    data: Inputs
    output: Annotated[Path, typer.Option("--output", "-o", help="Detector file to write.")]
    preset: Annotated[Preset | None, typer.Option(help="Recipe: the project's best (default), or the paper's.")] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Makes the run reproducible to the bit, on one thread by default."),
    ] = None
    label: Label = None
    benign: Benign = None
    keep: Annotated[list[str] | None, typer.Option(help="Column of a table to keep as a feature.")] = None
    taxonomy: TaxonomyName = None
    port: Annotated[bool, typer.Option(help="Let the destination port be a feature.")] = False
    schema: Annotated[
        str | None,
        typer.Option(help="Schema to train in: conn for Zeek, Suricata and NetFlow; conn+context, cicflow+context."),
    ] = None
    split: Annotated[SplitKind, typer.Option(help="How test flows are held out.")] = SplitKind.auto
    test_fraction: Annotated[float, typer.Option(help="Share held out where no official split is taken.")] = 1 / 6
    labels: Annotated[bool | None, typer.Option(help="Tell native labels apart, not classes only.")] = None
    loss: Annotated[Loss | None, typer.Option(help="What training minimises; the preset's where absent.")] = None
    attack_weight: Annotated[
        float | None,
        typer.Option(min=0.0, help="Lambda of the losses attack-sharing (0 is cross-entropy) and hierarchical."),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training flows.")] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Training threads; measured where absent.")] = None
    device: Annotated[Device, typer.Option(help="Where to train; auto takes CUDA where there is one.")] = Device.auto
    continued: Annotated[
        Path | None, typer.Option("--continue", help="Go on from this detector: weights, encoder, classes, parameters.")
    ] = None
    extra: Annotated[
        list[Path] | None, typer.Option(help="Judged flows to train on besides, see `deepidea feedback export`.")
    ] = None
    extra_weight: Annotated[
        float | None, typer.Option(help="Training flows that each extra one counts as; a tenth of all where absent.")
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size; the preset's, or a tenth of it with --continue.")
    ] = None
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train together, here or on Spark; docs/large-data.md.")
    ] = 1
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep where training stands after each epoch there, and go on from it.")
    ] = None
    shards: Annotated[
        int | None,
        typer.Option(min=2, help="Read a table larger than memory in so many parts; docs/large-data.md."),
    ] = None
    engine: Annotated[Engine, typer.Option(help="Start the workers here, or on Spark.")] = Engine.local
    master: Annotated[
        str | None, typer.Option(help="Spark: local[2], spark://host:7077, yarn, k8s://...; local[*] where absent.")
    ] = None


@taking(TrainOptions)
def train(asked: TrainOptions) -> None:
    """Train a detector on labelled flows. Ctrl-C ends early and keeps the best model so far."""
    _refuse_master_alone(asked)
    if asked.engine is Engine.spark and not is_worker():
        _train_on_spark(asked)
    elif asked.workers > 1 and not is_worker():
        _train_together(asked)
    else:
        _train_here(asked)


def _refuse_master_alone(asked: TrainOptions) -> None:
    if asked.master is not None and asked.engine is not Engine.spark:
        raise typer.BadParameter("--master must come with --engine spark, however: the engine is local")


def _train_together(asked: TrainOptions) -> None:
    """Run this command line in so many processes, with what they must have in common."""
    from deepidea.model.workers import launch

    refuse_unwritable(asked.output)
    raise typer.Exit(launch("deepidea.cli.app", asked.workers, _common_arguments(asked), threads=asked.threads or 1))


def _train_on_spark(asked: TrainOptions) -> None:
    """Run this command line in so many processes on executors, and keep here what they come to."""
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_training import session_options, train_on_spark

    refuse_unwritable(asked.output)
    arguments, output = _common_arguments(asked), asked.output
    kept = asked.checkpoint or output.with_name(f"{output.name}.checkpoint")
    inputs = [*asked.data, *(asked.extra or ()), *([asked.continued] if asked.continued else [])]
    with open_session(asked.master or "local[*]", options=session_options(threads=asked.threads or 1)) as spark:
        on_gpu = asked.device is Device.cuda
        trained = train_on_spark(
            spark, asked.workers, run_command, arguments, output, kept, inputs=inputs, use_gpu=on_gpu
        )
    typer.echo(trained.shown, nl=False)
    _say_written(asked)


def run_command(arguments: list[str]) -> None:
    """Run a command line in this process: what each process on Spark runs."""
    from deepidea.cli.app import app

    app(arguments, standalone_mode=False)


def _common_arguments(asked: TrainOptions) -> list[str]:
    from deepidea.model.workers import common_arguments

    return common_arguments(sys.argv[1:], asked.output, seed=asked.seed, checkpoint=asked.checkpoint)


def _train_here(asked: TrainOptions) -> None:
    """Train in this process, alone or as one of several, of which the first one tells and keeps what all did."""
    refuse_unwritable(asked.output)
    with _joined(asked.device) as together:
        detector = (
            _from_memory(asked, together) if asked.shards is None else _from_shards(asked, asked.shards, together)
        )
    if is_silent_worker():
        return
    detector.save(asked.output)
    if asked.checkpoint is not None:  # nothing is left to go on with
        asked.checkpoint.unlink(missing_ok=True)
        asked.checkpoint.with_name(f"{asked.checkpoint.name}.seed").unlink(missing_ok=True)
    show_card(detector)
    _say_written(asked)


def _joined(device: Device) -> Any:
    """Return the context of whoever trains together, None alone: torch is not read for that."""
    if not is_worker():
        return contextlib.nullcontext()
    from deepidea.model.workers import join_workers

    return join_workers("nccl" if device is Device.cuda else "gloo")


def _say_written(asked: TrainOptions) -> None:
    say(f"wrote {asked.output}; next: deepidea evaluate {asked.output} {' '.join(asked.data)}")


def _from_shards(asked: TrainOptions, n_shards: int, together: Workers | None) -> Detector:
    refuse_with_shards(
        taxonomy=asked.taxonomy,
        port=asked.port,
        labels=asked.labels,
        extra=asked.extra,
        **{"continue": asked.continued, "extra-weight": asked.extra_weight},
        split=asked.split not in (SplitKind.auto, SplitKind.none),
    )
    shared = {"preset": _preset(asked), "workers": together, "checkpoint": asked.checkpoint}
    return train_in_shards(
        asked.data,
        n_shards,
        label=asked.label,
        benign=asked.benign,
        keep=asked.keep or (),
        schema=asked.schema,
        training={**shared, **_changes(asked)},
    )


def _from_memory(asked: TrainOptions, together: Workers | None) -> Detector:
    from deepidea.model.presets import train_detector

    gathered = _gather(asked)
    show_refused(gathered.part.refused)
    show_training_flows(gathered.part.contract)
    show_gathered(gathered)
    with epoch_progress() as on_epoch:
        detector = train_detector(
            gathered.part.flows,
            preset=_preset(asked),
            card=gathered.card,
            on_epoch=on_epoch,
            extra=gathered.extra.flows if gathered.extra else None,
            extra_weight=asked.extra_weight,
            start=gathered.start,
            workers=together,
            checkpoint=asked.checkpoint,
            **_changes(asked),
        )
    if gathered.start is None or is_silent_worker():
        return detector
    return _compared(asked, gathered.start, detector)


def _gather(asked: TrainOptions) -> Gathered:
    from deepidea.evaluation.continued_training import gather

    fresh = {
        "labels": asked.labels is not None,
        "keep": asked.keep or (),
        "use_port": asked.port,
        "schema": asked.schema,
        "preset": asked.preset,
    }
    return gather(
        one_name(asked.data),
        continued=asked.continued,
        extra=asked.extra or (),
        fresh=fresh,
        split=asked.split.value,
        test_fraction=asked.test_fraction,
        split_seed=asked.seed or 0,
        taxonomy=asked.taxonomy,
        label=asked.label,
        benign=asked.benign,
    )


def _compared(asked: TrainOptions, start: Detector, detector: Detector) -> Detector:
    """Tell how a detector stands beside the one that training went on from, and return it with that on its card."""
    from deepidea.evaluation.continued_training import compare_with_start, with_comparison

    own = {"taxonomy": asked.taxonomy, "label": asked.label, "benign": asked.benign}
    comparison = compare_with_start(start, detector, one_name(asked.data), **own)
    show_comparison(comparison)
    return with_comparison(detector, comparison)


def _preset(asked: TrainOptions) -> str:
    return (asked.preset or Preset.default).value


def _changes(asked: TrainOptions) -> dict[str, Any]:
    """Return what is asked for in place of what the preset says; without a seed one is drawn."""
    given = {
        "labels": asked.labels,
        "loss": asked.loss.value if asked.loss else None,
        "attack_weight": asked.attack_weight,
        "n_epochs": asked.epochs,
        "learning_rate": asked.learning_rate,
        "random_state": _drawn_seed() if asked.seed is None else asked.seed,
        "n_threads": asked.threads or ("auto" if asked.seed is None else None),
        "device": asked.device.value,
    }
    return {name: value for name, value in given.items() if value is not None}


def _drawn_seed() -> int:
    import secrets  # takes a moment

    return secrets.randbelow(2**31)
