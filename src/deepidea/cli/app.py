"""The command line: which commands there are, and what becomes of errors.

Exit codes: 0 done; 1 a fault of the program, or a benchmark with cells that have no figures; 2 a wrong command line;
3 data that breaks a rule; 4 a detector file that cannot be used; 5 a file, download, source, store or sink
that the system refused; 6 an optional dependency missing; 130 interrupted.
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
    alerts,
    benchmark,
    data,
    detect,
    evaluate,
    explain,
    feedback,
    models,
    packets,
    score,
    serve,
    train,
)
from deepidea.cli.terminal import fail, out, say
from deepidea.errors import DeepIDEAError

register_adapters()
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


def _telling(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that is interrupted say so: typer would end it without a word."""

    @functools.wraps(command)
    def told(**given: Any) -> None:
        try:
            command(**given)
        except KeyboardInterrupt as error:
            say(": ".join(["interrupted", *map(str, error.args)]))
            raise typer.Exit(130) from error

    return told


def _group(name: str, told: str, **commands: Callable[..., None]) -> None:
    """Add commands that share their first word."""
    group = typer.Typer(help=told, no_args_is_help=True)
    for word, command in commands.items():
        group.command(word)(_telling(command))
    app.add_typer(group, name=name)


for _command in (
    serve.serve,
    serve.audit,
    train.train,
    evaluate.evaluate,
    score.score,
    packets.meter,
    detect.sources,
    detect.detect,
    detect.publish,
    detect.calibrate,
    alerts.incidents,
    alerts.alerts,
    explain.explain,
    alerts.drift,
    models.inspect,
    packets.simulate,
):
    app.command()(_telling(_command))

_group(
    "data",
    "Public data sets: register, fetch, describe.",
    list=data.data_list,
    add=data.data_add,
    get=data.data_get,
    describe=data.data_describe,
)
_group(
    "benchmark",
    "Systems against each other: measure, report.",
    run=benchmark.benchmark_run,
    tau=benchmark.benchmark_tau,
    report=benchmark.benchmark_report,
)
_group(
    "allow",
    "Allow rules: what is known and wanted, so that it raises no alert.",
    list=alerts.allow_list,
    add=alerts.allow_add,
    remove=alerts.allow_remove,
)
_group(
    "store",
    "The store of alerts: how it stands, what leaves it.",
    status=alerts.store_status,
    purge=alerts.store_purge,
)
_group(
    "tokens",
    "Who may use the page and its API.",
    add=serve.tokens_add,
    list=serve.tokens_list,
    revoke=serve.tokens_revoke,
)
_group(
    "feedback",
    "What analysts say of alerts and incidents: judge, list, export.",
    list=feedback.feedback_list,
    add=feedback.feedback_add,
    export=feedback.feedback_export,
)
_group(
    "models",
    "Models of the store: compare, activate, roll back.",
    add=models.models_add,
    list=models.models_list,
    show=models.models_show,
    compare=models.models_compare,
    activate=models.models_activate,
    rollback=models.models_rollback,
    history=models.models_history,
    remove=models.models_remove,
)


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
