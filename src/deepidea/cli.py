"""The command line: one short function a command, no logic.

Exit codes: 0 done; 1 a fault of the program, or a benchmark with cells that have no figures; 2 a wrong command line;
3 data that breaks a rule; 4 a detector file that cannot be used; 5 a file, download, source, store or sink
that the system refused; 6 an optional dependency missing; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import deepidea
from deepidea import cli_explain, cli_serve, cli_shards
from deepidea.cli_models import add_commands
from deepidea.console.benchmark import benchmark_progress, show_answers, show_outcomes, show_plan, show_sweep
from deepidea.console.card import show_card
from deepidea.console.data import show_datasets, show_description, show_simulated
from deepidea.console.detection import (
    show_alerts,
    show_calibration,
    show_incidents,
    show_rule,
    show_rules,
    show_sources,
    show_store,
    show_watched,
    watching,
)
from deepidea.console.drift import show_drift
from deepidea.console.evaluation import show_evaluation
from deepidea.console.models import show_comparison
from deepidea.console.terminal import (
    byte_progress,
    fail,
    flow_progress,
    is_silent_worker,
    is_worker,
    out,
    say,
    show_losses,
    stopping,
)
from deepidea.console.training import epoch_progress, show_gathered, show_refused, show_training_flows
from deepidea.errors import DataError, DeepIDEAError, StorageError

app = typer.Typer(
    help="A trainable network intrusion detector: labelled flows in, a detector out, verdicts on new flows.",
    epilog=__doc__.split("\n\n")[1].replace("\n", " "),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Public data sets: register, fetch, describe.", no_args_is_help=True)
app.add_typer(data_app, name="data")
benchmark_app = typer.Typer(help="Systems against each other: measure, report.", no_args_is_help=True)
app.add_typer(benchmark_app, name="benchmark")
allow_app = typer.Typer(help="Allow rules: what is known and wanted, so that it raises no alert.", no_args_is_help=True)
app.add_typer(allow_app, name="allow")
store_app = typer.Typer(help="The store of alerts: how it stands, what leaves it.", no_args_is_help=True)
app.add_typer(store_app, name="store")
cli_serve.register(app)


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


class DialectName(StrEnum):
    """Whose values a meter gives."""

    corrected = "corrected"
    improved = "cicids17-improved"
    original = "cicids17"


class AlertFormat(StrEnum):
    """Formats of alerts; the names of ``FORMATS``."""

    eve = "eve"
    ecs = "ecs"
    ocsf = "ocsf"
    cef = "cef"


class AgainstWhat(StrEnum):
    """Flows that drift is judged by; the values of ``Against``."""

    training = "training"
    site = "site"


class Device(StrEnum):
    """Where the network is trained."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Training(StrEnum):
    """Training files of KDD99."""

    auto = "auto"
    full = "full"
    ten_percent = "10-percent"


class OnError(StrEnum):
    """What becomes of a row that breaks a rule."""

    raise_ = "raise"
    skip = "skip"


class Engine(StrEnum):
    """What scores tables, or starts the processes of a training."""

    local = "local"
    spark = "spark"


class OutputFormat(StrEnum):
    """Formats of verdict files."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"


class AttackKind(StrEnum):
    """Attacks that a simulated capture may hold; the names of ``ATTACKS``, and two for all and none of them."""

    all = "all"
    none = "none"
    port_scan = "port_scan"
    slow_port_scan = "slow_port_scan"
    syn_flood = "syn_flood"
    slowloris = "slowloris"
    ssh_guessing = "ssh_guessing"
    ftp_guessing = "ftp_guessing"
    beacon = "beacon"
    dns_tunnel = "dns_tunnel"
    https_upload = "https_upload"


Inputs = Annotated[list[str], typer.Argument(help="Name of a data set, or files of flows (CSV, Parquet, gz, globs).")]
ModelFile = Annotated[Path, typer.Argument(help="Detector file, as `deepidea train` writes it.")]
StoreUrl = Annotated[
    str, typer.Option(help="sqlite:///path or postgresql://user@host/database; absent, a file in your data folder.")
]
TaxonomyName = Annotated[str | None, typer.Option(help="Which labels are which class, see `deepidea data describe`.")]
Label = Annotated[str | None, typer.Option(help="Label column of a table.")]
Benign = Annotated[str | None, typer.Option(help="Value of the label column that means benign.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"deepidea {deepidea.__version__}")
        raise typer.Exit


@data_app.command("list")
def data_list() -> None:
    """List the data sets that the project knows, and which are registered here."""
    from deepidea.flows.catalogue import CATALOGUE
    from deepidea.flows.datasets import registered

    show_datasets(registered(), {name: entry.title for name, entry in CATALOGUE.items()})


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="Name of the data set, see `deepidea data list`.")],
    folder: Annotated[Path, typer.Argument(help="Folder of its official files, gz or plain, one day or all.")],
    training: Annotated[Training, typer.Option(help="kdd99: which training file.")] = Training.auto,
) -> None:
    """Register a folder of official files: check them, count their quirks, keep typed Parquet."""
    from deepidea.flows.datasets import add_dataset

    with byte_progress(f"reading {name}") as progress:
        record = add_dataset(name, folder, training=training.value, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="Name of the data set, see `deepidea data list`.")],
    folder: Annotated[Path | None, typer.Option(help="Where the files go.")] = None,
    training: Annotated[Training, typer.Option(help="kdd99: which training file.")] = Training.auto,
    base: Annotated[str | None, typer.Option(help="Address to fetch from in place of the publisher's.")] = None,
) -> None:
    """Fetch a data set from its publisher, resuming where an earlier try stopped, and register it."""
    from deepidea.flows.datasets import get_dataset

    with byte_progress(f"fetching {name}") as progress:
        record = get_dataset(name, folder=folder, training=training.value, base=base, progress=progress)
    say(f"registered {name}: {record.rows:,} flows of {len(record.files)} files")


@data_app.command("describe")
def data_describe(
    name: Annotated[str, typer.Argument(help="Name of a registered data set.")],
    taxonomy: TaxonomyName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what is in a data set: classes, duplicates, contradictions, odd cells, files."""
    from deepidea.flows.datasets import load_dataset
    from deepidea.flows.description import describe

    description = describe(load_dataset(name, taxonomy=taxonomy))
    if as_json:
        sys.stdout.write(json.dumps(description.to_dict(), indent=1) + "\n")
    else:
        show_description(description)


@app.command()
def train(
    data: Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", help="Detector file to write.")],
    preset: Annotated[Preset | None, typer.Option(help="Recipe: the project's best (default), or the paper's.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Makes the run reproducible to the bit, on one thread by default."),
    ] = None,
    label: Label = None,
    benign: Benign = None,
    keep: Annotated[list[str] | None, typer.Option(help="Column of a table to keep as a feature.")] = None,
    taxonomy: TaxonomyName = None,
    port: Annotated[bool, typer.Option(help="Let the destination port be a feature.")] = False,
    schema: Annotated[
        str | None,
        typer.Option(help="Schema to train in: conn for Zeek, Suricata and NetFlow; conn+context, cicflow+context."),
    ] = None,
    split: Annotated[SplitKind, typer.Option(help="How test flows are held out.")] = SplitKind.auto,
    test_fraction: Annotated[float, typer.Option(help="Share held out where no official split is taken.")] = 1 / 6,
    labels: Annotated[bool | None, typer.Option(help="Tell native labels apart, not classes only.")] = None,
    loss: Annotated[Loss | None, typer.Option(help="What training minimises; the preset's where absent.")] = None,
    attack_weight: Annotated[
        float | None,
        typer.Option(min=0.0, help="Lambda of the losses attack-sharing (0 is cross-entropy) and hierarchical."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training flows.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Training threads; measured where absent.")] = None,
    device: Annotated[Device, typer.Option(help="Where to train; auto takes CUDA where there is one.")] = Device.auto,
    continued: Annotated[
        Path | None, typer.Option("--continue", help="Go on from this detector: weights, encoder, classes, parameters.")
    ] = None,
    extra: Annotated[
        list[Path] | None, typer.Option(help="Judged flows to train on besides, see `deepidea feedback export`.")
    ] = None,
    extra_weight: Annotated[
        float | None, typer.Option(help="Training flows that each extra one counts as; a tenth of all where absent.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Step size; the preset's, or a tenth of it with --continue.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train together, here or on Spark; docs/workers.md.")
    ] = 1,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep where training stands after each epoch there, and go on from it.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=2, help="Read a table larger than memory in so many parts; docs/large-tables.md."),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Start the workers here, or on Spark.")] = Engine.local,
    master: Annotated[
        str | None, typer.Option(help="Spark: local[2], spark://host:7077, yarn, k8s://...; local[*] where absent.")
    ] = None,
) -> None:
    """Train a detector on labelled flows. Ctrl-C ends early and keeps the best model so far."""
    _refuse_master_alone(engine, master)
    if engine is Engine.spark and not is_worker():
        inputs = [*data, *(extra or ()), *([continued] if continued else [])]
        _train_on_spark(output, workers, seed, checkpoint, threads, device, master or "local[*]", inputs)
        _say_written(output, data)
        return
    if workers > 1 and not is_worker():
        _train_together(output, workers, seed, checkpoint, threads)
        return
    _refuse_unwritable(output)
    drawn = {"random_state": secrets.randbelow(2**31), "n_threads": "auto"} if seed is None else {"random_state": seed}
    given = {
        "labels": labels,
        "loss": loss.value if loss else None,
        "attack_weight": attack_weight,
        "n_epochs": epochs,
        "learning_rate": learning_rate,
        **drawn,
        **({"n_threads": threads} if threads else {}),
    }
    changes = {name: value for name, value in given.items() if value is not None} | {"device": device.value}
    if shards is not None:
        cli_shards.refuse_with_shards(
            taxonomy=taxonomy,
            port=port,
            labels=labels,
            extra=extra,
            **{"continue": continued, "extra-weight": extra_weight},
            split=split not in (SplitKind.auto, SplitKind.none),
        )
        with _joined(device) as together:
            training = {"preset": (preset or Preset.default).value, "workers": together, "checkpoint": checkpoint}
            table: dict[str, Any] = {"label": label, "benign": benign, "keep": keep or (), "schema": schema}
            detector = cli_shards.train_in_shards(data, shards, **table, training={**training, **changes})
        _keep_trained(detector, output, checkpoint, data)
        return
    from deepidea.evaluation.continuing import compare_with_start, gather, with_comparison
    from deepidea.model.presets import train_detector

    given_preset = preset.value if preset else None
    own: dict[str, Any] = {"taxonomy": taxonomy, "label": label, "benign": benign}
    gathered = gather(
        _one_name(data),
        continued=continued,
        extra=extra or (),
        fresh={
            "labels": labels is not None,
            "keep": keep or (),
            "use_port": port,
            "schema": schema,
            "preset": given_preset,
        },
        split=split.value,
        test_fraction=test_fraction,
        split_seed=seed or 0,
        **own,
    )
    part = gathered.part
    show_refused(part.refused)
    show_training_flows(part.contract)
    show_gathered(gathered)
    with epoch_progress() as on_epoch, _joined(device) as together:
        detector = train_detector(
            part.flows,
            preset=given_preset or Preset.default.value,
            card=gathered.card,
            on_epoch=on_epoch,
            extra=gathered.extra.flows if gathered.extra else None,
            extra_weight=extra_weight,
            start=gathered.start,
            workers=together,
            checkpoint=checkpoint,
            **changes,
        )
    if is_silent_worker():
        return  # the first one tells and keeps what all did
    if gathered.start is not None:
        comparison = compare_with_start(gathered.start, detector, _one_name(data), **own)
        show_comparison(comparison)
        detector = with_comparison(detector, comparison)
    _keep_trained(detector, output, checkpoint, data)


def _keep_trained(detector: Any, output: Path, checkpoint: Path | None, data: list[str]) -> None:
    if is_silent_worker():
        return
    detector.save(output)
    if checkpoint is not None:  # nothing is left to go on with
        checkpoint.unlink(missing_ok=True)
        checkpoint.with_name(f"{checkpoint.name}.seed").unlink(missing_ok=True)
    show_card(detector)
    _say_written(output, data)


def _say_written(output: Path, data: list[str]) -> None:
    say(f"wrote {output}; next: deepidea evaluate {output} {' '.join(data)}")


def _train_together(output: Path, workers: int, seed: int | None, checkpoint: Path | None, threads: int | None) -> None:
    """Run this command line in so many processes, with what they must have in common."""
    from deepidea.model.workers import common_arguments, launch

    _refuse_unwritable(output)
    arguments = common_arguments(sys.argv[1:], output, seed=seed, checkpoint=checkpoint)
    raise typer.Exit(launch(workers, arguments, threads=threads or 1))


def _refuse_master_alone(engine: Engine, master: str | None) -> None:
    if master is not None and engine is not Engine.spark:
        raise typer.BadParameter("--master must come with --engine spark, however: the engine is local")


def _train_on_spark(
    output: Path,
    workers: int,
    seed: int | None,
    checkpoint: Path | None,
    threads: int | None,
    device: Device,
    master: str,
    inputs: list[Any],
) -> None:
    """Run this command line in so many processes on executors, and keep here what they come to."""
    from deepidea.adapters import spark_training
    from deepidea.adapters.spark import open_session
    from deepidea.model.workers import common_arguments

    _refuse_unwritable(output)
    kept = checkpoint or output.with_name(f"{output.name}.checkpoint")
    arguments = common_arguments(sys.argv[1:], output, seed=seed, checkpoint=checkpoint)
    options: dict[str, Any] = {"inputs": inputs, "use_gpu": device is Device.cuda}
    with open_session(master, options=spark_training.session_options(threads=threads or 1)) as spark:
        trained = spark_training.train_on_spark(spark, workers, arguments, output, kept, **options)
    typer.echo(trained.shown, nl=False)


def _joined(device: Device) -> Any:
    """Return the context of whoever trains together, None alone: torch is not read for that."""
    if not is_worker():
        return contextlib.nullcontext()
    from deepidea.model.workers import joined

    return joined("nccl" if device is Device.cuda else "gloo")


@app.command()
def evaluate(
    model: ModelFile,
    data: Inputs,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep it in the detector file, for the page to show.")] = False,
    label: Label = None,
    benign: Benign = None,
    taxonomy: TaxonomyName = None,
) -> None:
    """Tell how good a detector is: on all flows, on distinct ones, on vectors it never saw."""
    from deepidea.evaluation.evaluate import evaluate_detector
    from deepidea.evaluation.keeping import EVALUATION_ENTRY, compact
    from deepidea.evaluation.protocol import flows_to_test
    from deepidea.evaluation.report import trust_notes, write_report
    from deepidea.flows.atomic import replacing
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    options = {"taxonomy": taxonomy, "label": label, "benign": benign}
    flows = flows_to_test(_one_name(data), detector.schema, detector.card.get("data", {}), **options)
    evaluation = evaluate_detector(detector, flows)
    if json_file is not None:
        with replacing(json_file) as partial:
            partial.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
    if report is not None:
        write_report(evaluation, report)
    if keep:
        detector.with_card(**{EVALUATION_ENTRY: compact(evaluation)}).save(model)
    show_evaluation(evaluation, trust_notes(evaluation))


@app.command()
def score(
    model: ModelFile,
    inputs: Annotated[list[str], typer.Argument(help="Files of flows: CSV, Parquet, gz, folders, globs, - for stdin.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Verdicts: .parquet, .csv or .jsonl; - for stdout.")],
    format: Annotated[OutputFormat | None, typer.Option(help="Format, where the name does not tell.")] = None,
    keep_columns: Annotated[
        bool | None,
        typer.Option(
            help="Write the columns of the flows beside the verdicts; on Spark the default.", show_default=False
        ),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="Stop at a bad row, or skip and count it.")] = OnError.raise_,
    header: Annotated[bool, typer.Option(help="Whether CSV files have a header line; KDD files have none.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Scoring threads; all cores where absent.")] = None,
    engine: Annotated[Engine, typer.Option(help="Score here, or on Spark: docs/spark.md.")] = Engine.local,
    master: Annotated[str, typer.Option(help="Spark: local[2], spark://host:7077, yarn, k8s://...")] = "local[*]",
    follow: Annotated[bool, typer.Option(help="Spark: score files as they arrive in a folder.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Spark: where it keeps which files are done; needed for arriving files.")
    ] = None,
) -> None:
    """Score flows: one verdict each, in input order, in bounded memory."""
    if engine is Engine.spark:
        keep = keep_columns is not False
        _score_on_spark(model, inputs, output, keep, on_error.value, header, master, follow, checkpoint)
        return
    from deepidea.flows.skipping import SkipCount
    from deepidea.flows.tables import expand_inputs
    from deepidea.model.detector import Detector
    from deepidea.model.scoring import headerless_names, score_files

    detector = Detector.load(model, n_threads=threads)
    paths, skipped = expand_inputs(inputs), SkipCount()
    names = None if header else headerless_names(detector, paths[0])
    with flow_progress("scoring") as progress:
        n_scored = score_files(
            detector,
            paths,
            output,
            format=format.value if format else None,
            keep_original=bool(keep_columns),
            on_error=on_error.value,
            skipped=skipped,
            header=names,
            progress=progress,
        )
    say(f"scored {n_scored:,} flows into {output}" + (f"; {skipped}" if skipped else ""))


def _score_on_spark(
    model: Path,
    inputs: list[str],
    output: str,
    keep_columns: bool,
    on_error: Any,
    header: bool,
    master: str,
    follow: bool,
    checkpoint: str | None,
) -> None:
    from deepidea.adapters import spark_files
    from deepidea.adapters.spark import open_session
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    options: dict[str, Any] = {"keep_columns": keep_columns, "on_error": on_error}
    with open_session(master) as spark:
        if follow or checkpoint is not None:
            with stopping() as stop:
                options |= {"stop": stop, "follow": follow}
                done = spark_files.score_arriving(spark, detector, inputs, output, checkpoint, **options)
        else:
            names = None if header else list(detector.schema.features)
            done = spark_files.score_files(spark, detector, inputs, output, header=names, **options)
    show_losses(done.skipped, {})
    say(f"scored {done.n_flows:,} flows into {output}")


@app.command()
def meter(
    source: Annotated[
        str, typer.Argument(help="Capture (pcap, pcapng, gz), folder of captures, - for stdin, or interface:NAME.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Flows: .parquet, .csv or .jsonl; - for stdout.")],
    format: Annotated[OutputFormat | None, typer.Option(help="Format, where the name does not tell.")] = None,
    dialect: Annotated[DialectName, typer.Option(help="Whose values to give; docs/meter.md tells them apart.")] = (
        DialectName.corrected
    ),
    snapshot: Annotated[
        float | None,
        typer.Option(min=0.001, help="Tell of flows under way every so many seconds, too.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a flow is cut.")] = 120.0,
    max_flows: Annotated[int, typer.Option(min=1, help="Flows under way at most; the oldest is told early.")] = 300_000,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; Ctrl-C stops, too.")] = None,
) -> None:
    """Meter packets into flows with CICFlowMeter's features. What was under way at the end is told, too."""
    from deepidea.detection.metering import meter_to_file
    from deepidea.detection.packet_source import PacketSource

    options: dict[str, Any] = {
        "dialect": dialect.value,
        "snapshot_s": snapshot,
        "flow_timeout_s": timeout,
        "max_flows": max_flows,
    }
    packets = PacketSource(source, **options)
    with stopping(seconds) as stop, flow_progress("metering") as progress:
        told = meter_to_file(packets, output, stop, format=format.value if format else None, progress=progress)
    say(f"metered {told.n_flows:,} flows into {output}")
    show_losses(told.skipped, told.dropped)


@app.command()
def sources() -> None:
    """List the kinds of sources that flows can come from."""
    from deepidea.detection.sources import SOURCES

    show_sources(SOURCES)


@app.command()
def detect(
    source: Annotated[str, typer.Argument(help="Where flows come from: `deepidea sources` lists the kinds.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Detector file; the store's active model where absent.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="Where alerts go beside the store: stdout, file://, syslog+udp://, +tcp://, +tls://, http(s)://, "
            "kafka://, redis://."
        ),
    ] = None,
    format: Annotated[AlertFormat | None, typer.Option(help="Format of alerts; CEF for syslog, else EVE.")] = None,
    store: StoreUrl = "",
    fpr: Annotated[
        float | None, typer.Option(help="Alert at this rate of false alarms, not by class; see `calibrate`.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more at the end of a file.")] = False,
    allow: Annotated[Path | None, typer.Option(help="File of allow rules: TOML or CSV.")] = None,
    dead_letters: Annotated[Path | None, typer.Option(help="Folder for alerts that a sink would not take.")] = None,
    snapshot: Annotated[
        float | None, typer.Option(min=0.001, help="Of packets: tell of flows under way every so many seconds, too.")
    ] = None,
    dialect: Annotated[
        DialectName | None, typer.Option(help="Of packets: whose values; the detector's if absent.")
    ] = None,
    max_flows: Annotated[
        int | None, typer.Option(min=1, help="Of packets: flows under way at most; the oldest is told early.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; Ctrl-C and SIGTERM stop, too.")
    ] = None,
) -> None:
    """Watch a source: score its flows, store alerts and incidents, hand alerts to sinks. Goes on where it stopped."""
    from deepidea.detection.watch import Setting, watch, watch_active
    from deepidea.model.detector import Detector

    given = {"snapshot_s": snapshot, "dialect": dialect.value if dialect else None, "max_flows": max_flows}
    setting = Setting(
        store=store,
        sinks=tuple(sink or ()),
        format=format.value if format else None,
        fpr=fpr,
        follow=follow,
        allow=allow,
        dead_letters=dead_letters,
        source_options={name: value for name, value in given.items() if value is not None},
        detector_name="" if model is None else model.name,
    )
    detector = None if model is None else Detector.load(model)
    with stopping(seconds) as stop, watching(source) as on_batch:
        shown: dict[str, Any] = {"on_start": show_rule, "on_batch": on_batch}
        if detector is None:
            watched = watch_active(source, setting, stop, on_news=say, **shown)
        else:
            watched = watch(source, detector, setting, stop, **shown)
    raise typer.Exit(show_watched(watched))


@app.command()
def publish(
    source: Annotated[str, typer.Argument(help="Where flows come from: `deepidea sources` lists the kinds.")],
    address: Annotated[str, typer.Argument(help="Stream: redis://host/0?stream=NAME or kafka://host:9092/TOPIC.")],
    context: Annotated[
        bool, typer.Option(help="Let each flow carry what its hosts did lately, for detectors with context.")
    ] = True,
    follow: Annotated[bool, typer.Option(help="Wait for more at the end of a file.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; Ctrl-C and SIGTERM stop, too.")
    ] = None,
) -> None:
    """Put flows into a stream that several `detect` processes share, by pairs of hosts. Goes on where it stopped."""
    from deepidea.detection.publish import open_publisher
    from deepidea.detection.publish import publish as put
    from deepidea.detection.sources import open_source

    flows, publisher = open_source(source, follow=follow), open_publisher(address)
    with stopping(seconds) as stop, flow_progress("publishing") as progress:
        done = put(flows, publisher, stop, context=context, progress=progress)
    say(f"published {done.n_flows:,} flows to {publisher.name}")
    show_losses(done.skipped, done.dropped)


@app.command()
def calibrate(
    model: ModelFile,
    source: Annotated[str, typer.Argument(help="Benign flows of the network to watch; any kind of source.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Detector file to write, with thresholds.")],
    fpr: Annotated[float, typer.Option(help="Rate of benign flows that may raise an alert.")] = 1e-4,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop a live source after so long.")] = None,
) -> None:
    """Set thresholds for a network of one's own by its benign flows, with a promise about false alarms."""
    from deepidea.detection.calibrate import calibrate as set_thresholds
    from deepidea.detection.watch import open_source_for
    from deepidea.model.detector import Detector

    _refuse_unwritable(output)
    detector = Detector.load(model)
    flows = open_source_for(detector, source)
    with stopping(seconds) as stop, flow_progress("scoring") as progress:
        done = set_thresholds(detector, flows, fpr, stop=stop, progress=progress)
    done.detector.save(output)
    show_calibration(done, done.thresholds.n_flows)
    show_losses(done.skipped, {})
    say(f"wrote {output}; next: deepidea detect SOURCE --model {output}")


@app.command()
def incidents(
    store: StoreUrl = "",
    host: Annotated[str | None, typer.Option(help="Of this address.")] = None,
    severity: Annotated[
        int | None, typer.Option(min=1, max=4, help="As urgent as this at least; 1 is the most.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List incidents: alerts that belong together, the latest first."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        rows = opened.incidents(host=host, severity=severity, limit=limit).rows
    if as_json:
        sys.stdout.write(rows.write_ndjson())
    else:
        show_incidents(rows)


@app.command()
def alerts(
    incident: Annotated[
        str | None, typer.Argument(help="Incident whose alerts to list, or how its id begins; all where absent.")
    ] = None,
    store: StoreUrl = "",
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 50,
    quiet: Annotated[bool, typer.Option(help="List those that allow rules keep quiet.")] = False,
    format: Annotated[AlertFormat | None, typer.Option(help="Print lines of this format in place of a table.")] = None,
) -> None:
    """List alerts, the latest first."""
    from deepidea.detection.formats import render
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        wanted = None if incident is None else opened.find_incident(incident)
        rows = opened.alerts(incident=wanted, suppressed=quiet, limit=limit).rows
    if format is None:
        show_alerts(rows)
    else:
        sys.stdout.writelines(line + "\n" for line in render(rows, format.value))


app.command()(cli_explain.explain)


@allow_app.command("list")
def allow_list(store: StoreUrl = "") -> None:
    """List the allow rules of a store."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        show_rules(opened.rules())


@allow_app.command("add")
def allow_add(
    src: Annotated[str | None, typer.Option(help="Address or CIDR block that opens the flow.")] = None,
    dst: Annotated[str | None, typer.Option(help="Address or block that answers.")] = None,
    host: Annotated[str | None, typer.Option(help="Address or block of either.")] = None,
    peer: Annotated[str | None, typer.Option(help="The other one of a pair with --host.")] = None,
    port: Annotated[str | None, typer.Option(help="Port asked for, or a range: 8000-8100.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Class of the alert.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="When the rule ends, UTC.")] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    store: StoreUrl = "",
) -> None:
    """Keep alerts quiet to which all of the criteria apply: new ones, and those that are stored."""
    from deepidea.detection.allow import AllowRule
    from deepidea.detection.store import open_store
    from deepidea.detection.watch import default_store

    rule = AllowRule(src, dst, host, peer, port, class_name, expires, note)
    with open_store(store or default_store()) as opened:
        n_changed = opened.add_rule(rule)
    say(f"{rule.rule_id}: {rule}; {n_changed:,} stored alerts are quiet now")


@allow_app.command("remove")
def allow_remove(
    rule_id: Annotated[str, typer.Argument(help="Rule, as `deepidea allow list` names it.")], store: StoreUrl = ""
) -> None:
    """Remove an allow rule, and let go the alerts that it kept quiet."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        if rule_id not in {rule.rule_id for rule in opened.rules()}:
            raise DataError(f"a rule must be one of the store's, however: it has no {rule_id}; see deepidea allow list")
        n_changed = opened.remove_rule(rule_id)
    say(f"removed {rule_id}; {n_changed:,} stored alerts are told again")


@app.command()
def drift(
    store: StoreUrl = "",
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Detector file; the one that scored last where absent.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Flows of this source, as `store status` names it.")] = None,
    against: Annotated[
        AgainstWhat | None, typer.Option(help="Flows to compare with; the site's where the detector was calibrated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell whether the flows of the last 24 hours are like those that the detector was trained on."""
    from deepidea.detection.engine import fingerprint
    from deepidea.detection.watch import open_known_store
    from deepidea.model.detector import Detector

    named = None if model is None else fingerprint(Detector.load(model))
    with open_known_store(store) as opened:
        report = opened.drift(model=named, source=source, against=against.value if against else None)
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=1) + "\n")
    else:
        show_drift(report)


@store_app.command("status")
def store_status(store: StoreUrl = "") -> None:
    """Tell what came of each source, and how each sink stands."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        show_store(opened.url, opened.counters(), opened.sink_counters())


@store_app.command("purge")
def store_purge(
    days: Annotated[float, typer.Option(min=0, help="Alerts and incidents older than this go.")],
    store: StoreUrl = "",
) -> None:
    """Let alerts and incidents go that are old by the time of their flows: of a replayed capture, its own."""
    from deepidea.detection.watch import open_known_store

    with open_known_store(store) as opened:
        gone = opened.purge(datetime.now(UTC) - timedelta(days=days))
    say(f"{gone.n_alerts:,} alerts are gone")


@app.command()
def inspect(
    model: ModelFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Print a detector's model card: what it reads, how it decides, what it was trained on."""
    from deepidea.model.detector import Detector

    detector = Detector.load(model)
    if as_json:
        sys.stdout.write(json.dumps(detector.manifest, indent=1) + "\n")
    else:
        show_card(detector)


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Capture to write (pcap).")],
    labels: Annotated[Path, typer.Option(help="Ground truth to write (CSV): one conversation a row.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed and options give the same bytes.")] = 0,
    minutes: Annotated[float, typer.Option(min=0.05, max=1440.0, help="How long the capture goes on.")] = 10.0,
    hosts: Annotated[int, typer.Option(min=8, max=200, help="Hosts of the site, six of them servers.")] = 20,
    attacks: Annotated[list[AttackKind], typer.Option(help="Attacks that take place.")] = [AttackKind.all],  # noqa: B006
    vlan: Annotated[int | None, typer.Option(min=1, max=4094, help="802.1Q tag of every frame.")] = None,
    snaplen: Annotated[int, typer.Option(min=64, help="Bytes kept of each packet.")] = 262_144,
) -> None:
    """Invent a labelled capture of a small site, for trying things out: it proves nothing about a real network."""
    from deepidea.packets.simulate import choose_attacks, simulate_capture

    for path in (output, labels):
        _refuse_unwritable(path)
    chosen = choose_attacks(kind.value for kind in attacks)
    with flow_progress("simulating", unit="packets") as progress:
        done = simulate_capture(
            output,
            labels,
            seed=seed,
            minutes=minutes,
            hosts=hosts,
            attacks=chosen,
            vlan=vlan,
            snaplen=snaplen,
            progress=progress,
        )
    show_simulated(done, output, labels)


@benchmark_app.command("run")
def benchmark_run(
    data: Annotated[list[str], typer.Option(help="Name of a registered data set.")] = ["kdd99"],  # noqa: B006
    protocol: Annotated[list[str], typer.Option(help="How flows are dealt into training and test.")] = ["auto"],  # noqa: B006
    models: Annotated[
        list[str], typer.Option(help="A system, a group of them, or all; parameters as in deepidea:attack_weight=3.")
    ] = ["all"],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each system: seeds 0, 1, 2, ...")] = 5,
    out: Annotated[Path, typer.Option(help="Folder of records; what is there is kept.")] = Path("benchmark"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, one thread each.")] = 2,
    budget: Annotated[int, typer.Option(min=1, help="Seconds that one cell may take.")] = 3600,
    retry: Annotated[bool, typer.Option(help="Try again what was cut or failed.")] = False,
) -> None:
    """Measure systems on data sets: one record a cell, resumed where an earlier run stopped."""
    from deepidea.evaluation.benchmark import make_grid, plan_run, run_cells

    plan = plan_run(make_grid(data, protocol, models, seeds), out, retry=retry)
    show_plan(plan)
    with benchmark_progress() as progress:
        outcomes = run_cells(plan, out, jobs=jobs, budget_s=budget, progress=progress)
    raise typer.Exit(show_outcomes(plan, outcomes, out))


@benchmark_app.command("tau")
def benchmark_tau(
    data: Annotated[list[str], typer.Option(help="Name of a registered data set.")] = ["kdd99"],  # noqa: B006
    models: Annotated[list[str], typer.Option(help="A system that states probabilities, or a group of them.")] = [  # noqa: B006
        "deepidea"
    ],
    deals: Annotated[int, typer.Option(min=1, help="How often attack types are dealt out; two trainings each.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of records; what is there is kept.")] = Path("benchmark"),
) -> None:
    """Try every strength of the prior correction on training flows, types left out; the report shows it."""
    from deepidea.evaluation.tau_sweep import iter_sweeps

    for sweep in iter_sweeps(data, models, out, n_deals=deals):
        show_sweep(sweep)


@benchmark_app.command("report")
def benchmark_report(
    folder: Annotated[list[Path], typer.Argument(help="Folders of records, as `deepidea benchmark run` writes them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Self-contained HTML page to write.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown, too.")] = None,
) -> None:
    """Compare what was measured: tables beside the paper's, tests over seeds, plots."""
    from deepidea.evaluation.benchmark_report import answers, write_benchmark_markdown, write_benchmark_report
    from deepidea.evaluation.comparison import read_comparison

    comparison = read_comparison(*folder)
    write_benchmark_report(comparison, output)
    if markdown is not None:
        write_benchmark_markdown(comparison, markdown)
    show_answers(answers(comparison))
    say(f"wrote {output}")


def _one_name(data: list[str]) -> str | list[str]:
    return data[0] if len(data) == 1 else data


def _refuse_unwritable(output: Path) -> None:
    """Find out before hours of training, not after."""
    fault = _fault_of_output(output)
    if fault:
        raise StorageError(f"the output file must be writable, however: {output}: {fault}; choose another place")


def _fault_of_output(output: Path) -> str:
    if output.is_dir():
        return "it is a folder"
    if not output.parent.is_dir():
        return "its folder is not there"
    return "" if os.access(output.parent, os.W_OK) else "its folder may not be written to"


add_commands(app)


def main() -> None:
    """Run the command line; errors of the library become one line and their exit code."""
    try:
        app()
    except DeepIDEAError as error:
        fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
