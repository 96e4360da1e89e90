"""The command `deepidea score`: here, or on Spark."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from deepidea.cli.options import Engine, FileFormat, ModelFile, taking
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping


class OnError(StrEnum):
    """What becomes of a row that breaks a rule."""

    raise_ = "raise"
    skip = "skip"


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What `deepidea score` takes."""

    model: ModelFile
    inputs: Annotated[list[str], typer.Argument(help="Files of flows: CSV, Parquet, gz, folders, globs, - for stdin.")]
    output: Annotated[str, typer.Option("--output", "-o", help="Verdicts: .parquet, .csv or .jsonl; - for stdout.")]
    format: FileFormat = None
    keep_columns: Annotated[
        bool | None,
        typer.Option(
            help="Write the columns of the flows beside the verdicts; on Spark the default.", show_default=False
        ),
    ] = None
    on_error: Annotated[OnError, typer.Option(help="Stop at a bad row, or skip and count it.")] = OnError.raise_
    header: Annotated[bool, typer.Option(help="Whether CSV files have a header line; KDD files have none.")] = True
    threads: Annotated[int | None, typer.Option(min=1, help="Scoring threads; all cores where absent.")] = None
    engine: Annotated[Engine, typer.Option(help="Score here, or on Spark: docs/large-data.md.")] = Engine.local
    master: Annotated[str, typer.Option(help="Spark: local[2], spark://host:7077, yarn, k8s://...")] = "local[*]"
    follow: Annotated[bool, typer.Option(help="Spark: score files as they arrive in a folder.")] = False
    checkpoint: Annotated[
        str | None, typer.Option(help="Spark: where it keeps which files are done; needed for arriving files.")
    ] = None


@taking(ScoreOptions)
def score(asked: ScoreOptions) -> None:
    """Score flows: one verdict each, in input order, in bounded memory."""
    if asked.engine is Engine.spark:
        _score_on_spark(asked)
    else:
        _score_here(asked)


def _score_here(asked: ScoreOptions) -> None:
    from deepidea.flows.skipping import SkipCount
    from deepidea.flows.tables import expand_inputs
    from deepidea.model.detector import Detector
    from deepidea.model.scoring import headerless_names, score_files

    detector = Detector.load(asked.model, n_threads=asked.threads)
    paths, skipped = expand_inputs(asked.inputs), SkipCount()
    names = None if asked.header else headerless_names(detector, paths[0])
    with flow_progress("scoring") as progress:
        n_scored = score_files(
            detector,
            paths,
            asked.output,
            format=asked.format.value if asked.format else None,
            keep_original=bool(asked.keep_columns),
            on_error=asked.on_error.value,
            skipped=skipped,
            header=names,
            progress=progress,
        )
    say(f"scored {n_scored:,} flows into {asked.output}" + (f"; {skipped}" if skipped else ""))


def _score_on_spark(asked: ScoreOptions) -> None:
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_files import score_files, score_new_files
    from deepidea.model.detector import Detector

    detector = Detector.load(asked.model)
    to = (detector, asked.inputs, asked.output)
    options: dict[str, Any] = {"keep_columns": asked.keep_columns is not False, "on_error": asked.on_error.value}
    with open_session(asked.master) as spark:
        if asked.follow or asked.checkpoint is not None:
            with stopping() as stop:
                done = score_new_files(spark, *to, asked.checkpoint, stop=stop, follow=asked.follow, **options)
        else:
            names = None if asked.header else list(detector.schema.features)
            done = score_files(spark, *to, header=names, **options)
    show_losses(done.skipped, {})
    say(f"scored {done.n_flows:,} flows into {asked.output}")
