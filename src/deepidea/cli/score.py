"""The command `deepidea score`: here, or on Spark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from deepidea.cli.options import Engine, FileFormat, ModelFile, fields_as_options, option
from deepidea.cli.terminal import flow_progress, say, show_losses, stopping

OnError = Literal["raise", "skip"]
"""What to do at a row that breaks a rule."""


SPARK = "Spark"


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Options of `deepidea score`."""

    model: ModelFile
    inputs: Annotated[list[str], typer.Argument(help="Files of flows: CSV, Parquet, gz, folders, globs, - for stdin.")]
    output: Annotated[str, option("Verdicts to write: .parquet, .csv or .jsonl; - for stdout.", "--output", "-o")]
    format: FileFormat = None
    keep_columns: Annotated[
        bool | None, option("Write the flows' columns beside the verdicts; the default on Spark.", show_default=False)
    ] = None
    on_error: Annotated[OnError, option("At an invalid row: stop, or skip and count it.")] = "raise"
    header: Annotated[bool, option("Whether CSV files have a header line; KDD files have none.")] = True
    threads: Annotated[int | None, option("Scoring threads; by default all cores.", min=1)] = None
    engine: Annotated[Engine, option("Score in this process, or on Spark: docs/large-data.md.", panel=SPARK)] = "local"
    master: Annotated[str, option("local[2], spark://host:7077, yarn, k8s://...", panel=SPARK)] = "local[*]"
    follow: Annotated[bool, option("Score files as they arrive in a folder.", panel=SPARK)] = False
    checkpoint: Annotated[
        str | None, option("Where Spark keeps which files are done; needed with --follow.", panel=SPARK)
    ] = None


@fields_as_options(ScoreOptions)
def score(options: ScoreOptions) -> None:
    """Score flows: one verdict each, in input order, in bounded memory."""
    if options.engine == "spark":
        _score_on_spark(options)
    else:
        _score_here(options)


def _score_here(options: ScoreOptions) -> None:
    from deepidea.flows.skipping import SkipCount
    from deepidea.flows.tables import expand_inputs
    from deepidea.model.detector import Detector
    from deepidea.model.scoring import headerless_names, score_files

    detector = Detector.load(options.model, n_threads=options.threads)
    paths, skipped = expand_inputs(options.inputs), SkipCount()
    with flow_progress("scoring") as progress:
        n_scored = score_files(
            detector,
            paths,
            options.output,
            format=options.format,
            keep_original=bool(options.keep_columns),
            on_error=options.on_error,
            skipped=skipped,
            header=None if options.header else headerless_names(detector, paths[0]),
            progress=progress,
        )
    say(f"scored {n_scored:,} flows into {options.output}" + (f"; {skipped}" if skipped else ""))


def _score_on_spark(options: ScoreOptions) -> None:
    from deepidea.adapters.spark import open_session
    from deepidea.adapters.spark_files import score_files, score_new_files
    from deepidea.model.detector import Detector

    detector = Detector.load(options.model)
    places = (detector, options.inputs, options.output)
    how: dict[str, Any] = {"keep_columns": options.keep_columns is not False, "on_error": options.on_error}
    with open_session(options.master) as spark:
        if options.follow or options.checkpoint is not None:
            with stopping() as stop:
                done = score_new_files(spark, *places, options.checkpoint, stop=stop, follow=options.follow, **how)
        else:
            names = None if options.header else list(detector.schema.features)
            done = score_files(spark, *places, header=names, **how)
    show_losses(done.skipped, {})
    say(f"scored {done.n_flows:,} flows into {options.output}")
