"""The command line: its commands, and what becomes of errors.

Exit codes: 0 done; 1 a fault of the program, or a benchmark with runs that have no result; 2 a wrong command line;
3 invalid data; 4 an unusable detector file; 5 a file, download, source, store or sink that cannot be used; 6 a missing
optional dependency; 130 interrupted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import deepidea
from deepidea.adapters.registration import register_adapters
from deepidea.cli import (
    adapt,
    allow,
    behaviours,
    benchmark,
    calibrate,
    data,
    detect,
    drift,
    evaluate,
    explain,
    feedback,
    incidents,
    meter,
    model_card,
    models,
    publish,
    score,
    serve,
    simulate,
    store,
    tokens,
    train,
)
from deepidea.cli.terminal import fail, out, say
from deepidea.errors import DeepIDEAError

Command = Callable[..., None]

register_adapters()  # kafka:// and redis://, which rooms below do not know of
app = typer.Typer(
    help="A trainable network intrusion detector: labelled flows in, a detector out, verdicts on new flows.",
    epilog=__doc__.split("\n\n")[1].replace("\n", " "),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"deepidea {deepidea.__version__}")
        raise typer.Exit


def _reports_interrupt(command: Command) -> Command:
    """Let a command that Ctrl-C ends print so: typer would end it without a word."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
        except KeyboardInterrupt as error:
            say(": ".join(["interrupted", *map(str, error.args)]))
            raise typer.Exit(130) from error

    return run


def _add(panel: str, *commands: tuple[Command, str]) -> None:
    """Add commands to a panel of the help page, each with an example."""
    for command, example in commands:
        app.command(epilog=f"Example: {example}", rich_help_panel=panel)(_reports_interrupt(command))


def _add_group(panel: str, name: str, help: str, **commands: tuple[Command, str]) -> None:
    """Add commands that share their first word, each with an example of what follows it."""
    group = typer.Typer(help=help, no_args_is_help=True)
    for word, (command, example) in commands.items():
        line = f"Example: deepidea {name} {word} {example}".rstrip()
        group.command(word, epilog=line)(_reports_interrupt(command))
    app.add_typer(group, name=name, rich_help_panel=panel)


# The order of commands is that of the help page and of docs/cli.md.
_add(
    "Train and evaluate",
    (train.train, "deepidea train kdd99 -o kdd.idea"),
    (evaluate.evaluate, "deepidea evaluate kdd.idea kdd99 --report kdd.html"),
    (score.score, "deepidea score kdd.idea flows/*.parquet -o verdicts.parquet"),
    (model_card.inspect, "deepidea inspect kdd.idea"),
)
_add_group(
    "Train and evaluate",
    "data",
    "Public data sets.",
    list=(data.data_list, ""),
    add=(data.data_add, "kdd99 ~/kdd"),
    get=(data.data_get, "kdd99"),
    describe=(data.data_describe, "kdd99"),
)
_add_group(
    "Train and evaluate",
    "benchmark",
    "Measure and compare systems.",
    run=(benchmark.benchmark_run, "--data kdd99 --models deepidea --seeds 3"),
    tau=(benchmark.benchmark_tau, "--data kdd99"),
    report=(benchmark.benchmark_report, "benchmark -o report.html"),
)
_add(
    "Detect",
    (detect.detect, "deepidea detect eth0 --model site.idea --sink file:///var/log/alerts.json"),
    (detect.sources, "deepidea sources"),
    (behaviours.behaviours, "deepidea behaviours"),
    (calibrate.calibrate, "deepidea calibrate kdd.idea quiet.pcap -o site.idea"),
    (adapt.adapt, "deepidea adapt kdd.idea quiet.pcap -o site.idea"),
    (publish.publish, "deepidea publish conn.log 'redis://localhost/0?stream=flows' --follow"),
    (meter.meter, "deepidea meter capture.pcap -o flows.parquet"),
    (simulate.simulate, "deepidea simulate -o lab.pcap --labels lab.csv"),
)
_add(
    "Investigate alerts",
    (serve.serve, "deepidea serve"),
    (incidents.incidents, "deepidea incidents --severity 2"),
    (incidents.alerts, "deepidea alerts 3f2a --format eve"),
    (explain.explain, "deepidea explain site.idea 7c01"),
    (drift.drift, "deepidea drift"),
)
_add_group(
    "Investigate alerts",
    "feedback",
    "Analysts' labels of alerts and incidents.",
    list=(feedback.feedback_list, ""),
    add=(feedback.feedback_add, "3f2a --verdict false_positive --note 'our backup'"),
    export=(feedback.feedback_export, "-o labelled.parquet"),
)
_add_group(
    "Investigate alerts",
    "allow",
    "Rules that suppress alerts of known, wanted traffic.",
    list=(allow.allow_list, ""),
    add=(allow.allow_add, "--host 10.0.0.5 --class port_scan --note 'our scanner'"),
    remove=(allow.allow_remove, "allow-caf22c7d1cdf"),
)
_add_group(
    "Operate",
    "models",
    "Detectors kept in a store, and which of them is active.",
    add=(models.models_add, "site.idea"),
    list=(models.models_list, ""),
    show=(models.models_show, "1a2b"),
    compare=(models.models_compare, "1a2b 3c4d flows.parquet --label class --benign benign"),
    activate=(models.models_activate, "3c4d"),
    rollback=(models.models_rollback, ""),
    history=(models.models_history, ""),
    remove=(models.models_remove, "1a2b"),
)
_add_group(
    "Operate",
    "store",
    "Counters and retention of a store.",
    status=(store.store_status, ""),
    purge=(store.store_purge, "--days 90"),
)
_add_group(
    "Operate",
    "tokens",
    "Access to the web page and its API.",
    add=(tokens.tokens_add, "alice --role analyst"),
    list=(tokens.tokens_list, ""),
    revoke=(tokens.tokens_revoke, "1a2b3c4d5e6f"),
)
_add("Operate", (tokens.audit, "deepidea audit --limit 20"))


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
